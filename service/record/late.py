"""Truths about answers that are forgotten: found in the recording, where they stay with it.

What a recording's rows are known to be is kept beside them, so every truth is noted there, too.
"""

import time
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from service.record.index import Documents, Index
from service.record.reading import RecordingError, is_recording
from service.record.truths import Truths, add_truths, keep_truths, read_truths
from service.record.writer import Bounds


class Late:
    """The recording, as feedback uses it; blocks on the disk.

    Args:
        bounds: Of the recording; there may be none.
    """

    def __init__(self, bounds: Bounds) -> None:
        self._bounds = bounds
        self._folder = bounds.folder
        self._index = Index(bounds.folder)

    def find(self, ids: Collection[str]) -> Documents:
        """Return what was answered to some requests, by id and row, as a recording has it."""
        if not ids or not is_recording(self._folder):
            return {}
        try:
            return self._index.find(ids)
        except RecordingError:  # it was deleted meanwhile
            return {}

    def truths(self, ids: Collection[str]) -> Truths:
        """Return the truths that the recording has of some requests."""
        return read_truths(self._folder, ids) if is_recording(self._folder) else {}

    def note(self, lines: Iterable[Mapping[str, Any]]) -> None:
        """Keep truths with the recording, if there is one.

        Raises:
            OSError: The disk is full, or the folder cannot be written.
        """
        lines = list(lines)
        if lines and is_recording(self._folder):
            add_truths(self._folder, lines)
            bounds = self._bounds
            keep_truths(self._folder, bounds.truth_bytes, bounds.oldest_s(time.time()))
