"""JPEG, by libjpeg-turbo: one parser says the size and decodes.

Layout legend: H height, W width, C channels (1 grey, 3 RGB).
"""

import re
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import simplejpeg
from PIL import Image

from models.exif import read_orientation, turned
from models.geometry import Pixels
from models.image_errors import ImageError, ImageTooLargeError, incomplete
from models.pixels import Decoding, to_grey, to_pixels

# A decoder goes through all pixels once for each scan, of which a usual progressive file has 10.
# This many take about as long as the memory of one pixel is worth.
SCANS_A_PIXEL = 16
# Profiles and previews of 64 KiB each, in the largest body that is accepted, are 512 segments.
MAX_SEGMENTS = 1 << 10
# What one more segment counts as: it is passed in Python, 1 us and more.
SEGMENT_PIXELS = 16

_EXIF = b"Exif\0\0"
_INKS = ("CMYK", "YCCK")
# Any marker but the stuffed byte, fill bytes and the markers that stand within a scan.
_MARKER = re.compile(rb"\xff[\x02-\xcf\xd8-\xfe]")
# The search holds the interpreter's lock, so it is cut: 10 ms at most.
_SEARCH_BYTES = 1 << 20
_SOI, _EOI, _SOS, _APP1 = 0xD8, 0xD9, 0xDA, 0xE1
_BASELINE_FRAMES = frozenset({0xC0, 0xC1})
# Start-of-frame markers whose pixels come in several scans: ITU T.81, table B.1.
_PROGRESSIVE_FRAMES = frozenset({0xC2, 0xC6, 0xCA, 0xCE})
# Warnings of libjpeg-turbo (jerror.h); every other message is an error that ends the decoding.
# Harmless ones are about what does not change a pixel.
_HARMLESS = (
    "Warning: unknown JFIF revision number",
    "Unknown Adobe color transform code",
    "Corrupt JPEG data: bad ICC marker",
    "Invalid SOS parameters for sequential JPEG",
)
_WARNINGS = (
    *_HARMLESS,
    "Corrupt JPEG data",
    "Premature end of JPEG file",
    "Inconsistent progression sequence",
    "Application transferred too many scanlines",
)
_STRAY = "extraneous bytes"
# A file of up to this size with no other markers, wherever they stand, is in one scan and upright.
_PLAIN_BYTES = 1 << 16
_PLAIN_MARKERS = frozenset(
    bytes([0xFF, code]) for code in (0xC0, 0xC4, _SOI, _EOI, _SOS, 0xDB, 0xDD, 0xE0, 0xEE)
)


OnDamage = Callable[[str], None]


class Frame(NamedTuple):
    """What the segments of a JPEG say.

    Attributes:
        orientation: As EXIF has it, 1 to 8.
        scans: Number of scans.
        is_in_scans: Whether all coefficients are held until the last one.
        is_complete: Whether the end of the image is there.
        segments: Number of segments; 0 where they are few.
    """

    orientation: int
    scans: int
    is_in_scans: bool
    is_complete: bool
    segments: int


_PLAIN = Frame(1, 1, False, True, 0)


def read_size(encoded: bytes) -> tuple[int, int]:
    """Return (width, height) in pixels as stored.

    Raises:
        ImageError: The header is incomplete, or of a kind that is not decoded.
    """
    height, width, _, _ = _header(encoded)
    return width, height


def scaled_size(width: int, height: int, least: int | None) -> tuple[int, int]:
    """Return the size that a JPEG is decoded at.

    The library's own scales are used: a block of 8x8 coefficients becomes 4x4, 2x2 or 1x1 pixels;
    sizes are rounded up.

    Args:
        width: Of the whole picture.
        height: Of the whole picture.
        least: As in ``Decoding``.
    """
    if least is None or min(width, height) < 2 * least:
        return width, height
    spare = min(width, height) // least
    shift = 3 if spare >= 8 else 2 if spare >= 4 else 1
    up = (1 << shift) - 1
    return (width + up) >> shift, (height + up) >> shift


def work(encoded: bytes, decoding: Decoding) -> tuple[int, int, int]:
    """Return width and height as stored, and the pixels that decoding holds in memory.

    Coefficients of a picture in several scans are held whole, whatever the scale, beside its
    pixels. At least a sixteenth of the pixels times the scans counts, as each scan takes time, and
    so do segments.

    Raises:
        ImageTooLargeError: More segments than any picture has.
        ImageError: The header is incomplete, or of a kind that is not decoded.
    """
    height, width, colours, subsampling = _header(encoded)
    frame = _inspect(encoded)
    to_width, to_height = scaled_size(width, height, decoding.least)
    held = width * height if frame.is_in_scans else to_width * to_height
    if colours in _INKS:
        held *= 2
    if frame.is_in_scans and to_width == width and subsampling == "444" and colours != "Gray":
        # Two bytes for each coefficient, and the pixels: 9 bytes for 8 where no channel is halved.
        held = held * 9 // 8
    scanned = width * height * frame.scans // SCANS_A_PIXEL
    return width, height, max(held, scanned, frame.segments * SEGMENT_PIXELS)


def decode(encoded: bytes, decoding: Decoding, on_damage: OnDamage | None = None) -> Pixels:
    """Decode a JPEG whose size the caller has found small enough.

    Args:
        encoded: The file.
        decoding: How it becomes pixels.
        on_damage: Called with what libjpeg-turbo says of damage that it, Pillow and browsers go
            on after.

    Returns:
        uint8 [H, W, C], 0-255, contiguous.

    Raises:
        ImageTooLargeError: More segments than any picture has.
        ImageError: Truncated, corrupt, or of a kind that is not decoded.
    """
    height, width, colours, _ = _header(encoded)
    frame = _inspect(encoded)
    if not frame.is_complete:
        raise incomplete("JPEG", encoded)
    orientation = frame.orientation if decoding.applies_exif else 1
    to_width, to_height = scaled_size(width, height, decoding.least)
    colourspace = "CMYK" if colours in _INKS else "GRAY" if colours == "Gray" else "RGB"
    least = (to_height, to_width) if to_width < width else (0, 0)
    stored = _decode_rows(encoded, colourspace, least, on_damage)
    if stored.shape[:2] != (to_height, to_width):
        raise incomplete("JPEG", encoded)
    if colourspace == "CMYK":
        # Adobe's inverted inks, which Pillow and browsers expect whether the file says so or not.
        inks = Image.frombuffer("CMYK", (to_width, to_height), stored, "raw", "CMYK;I", 0, 1)
        return to_pixels(inks, decoding, orientation)
    pixels = stored
    if decoding.mode == "L" and colourspace == "RGB":
        pixels = to_grey(pixels)
    elif decoding.mode == "RGB" and colourspace == "GRAY":
        pixels = np.repeat(pixels, 3, axis=2)
    return pixels if orientation == 1 else np.ascontiguousarray(turned(pixels, orientation))


def _decode_rows(
    encoded: bytes, colourspace: str, least: tuple[int, int], on_damage: OnDamage | None
) -> Pixels:
    # Not strict, the library also returns what it had decoded before an error that ended it, if it
    # had warned before. Strict, it says the error, or the first warning if there was none.
    pixels, reason = _decode_strictly(encoded, colourspace, least)
    if _STRAY in reason:
        # In front of the first scan they are an error, strict or not.
        tidied = _tidied(encoded)
        if len(tidied) < len(encoded):
            encoded = tidied
            pixels, reason = _decode_strictly(encoded, colourspace, least)
    if pixels is not None:
        return pixels
    if not reason.startswith(_WARNINGS):
        raise incomplete("JPEG", encoded)
    if on_damage is not None and not reason.startswith(_HARMLESS):
        on_damage(reason)
    try:
        return _decode_once(encoded, colourspace, least, strict=False)
    except ValueError:
        raise incomplete("JPEG", encoded) from None


def _decode_strictly(
    encoded: bytes, colourspace: str, least: tuple[int, int]
) -> tuple[Pixels | None, str]:
    """Return the pixels, or None and what the library says."""
    try:
        return _decode_once(encoded, colourspace, least, strict=True), ""
    except ValueError as error:
        return None, str(error)


def _decode_once(
    encoded: bytes, colourspace: str, least: tuple[int, int], *, strict: bool
) -> Pixels:
    pixels: Pixels = simplejpeg.decode_jpeg(
        encoded, colourspace, min_height=least[0], min_width=least[1], strict=strict
    )
    return pixels


def _tidied(encoded: bytes) -> bytes:
    """Return the file without stray bytes between the segments in front of its first scan."""
    parts = [b"\xff\xd8"]
    for code, begin, end in _segments(encoded):
        if code == _SOS:
            parts.append(encoded[begin - 4 :])
            break
        parts.append(encoded[begin - 4 : end])
    return b"".join(parts)


def _header(encoded: bytes) -> tuple[int, int, str, str]:
    try:
        height, width, colours, subsampling = simplejpeg.decode_jpeg_header(encoded, strict=False)
    except (ValueError, KeyError) as error:  # a KeyError: there is no frame, so no colours
        if "subsampling" in str(error) and _has_frame(encoded):
            raise ImageError(
                "image: expected a JPEG with 1, 3 or 4 components and one of the usual "
                "subsamplings, got another; save it again as a baseline JPEG"
            ) from None
        raise incomplete("JPEG", encoded, "header") from None
    return int(height), int(width), str(colours), str(subsampling)


def _has_frame(encoded: bytes) -> bool:
    return any(0xC0 <= code <= 0xC2 for code, _, _ in _segments(encoded))


def _inspect(encoded: bytes) -> Frame:
    """Find what the decoder does not say.

    Raises:
        ImageTooLargeError: More segments than any picture has.
    """
    if len(encoded) <= _PLAIN_BYTES and encoded.endswith(b"\xff\xd9"):
        found = _MARKER.findall(encoded)
        if _PLAIN_MARKERS.issuperset(found) and found.count(b"\xff\xda") == 1:
            return _PLAIN
    scans, orientation, is_progressive, is_complete, segments = 0, 1, False, False, 0
    channels = b""  # their number, of a baseline frame
    for code, begin, end in _segments(encoded):
        segments += 1
        if code == _SOS:
            scans += 1
            is_whole = channels and encoded[begin : begin + 1] == channels
            if is_whole and encoded.endswith(b"\xff\xd9", end):
                # All channels are in this scan, which ends the picture: libjpeg reads no other. The
                # search for markers in it would take as long as its bytes, with a lock held.
                return Frame(orientation, 1, False, True, segments)
        elif code in _BASELINE_FRAMES:
            channels = encoded[begin + 5 : begin + 6]
        elif code == _APP1 and orientation == 1 and encoded.startswith(_EXIF, begin):
            orientation = read_orientation(encoded[begin + len(_EXIF) : end])
        elif code in _PROGRESSIVE_FRAMES:
            is_progressive = True
        elif code == _EOI:
            is_complete = True
    is_in_scans = is_progressive or scans > 1
    return Frame(orientation, scans, is_in_scans, is_complete, segments)


def _segments(encoded: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield marker, begin and end of each segment's content, up to the end of the image.

    Goes forward as libjpeg does: bytes between segments are passed over up to the next marker.

    Raises:
        ImageTooLargeError: More segments than any picture has.
    """
    position = 2
    for _ in range(MAX_SEGMENTS):
        found = None
        while found is None and position < len(encoded):
            found = _MARKER.search(encoded, position, position + _SEARCH_BYTES)
            if found is None:
                position += _SEARCH_BYTES - 1
        if found is None:
            return
        begin, code = found.end(), encoded[found.end() - 1]
        if code in (_SOI, _EOI):
            yield code, begin, begin
            if code == _EOI:
                return
            position = begin
            continue
        position = begin + max(2, int.from_bytes(encoded[begin : begin + 2]))
        yield code, begin + 2, position
    raise ImageTooLargeError(f"image: expected at most {MAX_SEGMENTS} segments in a JPEG, got more")
