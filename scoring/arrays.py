"""Arrays as sources: ``.npy`` and ``.npz`` with uint8 images, streamed instead of loaded whole.

Layout legend: N rows, H height, W width, C channels (1 grey, 3 RGB).
"""

import math
import os
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from tokenize import TokenError
from typing import BinaryIO, cast

import numpy as np

from models.image import MAX_PIXELS
from scoring.archives import check_zip, check_zip_method
from scoring.files import FileSource, check_rows, open_binary
from scoring.rows import (
    CHUNK_BYTES,
    CHUNK_ROWS,
    Chunk,
    Row,
    ScoreError,
    Truth,
    chunked,
    label_of,
)

_IMAGES = ("images", "image", "x", "x_test", "arr_0")
_LABELS = ("labels", "label", "y", "y_test")
# Chunks of small rows are larger than others: there is no decoding to share among cores, and the
# run of a small network takes less time than the work around it.
_ARRAY_ROWS = 256
_ARRAY_BYTES = 1 << 20
# numpy reads a header whole before it finds it too long; this is its own limit.
_HEADER_BYTES = 10_000
# Longest label, in bytes: 256 characters.
_LABEL_BYTES = 1024
# deflate cannot expand more: 258 bytes in 2 bits.
_EXPANSION = 1032
# What reading a damaged array or zip raises.
_DAMAGED = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    EOFError,
    MemoryError,
    OSError,
    OverflowError,
    RuntimeError,
    SyntaxError,
    TokenError,
    TypeError,
    ValueError,
)
_READERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


@dataclass(frozen=True, slots=True)
class _Header:
    shape: tuple[int, ...]
    is_fortran: bool
    dtype: np.dtype[np.generic]


class ArraySource(FileSource):
    """The images of one array, uint8 [N, H, W] or [N, H, W, C].

    In an ``.npz`` they are the array named images, image, x, x_test or arr_0, or the only array
    besides labels. An array named labels, label, y or y_test, [N] or [N, 1] of numbers or text, has
    the true labels.

    Args:
        path: A local path or a URL.

    Raises:
        ScoreError: There is no such array.
    """

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self._member = self._labels = ""
        try:
            if path.lower().endswith(".npz"):
                with open_binary(path) as file, zipfile.ZipFile(file) as archive:
                    check_zip(archive, file.seek(0, os.SEEK_END))
                    self._member, self._labels = _choose(archive, path)
            with ExitStack() as stack:
                file, size_bytes, stored_bytes = self._open(stack, self._member)
                self.shape = _check(_read_header(file, path), path)
                rows = (size_bytes - file.tell()) // math.prod(self.shape[1:])
                check_rows(path, self.shape[0], stored_bytes)
                if self.shape[0] > rows:
                    raise ScoreError(
                        f"{path}: expected {self.shape[0]} rows, as its header says, got {rows}"
                    )
            self._truths()  # damage is found here, not in the midst of a job
        except _DAMAGED as error:
            if isinstance(error, ScoreError):
                raise
            raise ScoreError(f"{path}: expected an array of numpy, got: {error}") from None

    def count(self) -> int:
        """Return N."""
        return self.shape[0]

    def chunks(self, start: int = 0, stop: int | None = None) -> Iterator[Chunk]:
        """Stream rows ``start`` to ``stop``; damaged rows have an error."""
        stop = self.shape[0] if stop is None else min(stop, self.shape[0])
        row_bytes = math.prod(self.shape[1:])
        usual = min(CHUNK_ROWS, CHUNK_BYTES // row_bytes)
        step = max(1, usual, min(_ARRAY_ROWS, _ARRAY_BYTES // row_bytes))
        truths = self._truths()
        with ExitStack() as stack:
            file, *_ = self._open(stack, self._member)
            _read_header(file, self.name)
            file.seek(file.tell() + start * row_bytes)
            for first in range(start, stop, step):
                rows = min(step, stop - first)
                try:
                    content = file.read(rows * row_bytes)
                except (zipfile.BadZipFile, zlib.error, EOFError):
                    content = b""
                if len(content) < rows * row_bytes:
                    yield from self._damaged(first, stop)
                    return
                images = np.frombuffer(content, np.uint8).reshape(rows, *self.shape[1:])
                ids = [f"{self.name}#{i}" for i in range(first, first + rows)]
                yield Chunk(ids, images, truths[first : first + rows], is_declared=True)

    def _open(self, stack: ExitStack, member: str) -> tuple[BinaryIO, int, int]:
        """Return the file of an array, its size, and the bytes that it takes in the zip."""
        file = stack.enter_context(open_binary(self._path))
        size_bytes = file.seek(0, os.SEEK_END)
        file.seek(0)
        if not member:
            return file, size_bytes, size_bytes
        archive = stack.enter_context(zipfile.ZipFile(file))
        info = archive.getinfo(member)
        check_zip_method(info)
        opened = cast(BinaryIO, stack.enter_context(archive.open(member)))
        return opened, min(info.file_size, _EXPANSION * info.compress_size), info.compress_size

    def _damaged(self, start: int, stop: int) -> Iterator[Chunk]:
        damage = ScoreError(f"array: expected {self.shape[0]} whole rows, got damage in this one")
        return chunked(Row(f"{self.name}#{i}", damage) for i in range(start, stop))

    def _check_labels(self, header: _Header) -> None:
        rows = self.shape[0]
        is_one_each = header.shape in ((rows,), (rows, 1))  # Keras keeps labels as [N, 1]
        if not is_one_each or header.dtype.kind not in "biufUS":
            raise ScoreError(
                f"{self.name}: expected labels [{rows}] of whole numbers or text, "
                f"got {header.dtype} {list(header.shape)}"
            )
        if header.dtype.itemsize > _LABEL_BYTES:
            raise ScoreError(
                f"{self.name}: expected labels of at most {_LABEL_BYTES} bytes, "
                f"got {header.dtype.itemsize}"
            )

    def _truths(self) -> list[Truth]:
        if not self._labels:
            return []
        try:
            with ExitStack() as stack:
                file, *_ = self._open(stack, self._labels)
                header = _read_header(file, f"{self.name}, {self._labels}")
                self._check_labels(header)
                size_bytes = header.shape[0] * header.dtype.itemsize
                content = file.read(size_bytes)
                if len(content) < size_bytes:
                    raise EOFError(f"{len(content)} bytes instead of {size_bytes}")
            return [label_of(label) for label in np.frombuffer(content, header.dtype).tolist()]
        except _DAMAGED as error:
            if isinstance(error, ScoreError):
                raise
            raise ScoreError(f"{self.name}: expected an array of labels, got: {error}") from None


class _Short:
    """A file that does not hand out more at once than a header may have."""

    def __init__(self, file: BinaryIO, path: str) -> None:
        self._file = file
        self._path = path

    def read(self, size: int) -> bytes:
        if size > _HEADER_BYTES:
            raise ScoreError(
                f"{self._path}: expected a header of at most {_HEADER_BYTES} bytes, got {size}"
            )
        return self._file.read(size)


def _choose(archive: zipfile.ZipFile, path: str) -> tuple[str, str]:
    """Return the members with the images and the labels, "" if there are no labels."""
    names = [name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")]
    images = [name for name in _IMAGES if name in names]
    if not images:
        images = [name for name in names if name not in _LABELS]
        if len(images) != 1:
            raise ScoreError(
                f"{path}: expected an array called {', '.join(_IMAGES)}, "
                f"got {', '.join(names) or 'none'}"
            )
    labels = [f"{name}.npy" for name in _LABELS if name in names]
    return f"{images[0]}.npy", labels[0] if labels else ""


def _read_header(file: BinaryIO, path: str) -> _Header:
    short = cast(BinaryIO, _Short(file, path))
    got = "a file that does not begin as one"
    try:
        version = np.lib.format.read_magic(short)
        if version not in _READERS:
            raise ScoreError(f"{path}: expected version 1.0 or 2.0 of the format, got {version}")
        got = "a damaged header"
        return _Header(*_READERS[version](short))
    except ScoreError:
        raise
    except _DAMAGED as error:  # numpy's own texts name objects of Python's parser
        if str(error).startswith("EOF"):
            got = "a file that ends within its header"
        raise ScoreError(
            f"{path}: expected an array of numpy, got {got}; write it with numpy.save or savez"
        ) from None


def _check(header: _Header, path: str) -> tuple[int, ...]:
    shape, where = header.shape, f"{path}: expected UINT8 [N, H, W] or [N, H, W, C], "
    if header.dtype != np.uint8:
        raise ScoreError(f"{where}got {header.dtype}; scale to 0-255 and use .astype('uint8')")
    if len(shape) not in (3, 4) or (len(shape) == 4 and shape[3] not in (1, 3)) or 0 in shape[1:]:
        hint = (
            "; use .transpose(0, 2, 3, 1).copy()" if len(shape) == 4 and shape[1] in (1, 3) else ""
        )
        raise ScoreError(f"{where}got {list(shape)}{hint}")
    if header.is_fortran:
        raise ScoreError(f"{where}got Fortran order; use np.ascontiguousarray")
    if min(shape) < 0 or shape[1] * shape[2] > MAX_PIXELS:
        raise ScoreError(
            f"{path}: expected images of at most {MAX_PIXELS} pixels, got {list(shape)}"
        )
    return shape
