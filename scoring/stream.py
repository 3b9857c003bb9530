"""Rows that go to standard output as they come: what a job writes to in place of its parts.

Knows nothing about formats. Nothing is kept, so no job can go on from here.
"""

import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

from scoring.rows import ScoreError
from scoring.tally import Tally

_COPY_BYTES = 1 << 20


class ReaderLeftError(ScoreError):
    """Nobody reads standard output any more."""


class Stream:
    """The table on standard output; it has what ``Parts`` has.

    Args:
        header: Written first.

    Attributes:
        marks: None: a row whose image kills the process ends the job.
        tally: Counts of the rows that are written.
        position: Where the job is after them.
    """

    marks: Path | None = None

    def __init__(self, header: bytes) -> None:
        self._header = header
        self.tally = Tally()
        self.position = 0, 0

    def __enter__(self) -> "Stream":
        """Write the header."""
        _print(lambda file: file.write(self._header))
        return self

    def __exit__(self, *_: object) -> None:
        """Do nothing: every row was written at once."""

    def add(
        self, write: Callable[[BinaryIO], None], tally: Tally, position: tuple[int, int]
    ) -> None:
        """Write rows.

        Args:
            write: Writes them to the given file.
            tally: Their counts.
            position: Where the job is after them.

        Raises:
            ReaderLeftError: Nobody reads them.
        """
        _print(write)
        self.tally.add(tally)
        self.position = position

    def finish(self, write: Callable[[list[Path], Path], None]) -> None:
        """Do nothing: every row was written at once."""


def print_file(path: Path) -> None:
    """Write a finished table to standard output.

    Raises:
        ReaderLeftError: Nobody reads it.
    """
    with path.open("rb") as table:
        _print(lambda file: shutil.copyfileobj(table, file, _COPY_BYTES))


def _print(write: Callable[[BinaryIO], Any]) -> None:
    try:
        write(sys.stdout.buffer)
        sys.stdout.buffer.flush()
    except BrokenPipeError:
        # Python flushes again at the end, and would complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        raise ReaderLeftError(
            "standard output: expected a reader of all rows, got one that left"
        ) from None
