"""Encoded pictures without what is no picture: where it was taken, by whom, comments, previews.

JPEG, PNG and WebP are cut without a loss: every pixel decodes as before, turned as before. Of EXIF
only the orientation stays, in a block of its own.
"""

import re
import struct
import zlib
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from models.exif import read_orientation

_EXIF = b"Exif\0\0"
# APP0 (JFIF), APP2 (a colour profile, checked below) and APP14 (Adobe: how colours are coded).
_KEPT_APPS = frozenset({0xE0, 0xE2, 0xEE})
_PROFILE = b"ICC_PROFILE\0"
_END_PAIR = np.frombuffer(b"\xff\xd9", np.uint16)[0]
_COMMENT, _EOI, _SOS, _SOI, _APP1 = 0xFE, 0xD9, 0xDA, 0xD8, 0xE1
# As in ``jpeg``: any marker but the stuffed byte, fill bytes and those that stand within a scan.
_MARKER = re.compile(rb"\xff[\x02-\xcf\xd8-\xfe]")
_BASELINE = frozenset({0xC0, 0xC1})
_PNG = b"\x89PNG\r\n\x1a\n"
# Chunks of PNG that say how the picture looks (PNG, third edition, 11.2 and 11.3.2), and APNG's.
_KEPT_CHUNKS = frozenset(
    b"IHDR PLTE IDAT IEND tRNS gAMA cHRM sRGB iCCP sBIT bKGD hIST sPLT pHYs cICP "
    b"acTL fcTL fdAT".split()
)
_WEBP_CHUNKS = frozenset((b"VP8 ", b"VP8L", b"VP8X", b"ALPH", b"ANIM", b"ANMF", b"ICCP"))
_WEBP_EXIF, _WEBP_XMP = 0x08, 0x04


def strip(encoded: bytes) -> tuple[bytes, int] | None:
    """Return a picture without its metadata, and its orientation, 1 to 8.

    None: of another format than JPEG, PNG and WebP, or with no end.

    Args:
        encoded: The file, which was decoded well.
    """
    try:
        if encoded.startswith(b"\xff\xd8"):
            return _strip_jpeg(encoded)
        if encoded.startswith(_PNG):
            return _strip_png(encoded)
        if encoded[:4] == b"RIFF" and encoded[8:12] == b"WEBP":
            return _strip_webp(encoded)
    except (struct.error, IndexError):
        pass
    return None


def _exif(orientation: int) -> bytes:
    """Return a block of EXIF that says the orientation and nothing else."""
    entry = struct.pack(">HHIHH", 0x0112, 3, 1, orientation, 0)
    return b"MM\0*" + struct.pack(">IH", 8, 1) + entry + bytes(4)


def _strip_jpeg(encoded: bytes) -> tuple[bytes, int] | None:
    view = memoryview(encoded)
    parts = [view[:2]]
    orientation, turn_at = 1, 0
    channels = b""
    for code, start, begin, end in _segments(encoded):
        if code == _SOS and channels and encoded[begin : begin + 1] == channels:
            # The one scan of a baseline picture: its end is the first of these two bytes.
            stop = _find_end(encoded, end)
            if stop < 0:
                return None
            parts.append(view[start : stop + 2])
            break
        if code == _SOS:
            following = _MARKER.search(encoded, end)
            parts.append(view[start : following.start() if following else len(encoded)])
            continue
        if code in _BASELINE:
            channels = encoded[begin + 5 : begin + 6]
        elif code == _APP1 and orientation == 1 and encoded.startswith(_EXIF, begin):
            orientation, turn_at = read_orientation(encoded[begin:end]), len(parts)
        if code == _EOI or _is_kept(code, encoded[begin : begin + len(_PROFILE)]):
            parts.append(view[start:end])
        if code == _EOI:
            break
    else:
        return None
    if orientation != 1:
        block = _EXIF + _exif(orientation)
        head = struct.pack(">BBH", 0xFF, _APP1, 2 + len(block))
        parts.insert(turn_at, memoryview(head + block))
    elif sum(map(len, parts)) == len(encoded):
        return encoded, orientation  # all of it stays
    return b"".join(parts), orientation


def _is_kept(code: int, opening: bytes) -> bool:
    if code == 0xE2:
        return opening == _PROFILE
    return code != _COMMENT and (not 0xE0 <= code <= 0xEF or code in _KEPT_APPS)


def _find_end(encoded: bytes, start: int) -> int:
    """Return where the first end of image stands, or -1.

    As ``encoded.find`` does, in a quarter of its time: 54 us of 202 for 185 KB.
    """
    if len(encoded) - start < 4:
        return encoded.find(b"\xff\xd9", start)
    found = [
        start + offset + 2 * int(is_end.argmax())
        for offset in (0, 1)
        if (is_end := _pairs(encoded, start + offset) == _END_PAIR).any()
    ]
    return min(found, default=-1)


def _pairs(encoded: bytes, start: int) -> NDArray[np.uint16]:
    """Return pairs of bytes as the machine's uint16."""
    return np.frombuffer(encoded, np.uint16, (len(encoded) - start) // 2, start)


def _segments(encoded: bytes) -> Iterator[tuple[int, int, int, int]]:
    """Yield marker, where that stands, begin and end of the content, to the end of the image."""
    position = 2
    while found := _MARKER.search(encoded, position):
        begin, code = found.end(), encoded[found.end() - 1]
        if code == _EOI:
            yield code, found.start(), begin, begin
            return
        if code == _SOI:
            position = begin
            continue
        position = begin + max(2, int.from_bytes(encoded[begin : begin + 2]))
        yield code, found.start(), begin + 2, position


def _strip_png(encoded: bytes) -> tuple[bytes, int] | None:
    parts = [_PNG]
    exif = b""
    position = len(_PNG)
    while position < len(encoded):
        length, kind = struct.unpack_from(">I4s", encoded, position)
        following = position + 12 + length
        if kind == b"eXIf":
            exif = encoded[position + 8 : position + 8 + length]
        if kind in _KEPT_CHUNKS:
            parts.append(encoded[position:following])
        if kind == b"IEND":
            break
        position = following
    else:
        return None
    orientation = read_orientation(exif) if exif else 1
    if orientation != 1:
        parts.insert(2, _png_chunk(b"eXIf", _exif(orientation)))  # behind IHDR
    return b"".join(parts), orientation


def _png_chunk(kind: bytes, content: bytes) -> bytes:
    return (
        struct.pack(">I", len(content))
        + kind
        + content
        + struct.pack(">I", zlib.crc32(kind + content))
    )


def _strip_webp(encoded: bytes) -> tuple[bytes, int] | None:
    end = min(len(encoded), 8 + struct.unpack_from("<I", encoded, 4)[0])
    parts: list[bytes] = []
    exif = b""
    position = 12
    while position < end:
        kind, length = struct.unpack_from("<4sI", encoded, position)
        following = position + 8 + length + length % 2
        content = encoded[position + 8 : position + 8 + length]
        if kind == b"EXIF":
            exif = content
        elif kind in _WEBP_CHUNKS:
            parts.append(encoded[position:following])
        position = following
    is_extended = bool(parts) and parts[0].startswith(b"VP8X")
    orientation = read_orientation(exif) if exif and is_extended else 1
    if is_extended:
        flags = parts[0][8] & ~(_WEBP_EXIF | _WEBP_XMP)
        if orientation != 1:
            flags |= _WEBP_EXIF
            block = _exif(orientation)
            parts.append(b"EXIF" + struct.pack("<I", len(block)) + block)
        parts[0] = parts[0][:8] + bytes([flags]) + parts[0][9:]
    body = b"WEBP" + b"".join(parts)
    return b"RIFF" + struct.pack("<I", len(body)) + body, orientation
