"""The first stage of scoring: what was named on the command line becomes rows to read, in order.

A row is listed here and read later, by a thread of the decode stage; reading is where it may turn
out to be no file at all. Knows nothing about images.
"""

import glob
import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from models.image import MAX_PIXELS

# An uncompressed BMP of the largest image, at 32 bits a pixel: 128 MiB. What is longer is no image
# that could be decoded, and several threads read at once.
MAX_FILE_BYTES = 4 * MAX_PIXELS

_WILDCARDS = frozenset("*?[")


class ScoreError(ValueError):
    """A source or a sink is not what it should be; the message says where, expected, got."""


@dataclass(frozen=True, slots=True)
class FileRow:
    """One file to score.

    Attributes:
        path: As found, under the source that was named.
    """

    path: str

    @property
    def id(self) -> str:
        r"""Return the path as text; bytes of a name that are no UTF-8 are written ``\xNN``."""
        return os.fsencode(self.path).decode("utf-8", "backslashreplace")

    def read(self) -> bytes:
        """Read the whole file.

        Raises:
            ScoreError: It is missing, unreadable, not a regular file, or too long.
        """
        try:
            # Without O_NONBLOCK, opening a pipe would wait for a writer for ever.
            descriptor = os.open(self.path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            try:
                return _read(descriptor)
            finally:
                os.close(descriptor)
        except OSError as error:
            raise ScoreError(f"file: expected a readable file, got: {error.strerror}") from None


def find_rows(sources: Sequence[str], skip: Path | None = None) -> list[FileRow]:
    """List every file of the sources: one row a file, in the order of the sources.

    A folder gives all its files, recursively, sorted by path, whatever their names end in, but not
    those that start with a dot (nor folders that do). A pattern gives its matches, sorted.

    Args:
        sources: Files, folders and patterns (``*``, ``?``, ``[…]``, ``**``), in any mix.
        skip: A file that is never listed, such as the one that is about to be written.

    Raises:
        ScoreError: A source does not exist or matches nothing, or there is no file in any.
    """
    paths = [path for source in sources for path in _expand(source)]
    if skip is not None and skip.exists():
        paths = [path for path in paths if not _is_same_file(path, skip)]
    if not paths:
        named = ", ".join(sources) or "none"
        raise ScoreError(f"sources: expected at least one file, got {named} without any")
    return [FileRow(path) for path in paths]


def _read(descriptor: int) -> bytes:
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        raise ScoreError("file: expected a regular file, got a folder, pipe or device")
    if status.st_size > MAX_FILE_BYTES:
        raise ScoreError(f"file: expected at most {MAX_FILE_BYTES} bytes, got {status.st_size}")
    with os.fdopen(descriptor, "rb", closefd=False) as file:
        return file.read()


def _expand(source: str) -> Iterator[str]:
    if Path(source).is_dir():
        yield from _walk(source, ())
    elif os.path.lexists(source):
        yield source
    else:
        # Path.glob takes no absolute pattern.
        found = glob.glob(source, recursive=True)  # noqa: PTH207
        matches = sorted(found) if _WILDCARDS & set(source) else []
        if not matches:
            raise ScoreError(
                f'source "{source}": expected a file, a folder or a pattern that matches, '
                "got nothing there; check the path"
            )
        for match in matches:
            # A pattern with ** matches folders and what is in them: each file once.
            if not Path(match).is_dir():
                yield match
            elif "**" not in source:
                yield from _walk(match, ())


def _walk(folder: str, above: tuple[tuple[int, int], ...]) -> Iterator[str]:
    """Yield the files of a folder, sorted by path; a link to a folder above is not followed."""
    try:
        status = Path(folder).stat()
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        raise ScoreError(f"{folder}: expected a readable folder, got: {error.strerror}") from None
    here = status.st_dev, status.st_ino
    if here in above:
        return
    for entry in entries:
        if entry.name.startswith("."):
            continue
        if os.path.isdir(entry.path):  # noqa: PTH112 - unlike entry.is_dir, never raises
            yield from _walk(entry.path, (*above, here))
        else:
            yield entry.path


def _is_same_file(path: str, other: Path) -> bool:
    try:
        return Path(path).samefile(other)
    except OSError:
        return False
