"""Local files and URLs: reading, opening and dating them, and a source of one row for each file.

Knows nothing about images.
"""

import hashlib
import os
import posixpath
import stat
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Self

from models.image import MAX_PIXELS
from scoring.rows import Chunk, Image, Pin, Row, ScoreError, chunked
from scoring.urls import Fetches, dates, is_http, is_url, open_url

# An uncompressed BMP of the largest image, at 32 bits for each pixel: 128 MiB. A longer file cannot
# be decoded, and several threads read at once, so the limit also bounds memory.
MAX_FILE_BYTES = 4 * MAX_PIXELS

# A table or array of fewer rows than this is never refused for their number.
_FREE_ROWS = 1 << 20


@dataclass(frozen=True, slots=True)
class FileRow:
    """One file to score.

    Attributes:
        path: A path below the named source, or a URL.
    """

    path: str

    @property
    def id(self) -> str:
        r"""Return the path as text; bytes that are not UTF-8 are written ``\xNN``."""
        return os.fsencode(self.path).decode("utf-8", "backslashreplace")

    def read(self) -> bytes:
        """Read the whole file.

        Raises:
            ScoreError: It is missing, unreadable, not a regular file, or too long.
        """
        if is_url(self.path):
            fetched = Fetches(check_size).begin(self.path)
            if isinstance(fetched, ScoreError):
                raise fetched
            return fetched.read()
        try:
            # Without O_NONBLOCK, opening a pipe would wait forever for a writer.
            descriptor = os.open(self.path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            try:
                return _read(descriptor)
            finally:
                os.close(descriptor)
        except (OSError, ValueError) as error:  # ValueError: a NUL in a path from a table
            if isinstance(error, ScoreError):
                raise
            reason = getattr(error, "strerror", None) or str(error)
            raise ScoreError(f"file: expected a readable file, got: {reason}") from None


def fetch_ahead(chunk: Chunk, fetches: Fetches) -> None:
    """Begin to fetch the images of a chunk that are behind URLs."""
    if isinstance(chunk.images, list):
        for number, image in enumerate(chunk.images):
            if isinstance(image, FileRow) and is_url(image.path):
                chunk.images[number] = fetches.begin(image.path)


class FileSource:
    """What sources that are one file have in common.

    Args:
        path: A local path or a URL.

    Attributes:
        name: How messages and ids call it.
    """

    def __init__(self, path: str) -> None:
        self.name = FileRow(path).id
        self._path = path

    def cut(self, start: int, stop: int) -> Self:  # noqa: ARG002 - a Source's
        """Return itself."""
        return self

    def kinds(self) -> dict[str, str]:
        """Return the kept columns that it has, with their types: none."""
        return {}

    def pin(self) -> Pin:
        """Return a digest of the file's path, size and date, without those of its images."""
        return pin_files(self.name, [self._path])


class FilesSource:
    """One row for each file; the name of its folder may be its true label.

    Args:
        paths: In order.
        first: Row number of the first path.
        errors: Path to the reason why it is not read.
    """

    def __init__(
        self, paths: Iterable[str], first: int = 0, errors: Mapping[str, str] | None = None
    ) -> None:
        self.paths = tuple(paths)
        self._first = first
        self._errors = errors or {}

    @property
    def name(self) -> str:
        """Return the first path and the number of others."""
        more = f" and {len(self.paths) - 1} more" if len(self.paths) > 1 else ""
        return f"{FileRow(self.paths[0]).id}{more}"

    def count(self) -> int:
        """Return the number of files."""
        return len(self.paths)

    def chunks(self, start: int = 0, stop: int | None = None) -> Iterator[Chunk]:
        """Stream rows ``start`` to ``stop``; the files are read later, by the decode stage."""
        last = None if stop is None else stop - self._first
        rows = map(FileRow, self.paths[start - self._first : last])
        return chunked(Row(row.id, self._image(row), folder_of(row.path)) for row in rows)

    def cut(self, start: int, stop: int) -> "FilesSource":
        """Return a source of these files alone."""
        paths = self.paths[start - self._first : stop - self._first]
        errors = {path: self._errors[path] for path in paths if path in self._errors}
        return FilesSource(paths, start, errors)

    def kinds(self) -> dict[str, str]:
        """Return an empty dict: a file has no columns."""
        return {}

    def pin(self) -> Pin:
        """Return a digest of all paths, sizes and dates."""
        return pin_files(self.name, self.paths, are_images=True)

    def _image(self, row: FileRow) -> Image:
        error = self._errors.get(row.path)
        return ScoreError(error) if error else row


def folder_of(path: str) -> str:
    """Return the name of a file's folder; pathlib takes five times as long."""
    return path.rpartition("/")[0].rpartition("/")[2]


def open_binary(path: str) -> BinaryIO:
    """Open a local file or a URL for reading.

    Raises:
        ScoreError: It cannot be opened.
    """
    if is_url(path):
        return open_url(path)
    try:
        # Without O_NONBLOCK, opening a pipe would wait forever for a writer.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        reason = getattr(error, "strerror", None) or str(error)
        raise ScoreError(f"{path}: expected a readable file, got: {reason}") from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise ScoreError(f"{path}: expected a regular file, got a folder, pipe or device")
    return os.fdopen(descriptor, "rb")


def beside(table: str, path: str) -> str:
    """Return a path from a table: relative ones begin at the folder of the table."""
    if is_url(path) or path.startswith("/"):
        return path
    folder = posixpath.dirname(table)
    return posixpath.join(folder, path) if folder else path


def pin_files(name: str, paths: Iterable[str], *, are_images: bool = False) -> Pin:
    """Return a digest of paths, sizes and dates.

    Args:
        name: Of the source.
        paths: Its files.
        are_images: Whether they are many; those of a web server are then not asked for their dates.
    """
    all_paths = list(paths)
    remote = [path for path in all_paths if is_url(path) and not (are_images and is_http(path))]
    known = dict(zip(remote, dates(remote), strict=True))
    digest = hashlib.sha256()
    for path in all_paths:
        date = known.get(path, "") if is_url(path) else _date(path)
        digest.update(os.fsencode(path) + b"\0" + date.encode() + b"\n")
    return {"source": name, "files": len(all_paths), "sha256": digest.hexdigest()}


def check_size(size_bytes: int) -> None:
    """Raise ScoreError if a file is longer than an image of usual limits can be."""
    if size_bytes > MAX_FILE_BYTES:
        raise ScoreError(
            f"file: expected at most {MAX_FILE_BYTES} bytes, got {size_bytes}; "
            "save it compressed, such as PNG or JPEG"
        )


def check_rows(path: str, rows: int, size_bytes: int) -> None:
    """Refuse a header that announces more rows than its file can have, before they fill the disk.

    Args:
        path: The file, for the message.
        rows: The rows that it announces.
        size_bytes: What it takes on the disk.

    Raises:
        ScoreError: There is less than a byte for each row, and they are more than a million.
    """
    if rows > max(_FREE_ROWS, size_bytes):
        raise ScoreError(
            f"{path}: expected {rows} rows, as its header says, got a file of {size_bytes} bytes"
        )


def _read(descriptor: int) -> bytes:
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        raise ScoreError("file: expected a regular file, got a folder, pipe or device")
    size_bytes = status.st_size
    check_size(size_bytes)
    with os.fdopen(descriptor, "rb", closefd=False) as file:
        content = file.read(size_bytes + 1)
    if len(content) != size_bytes:
        raise ScoreError("file: expected the same size while it is read, got another one")
    return content


def _date(path: str) -> str:
    try:
        status = Path(path).stat()
    except OSError as error:
        return error.strerror or "unreadable"
    return f"{status.st_size} {status.st_mtime_ns}"
