"""TIFF: the first page, rewritten with only the tags that make its picture.

A directory of 12 bytes an entry may refer to the same megabytes a thousand times, to directories
within it, and to tags that libtiff writes lines about. Pillow and libtiff get a file without them.
"""

import contextlib
import ctypes
import ctypes.util
import struct
from pathlib import Path

import numpy as np
import PIL
from numpy.typing import NDArray

from models.image_errors import ImageError, ImageTooLargeError, incomplete

# Strips of 8 KiB, as usual, are 12,000 in the largest picture.
MAX_STRIPS = 1 << 15
MAX_TAGS = 4096
MAX_TILE_PIXELS = 1 << 22

_WIDTH, _HEIGHT, _BITS, _COMPRESSION = 256, 257, 258, 259
_TILE_WIDTH, _TILE_HEIGHT = 322, 323
# Tag: most values it may have. Orientation is among them: it is part of the format, not EXIF.
_COUNTS = {
    _WIDTH: 1,
    _HEIGHT: 1,
    _BITS: 8,
    _COMPRESSION: 1,
    262: 1,  # photometric interpretation
    266: 1,  # fill order
    273: MAX_STRIPS,  # strip offsets
    274: 1,  # orientation
    277: 1,  # samples per pixel
    278: 1,  # rows per strip
    279: MAX_STRIPS,  # strip byte counts
    284: 1,  # planar configuration
    292: 1,  # options of CCITT group 3
    293: 1,  # and 4
    317: 1,  # predictor
    320: 3 << 16,  # colour map
    _TILE_WIDTH: 1,
    _TILE_HEIGHT: 1,
    324: MAX_STRIPS,  # tile offsets
    325: MAX_STRIPS,  # tile byte counts
    338: 8,  # extra samples
    339: 8,  # sample format
    347: 1 << 14,  # JPEG tables
    529: 3,  # coefficients of YCbCr
    530: 2,  # its subsampling
    531: 1,  # its positioning
    532: 6,  # reference black and white
}
# Offsets of strips and of tiles, with their lengths.
_OFFSETS = {273: 279, 324: 325}
_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 7: 1, 16: 8}
# 1 none, 2-4 CCITT, 5 LZW, 7 JPEG, 8 and 32946 deflate, 32773 PackBits.
_COMPRESSIONS = {1, 2, 3, 4, 5, 7, 8, 32946, 32773}


def silence() -> None:
    """Make libtiff write nothing: a bad fax of 32 MiB is a line on stderr for each of its rows.

    Pillow does so for warnings only. Where its libtiff is not found, bad files go on writing lines.
    """
    home = Path(PIL.__file__).parent
    places = [
        *(home.parent / "pillow.libs").glob("libtiff*.so*"),  # wheels for Linux
        *(home / ".dylibs").glob("libtiff*.dylib"),  # and for macOS
    ]
    found = str(places[0]) if places else ctypes.util.find_library("tiff")
    if found:
        with contextlib.suppress(OSError, AttributeError):
            library = ctypes.CDLL(found)
            for name in ("TIFFSetErrorHandler", "TIFFSetWarningHandler"):
                handler = getattr(library, name)
                handler.argtypes, handler.restype = [ctypes.c_void_p], ctypes.c_void_p
                handler(None)


def first_page(encoded: bytes) -> bytes:
    """Return the file with one directory, of the tags that make the picture.

    Raises:
        ImageTooLargeError: More tags, strips or tiles than any picture has.
        ImageError: Truncated, or of a kind that is not decoded.
    """
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(encoded[:4])
    if order is None:
        raise ImageError("image: expected a classic TIFF, got a BigTIFF or another; save it again")
    try:
        start = struct.unpack_from(order + "I", encoded, 4)[0]
        count = struct.unpack_from(order + "H", encoded, start)[0]
        if count > MAX_TAGS:
            raise ImageTooLargeError(f"image: expected at most {MAX_TAGS} TIFF tags, got {count}")
        directory = encoded[start + 2 : start + 2 + 12 * count]
        entries = [
            struct.pack(order + "HHI4s", tag, kind, values, _checked(encoded, order, tag, entry))
            for entry in struct.iter_unpack(order + "HHI4s", directory)
            for tag, kind, values, _ in [entry]
            if tag in _COUNTS
        ]
    except struct.error:
        raise incomplete("TIFF", encoded) from None
    _check_places(encoded, order, entries)
    _check_values(entries, order, encoded)
    filler = b"\0" * (len(encoded) & 1)
    head = encoded[:4] + struct.pack(order + "I", len(encoded) + len(filler))
    tail = struct.pack(order + "H", len(entries)) + b"".join(entries) + b"\0\0\0\0"
    return b"".join((head, encoded[8:], filler, tail))


def _checked(encoded: bytes, order: str, tag: int, entry: tuple[int, int, int, bytes]) -> bytes:
    """Return the value or offset of an entry whose values are few and within the file."""
    _, kind, count, value = entry
    if count > _COUNTS[tag]:
        raise ImageTooLargeError(
            f"image: expected at most {_COUNTS[tag]} values in TIFF tag {tag}, got {count}"
        )
    size = _SIZES.get(kind, 0) * count
    if not size or (size > 4 and struct.unpack(order + "I", value)[0] + size > len(encoded)):
        raise incomplete("TIFF", encoded)
    return value


def _check_places(encoded: bytes, order: str, entries: list[bytes]) -> None:
    """See to it that every strip or tile is within the file: a directory will stand behind it."""
    numbers: dict[int, NDArray[np.int64]] = {}
    for entry in entries:
        tag, kind, count, value = struct.unpack(order + "HHI4s", entry)
        if tag in _OFFSETS or tag in _OFFSETS.values():
            kinds = {3: "u2", 4: "u4"}
            if kind not in kinds:
                raise incomplete("TIFF", encoded)
            size = count * int(kinds[kind][1])
            start = struct.unpack(order + "I", value)[0]
            content = value[:size] if size <= 4 else encoded[start : start + size]
            numbers[tag] = np.frombuffer(content, order + kinds[kind]).astype(np.int64)
    for offsets, counts in _OFFSETS.items():
        if offsets in numbers or counts in numbers:
            begin, length = numbers.get(offsets), numbers.get(counts)
            if begin is None or length is None or len(begin) != len(length):
                raise incomplete("TIFF", encoded)
            if (begin + length).max() > len(encoded):
                raise incomplete("TIFF", encoded)


def _check_values(entries: list[bytes], order: str, encoded: bytes) -> None:
    values = {}
    for entry in entries:
        tag, kind, _, value = struct.unpack(order + "HHI4s", entry)
        if _COUNTS[tag] == 1 and tag not in values:
            letter = {1: "B", 3: "H", 4: "I"}.get(kind)
            if letter is None:
                raise incomplete("TIFF", encoded)
            values[tag] = struct.unpack_from(order + letter, value)[0]
    compression = values.get(_COMPRESSION, 1)
    if compression not in _COMPRESSIONS:
        raise ImageError(
            f"image: expected a TIFF that is not compressed, or by LZW, deflate, PackBits, JPEG "
            f"or fax, got compression {compression}"
        )
    tile = values.get(_TILE_WIDTH, 0) * values.get(_TILE_HEIGHT, 0)
    if tile > MAX_TILE_PIXELS:
        raise ImageTooLargeError(
            f"image: expected TIFF tiles of at most {MAX_TILE_PIXELS} pixels, got {tile}"
        )
