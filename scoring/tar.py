"""Read a tar forward in bounded memory, with or without compression.

``tarfile`` parses the blocks of headers. It does not read the archive: it holds whatever a header
announces (2 GiB of names in a gzip of 2 MB), and takes a missing end for the end. Of all members,
regular files are returned; links, devices, pipes and folders are passed over.
"""

import bz2
import io
import lzma
import os
import re
import tarfile
import zlib
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO, NamedTuple, cast

from models.installation import how_to_add

try:  # the `score` extra; only zstd needs it
    import pyarrow
except ImportError:
    pyarrow = None

# Longest extended header, in bytes; writers put names and attributes there, some KiB. More than a
# few of them before one file are an attack on the reader, too.
_EXTENDED_BYTES = 1 << 20
_EXTENDED_HEADERS = 8
# Linux's PATH_MAX: no file that was ever archived has a longer name.
_NAME_BYTES = 4096
# What xz -9 needs is 65 MiB; a header may ask for 4 GiB.
_LZMA_BYTES = 128 << 20
# gzip cannot expand more than 1,032 times, bzip2 can a million times: 1 MB would take hours.
_EXPANSION = 1000
_FREE_BYTES = 256 << 20
_PIECE_BYTES = 1 << 16
# Labels at the end of a tar take two blocks each, more with extended headers.
_TAIL_BYTES = 1 << 16
_LARGE_PIECE_BYTES = 1 << 20

# RFC 8878, 3.1.1 and 3.1.2: a frame, and one that is passed over, as parallel writers put first.
_ZSTD = b"\x28\xb5\x2f\xfd"
_SKIPPABLE = re.compile(rb"[\x50-\x5f]\x2a\x4d\x18")

_BLOCK = tarfile.BLOCKSIZE
_PAX = (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE)
_LONG_NAME = tarfile.GNUTYPE_LONGNAME
_EXTENDED = (*_PAX, tarfile.XGLTYPE, _LONG_NAME, tarfile.GNUTYPE_LONGLINK)
# Subclasses that are missing in typeshed.
_CUT = (tarfile.TruncatedHeaderError, tarfile.EmptyHeaderError)  # type: ignore[attr-defined]
_END = tarfile.EOFHeaderError  # type: ignore[attr-defined]
_INVALID = tarfile.InvalidHeaderError  # type: ignore[attr-defined]


class TarFile(NamedTuple):
    """A regular file of an archive.

    Attributes:
        name: As stored; bytes that are not UTF-8 are surrogates.
        size: Its bytes.
        is_sparse: Whether holes are left out of its content.
        read: Returns the content; only before the next file is asked for, and once.
    """

    name: str
    size: int
    is_sparse: bool
    read: Callable[[], bytes]


def tar_files(file: BinaryIO) -> Iterator[TarFile]:
    """Yield the regular files of a tar; reads it once, without seeking.

    Args:
        file: At its beginning: a tar, or one in gzip, bzip2, xz or zstd.

    Raises:
        ReadError: It is damaged, ends too early, expands without end or has a huge header.
    """
    return _files(_Stream(file))


def _files(stream: "_Stream") -> Iterator[TarFile]:
    while (info := _next_file(stream)) is not None:
        end = stream.position + _padded(info.size)
        if info.isreg():
            size = info.size
            yield TarFile(info.name, size, _is_sparse(info), lambda size=size: stream.read(size))  # type: ignore[misc]
        if info.isreg() or info.type not in tarfile.SUPPORTED_TYPES:
            stream.skip(end - stream.position)


def small_files_at_end(file: BinaryIO, ending: str, most_bytes: int) -> Iterator[tuple[str, bytes]]:
    """Yield the small files with an ending of a plain tar that ends with such files.

    Other files are passed over without being read. Nothing is yielded of another tar, nor behind
    damage.

    Args:
        file: At its beginning; can be sought in.
        ending: Of their names, in lower case.
        most_bytes: Most bytes of one.
    """
    size_bytes = file.seek(0, os.SEEK_END)
    file.seek(max(0, (size_bytes - _TAIL_BYTES) // _BLOCK * _BLOCK))
    if not any(name.lower().endswith(ending.encode()) for name in _names(file.read())):
        return
    file.seek(0)
    if _decompressor(file.read(_PIECE_BYTES)) is not None:
        return
    file.seek(0)
    try:
        for each in _files(_Stream(file, is_sought=True)):
            if each.name.lower().endswith(ending) and each.size <= most_bytes:
                yield each.name, each.read()
    except tarfile.TarError:
        return


def _names(blocks: bytes) -> Iterator[bytes]:
    """Yield the names in the blocks that are headers."""
    for begin in range(0, len(blocks), _BLOCK):
        if blocks[begin + 257 : begin + 262] == b"ustar":
            yield blocks[begin : begin + 100].partition(b"\0")[0]


def _next_file(stream: "_Stream") -> tarfile.TarInfo | None:
    """Return the header of the next member with what its extended headers say; None at the end."""
    name = b""
    records: dict[bytes, bytes] = {}
    for _ in range(_EXTENDED_HEADERS + 1):
        block = stream.block()
        try:
            info = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        except _END:
            return None
        except _CUT:
            raise tarfile.ReadError("the file ends before the archive's end") from None
        except _INVALID as error:
            raise tarfile.ReadError(f"a damaged header ({error})") from None
        if info.size < 0:
            raise tarfile.ReadError(f"a damaged header (a size of {info.size})")
        if info.type not in _EXTENDED:
            _apply(info, name, records)
            _skip_map(stream, info, block)
            return info
        if info.size > _EXTENDED_BYTES:
            raise tarfile.ReadError(
                f"expected a header of at most {_EXTENDED_BYTES} bytes, got {info.size}"
            )
        content = stream.read(_padded(info.size))[: info.size]
        if info.type == _LONG_NAME:
            name = content.partition(b"\0")[0]
        elif info.type in _PAX:
            records |= _pax_records(content)
    raise tarfile.ReadError(f"expected at most {_EXTENDED_HEADERS} headers of one file, got more")


def _apply(info: tarfile.TarInfo, name: bytes, records: dict[bytes, bytes]) -> None:
    """Give a member the name and size of its extended headers."""
    name = records.get(b"GNU.sparse.name", records.get(b"path", name))
    if len(name) > _NAME_BYTES:
        raise tarfile.ReadError(f"expected a name of at most {_NAME_BYTES} bytes, got {len(name)}")
    if name:
        info.name = name.decode("utf-8", "surrogateescape").rstrip("/")
    size = records.get(b"size")
    if size is not None:
        if not size.isdigit() or len(size) > 18:
            raise tarfile.ReadError("a damaged header (a size that is no number)")
        info.size = int(size)
    info.pax_headers = {key.decode("utf-8", "replace"): "" for key in records}


def _pax_records(content: bytes) -> dict[bytes, bytes]:
    r"""Return the records that matter here; each is ``LENGTH KEY=VALUE\n``."""
    records = {}
    position = 0
    while position < len(content) and content[position]:
        space = content.find(b" ", position, position + 20)
        digits = content[position:space] if space > 0 else b""
        end = position + int(digits) if digits.isdigit() else 0
        if not position < space < end <= len(content):
            raise tarfile.ReadError("a damaged header (a record of no length)")
        key, _, value = content[space + 1 : end - 1].partition(b"=")
        if key in (b"path", b"size") or key.startswith(b"GNU.sparse."):
            records[key] = value
        position = end
    return records


def _skip_map(stream: "_Stream", info: tarfile.TarInfo, block: bytes) -> None:
    """Pass over the further blocks of an old sparse file's map."""
    is_extended = info.type == tarfile.GNUTYPE_SPARSE and block[482]
    while is_extended:
        is_extended = stream.read(_BLOCK)[504]


def _is_sparse(info: tarfile.TarInfo) -> bool:
    return info.type == tarfile.GNUTYPE_SPARSE or any(
        key.startswith("GNU.sparse.") for key in info.pax_headers
    )


def _padded(size: int) -> int:
    return -(-size // _BLOCK) * _BLOCK


class _Stream:
    """The expanded bytes of a file, and how many of them were read.

    Args:
        file: At its beginning.
        is_sought: Whether it is not compressed and is sought in instead of being read whole.
    """

    def __init__(self, file: BinaryIO, *, is_sought: bool = False) -> None:
        self._bytes = file if is_sought else io.BufferedReader(_Expanded(file), _PIECE_BYTES)
        self._is_sought = is_sought
        self.position = 0

    def block(self) -> bytes:
        """Return the next block, shorter or empty at the end."""
        block = self._bytes.read(_BLOCK)
        self.position += len(block)
        return block

    def read(self, size: int) -> bytes:
        """Return the next ``size`` bytes; raise ReadError if there are fewer."""
        content = self._bytes.read(size)
        self.position += len(content)
        if len(content) < size:
            raise tarfile.ReadError("unexpected end of data")
        return content

    def skip(self, size: int) -> None:
        """Pass over the next ``size`` bytes."""
        if self._is_sought:
            self.position += size
            self._bytes.seek(self.position)
            return
        while size:
            size -= len(self.read(min(size, _LARGE_PIECE_BYTES)))


class _Gzip:
    """zlib's decompressor for gzip, with the methods of those of bz2 and lzma."""

    def __init__(self) -> None:
        self._zlib = zlib.decompressobj(16 + zlib.MAX_WBITS)

    @property
    def needs_input(self) -> bool:
        return not self._zlib.unconsumed_tail

    @property
    def eof(self) -> bool:
        return self._zlib.eof

    @property
    def unused_data(self) -> bytes:
        return self._zlib.unused_data

    def decompress(self, data: bytes, most: int) -> bytes:
        return self._zlib.decompress(self._zlib.unconsumed_tail + data, most)


class _Zstd:
    """pyarrow's reader of zstd; it refuses frames that need more than 128 MiB.

    Args:
        first: The first bytes of the file.
        take: Returns further ones, b"" at the end.
    """

    def __init__(self, first: bytes, take: Callable[[], bytes]) -> None:
        if pyarrow is None:
            raise tarfile.ReadError(f"zstd needs pyarrow; {how_to_add('score')}")
        stored = pyarrow.PythonFile(_Taken(first, take), mode="r")
        self._stream = pyarrow.CompressedInputStream(stored, "zstd")

    def read(self, most: int) -> bytes:
        try:
            return cast(bytes, self._stream.read(most))
        except OSError as error:
            reason = str(error).removeprefix("ZSTD decompress failed: ")
            raise tarfile.ReadError(f"invalid compressed data ({reason})") from None


class _Taken(io.RawIOBase):
    """A file's bytes in the pieces in which they are taken, as pyarrow reads them."""

    def __init__(self, first: bytes, take: Callable[[], bytes]) -> None:
        self._waiting = first
        self._take = take

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        piece = self._waiting or self._take()
        self._waiting = piece[size:] if size >= 0 else b""
        return piece[:size] if size >= 0 else piece


class _Expanded(io.RawIOBase):
    """A file's bytes, expanded if it is compressed; never more than ``_EXPANSION`` times as many.

    Args:
        file: At its beginning.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._input = file.read(_PIECE_BYTES)
        self._taken_bytes = len(self._input)
        self._given_bytes = 0
        is_zstd = self._input[:4] == _ZSTD or _SKIPPABLE.match(self._input)
        self._zstd = _Zstd(self._input, self._take) if is_zstd else None
        self._begin: Any = _decompressor(self._input)
        self._engine: Any = self._begin() if self._begin else None

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill a part of the buffer; return 0 at the end."""
        most = min(len(buffer), _LARGE_PIECE_BYTES)
        if self._zstd is not None:
            piece = self._counted(self._zstd.read(most))
        else:
            piece = self._counted(self._expand(most)) if self._begin else self._plain(most)
        buffer[: len(piece)] = piece
        return len(piece)

    def _plain(self, most: int) -> bytes:
        if self._input:
            piece, self._input = self._input[:most], self._input[most:]
            return piece
        return self._file.read(most)

    def _expand(self, most: int) -> bytes:
        piece = b""
        while not piece:
            if self._engine.eof:  # another stream may follow
                self._input = self._engine.unused_data or self._take()
                if not self._input:
                    return b""
                self._engine = self._begin()
            data, self._input = self._input, b""
            is_starved = self._engine.needs_input and not data and not (data := self._take())
            try:
                piece = self._engine.decompress(data, most)
            except (zlib.error, lzma.LZMAError, OSError) as error:
                raise tarfile.ReadError(f"invalid compressed data ({error})") from None
            if is_starved and not piece and not self._engine.eof:
                raise tarfile.ReadError("unexpected end of data")
        return piece

    def _counted(self, piece: bytes) -> bytes:
        self._given_bytes += len(piece)
        if self._given_bytes > max(_FREE_BYTES, _EXPANSION * self._taken_bytes):
            raise tarfile.ReadError(f"expected at most {_EXPANSION} times its size, got more")
        return piece

    def _take(self) -> bytes:
        taken = self._file.read(_PIECE_BYTES)
        self._taken_bytes += len(taken)
        return taken


def _decompressor(first: bytes) -> Callable[[], Any] | None:
    """Return what makes a decompressor for a file that begins so; None if it is not compressed."""
    if first[:3] == b"\x1f\x8b\x08":
        return _Gzip
    if first[:3] == b"BZh" and first[4:10] == b"1AY&SY":
        return bz2.BZ2Decompressor
    if first[:4] == b"\x5d\0\0\x80" or first[:5] == b"\xfd7zXZ":
        return lambda: lzma.LZMADecompressor(memlimit=_LZMA_BYTES)
    return None
