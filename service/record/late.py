"""Truths about answers that are forgotten: found in the recording, where they stay with it.

What a recording's rows are known to be is kept beside them, so every truth is noted there, too.
"""

from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from service.record.reading import RecordingError, find, is_recording
from service.record.truths import Truths, add_truths, read_truths

Documents = Mapping[tuple[str, int], dict[str, Any]]


class Late:
    """The recording, as feedback uses it; blocks on the disk.

    Args:
        folder: Of the recording; there may be none.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def find(self, ids: Collection[str]) -> Documents:
        """Return what was answered to some requests, by id and row, as a recording has it."""
        if not ids or not is_recording(self._folder):
            return {}
        try:
            return find(self._folder, ids)
        except RecordingError:  # it was deleted meanwhile
            return {}

    def truths(self) -> Truths:
        """Return the truths that the recording has."""
        return read_truths(self._folder) if is_recording(self._folder) else {}

    def note(self, lines: Iterable[Mapping[str, Any]]) -> None:
        """Keep truths with the recording, if there is one.

        Raises:
            OSError: The disk is full, or the folder cannot be written.
        """
        if is_recording(self._folder):
            add_truths(self._folder, lines)
