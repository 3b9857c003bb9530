"""The one decoder: encoded bytes and an ``ImageSpec`` to the pixels that a model takes.

Used by training for folders of files and by the service for every protocol, so a pixel means the
same on both sides. Reads JPEG, PNG, WebP and BMP; the size is read from the header and checked
before the decoder allocates anything. Knows nothing about models, batches or HTTP.

Layout legend: H height, W width, C channels (1 grey, 3 RGB).
"""

import struct
from typing import cast

import cv2
import numpy as np

from models import geometry
from models.artifact import ImageSpec

Pixels = geometry.Pixels

# 2^25 pixels are a 33-megapixel photograph and 100 MB of RGB: above what cameras in phones write by
# default, below what hurts a small container.
MAX_PIXELS = 1 << 25

_FLAGS = {
    "L": cv2.IMREAD_GRAYSCALE,
    "RGB": cv2.IMREAD_COLOR_RGB,
}
# The JPEG library's own scales: a block of 8x8 coefficients becomes 4x4, 2x2 or 1x1 pixels. These
# bits mean the same beside the flag of either mode.
_SCALED = {
    1: 0,
    2: cv2.IMREAD_REDUCED_GRAYSCALE_2,
    4: cv2.IMREAD_REDUCED_GRAYSCALE_4,
    8: cv2.IMREAD_REDUCED_GRAYSCALE_8,
}
# JPEG start-of-frame markers: SOF0-SOF15 without DHT (C4), JPG (C8) and DAC (CC); ITU T.81, B.1.
_JPEG_SOF = frozenset(
    {0xC0, 0xC1, 0xC2, 0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF}
)
_PNG_HEADER = struct.Struct(">8x4x4sII")
_PNG_CHUNK = struct.Struct(">I4s")

# OpenCV writes a line for each bad image; our error says it already.
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
# One image never fans out over OpenCV's own pool: the service decides which thread decodes what.
cv2.setNumThreads(1)


class ImageError(ValueError):
    """The bytes are not an image that can be decoded; the message says what was expected."""


class ImageTooLargeError(ImageError):
    """The header announces more pixels than allowed; nothing was decoded."""


def decode(encoded: bytes, spec: ImageSpec, max_pixels: int = MAX_PIXELS) -> Pixels:
    """Decode one image and bring it to the size that the model takes.

    An EXIF orientation is applied, transparency is dropped, 16-bit channels are cut to 8 bits.

    Args:
        encoded: One JPEG, PNG, WebP or BMP file.
        spec: Mode, height, width, resize rule and interpolation of the result.
        max_pixels: Largest width times height that is decoded.

    Returns:
        image_HWC: uint8 [H, W, C], RGB or grey, 0-255, contiguous.

    Raises:
        ImageTooLargeError: The header announces more than ``max_pixels``.
        ImageError: The bytes are empty, of another format, truncated or corrupt.
    """
    width, height = read_size(encoded)
    if width * height > max_pixels:
        raise ImageTooLargeError(
            f"image: expected at most {max_pixels} pixels, got {width} x {height}"
        )
    return decode_sized(encoded, spec)


def decode_sized(encoded: bytes, spec: ImageSpec) -> Pixels:
    """Decode one image whose size the caller has read and found small enough; see ``decode``."""
    scale = _jpeg_scale(encoded, spec.least_decoded) if spec.least_decoded else 1
    flag = _FLAGS[spec.mode] | _SCALED[scale]
    try:
        image = cv2.imdecode(np.frombuffer(encoded, np.uint8), flag)
    except cv2.error:
        image = None
    if image is None:
        raise ImageError(
            f"image: expected a complete {_format(encoded)} file, "
            f"got {len(encoded)} bytes that are truncated or corrupt"
        )
    pixels = cast(Pixels, image)
    is_own_size = pixels.shape[0] == spec.height and pixels.shape[1] == spec.width
    if not (is_own_size and spec.keeps_own_size):
        pixels = geometry.fit(pixels, spec)
    return pixels.reshape(spec.height, spec.width, spec.channels)


def read_size(encoded: bytes) -> tuple[int, int]:
    """Read width and height from the header, without decoding.

    Returns:
        (width, height) in pixels, as stored: an EXIF orientation is not applied.

    Raises:
        ImageError: Empty, not one of the formats, or cut inside the header.
    """
    if not encoded:
        raise ImageError("image: expected JPEG, PNG, WebP or BMP bytes, got an empty body")
    try:
        if encoded[:4] == b"\x89PNG":
            kind, width, height = _PNG_HEADER.unpack_from(encoded)
            if kind == b"IHDR":
                _check_png_chunks(encoded)
                return width, height
        elif encoded[:3] == b"\xff\xd8\xff":
            return _jpeg_size(encoded)
        elif encoded[:4] == b"RIFF" and encoded[8:12] == b"WEBP":
            return _webp_size(encoded)
        elif encoded[:2] == b"BM" and len(encoded) >= 26:
            width, height = struct.unpack_from("<ii", encoded, 18)
            return abs(width), abs(height)
    except (struct.error, IndexError):
        raise ImageError(
            f"image: expected a complete {_format(encoded)} header, got {len(encoded)} bytes"
        ) from None
    raise ImageError(
        f"image: expected JPEG, PNG, WebP or BMP, got {len(encoded)} bytes starting {encoded[:8]!r}"
    )


def encode_png(image_HWC: Pixels) -> bytes:
    """Encode pixels without loss, for golden images and tests.

    Args:
        image_HWC: uint8 [H, W, 1] grey or [H, W, 3] RGB, 0-255.
    """
    pixels = cv2.cvtColor(image_HWC, cv2.COLOR_RGB2BGR) if image_HWC.shape[2] == 3 else image_HWC
    done, encoded = cv2.imencode(".png", pixels)
    if not done:
        raise ImageError(f"image: expected pixels that PNG can hold, got {image_HWC.shape}")
    return encoded.tobytes()


def _check_png_chunks(encoded: bytes) -> None:
    """See to it that every chunk ends within the file.

    OpenCV allocates what a chunk's length announces before it reads the chunk: 277 bytes took 4 GiB
    and 5 s (measured on 4.14.0).
    """
    position, end, kind = 8, len(encoded), b""
    while kind != b"IEND" and position < end:
        length, kind = _PNG_CHUNK.unpack_from(encoded, position)
        position += length + 12
    if position > end:
        raise ImageError(
            f"image: expected a complete PNG file, got {end} bytes that are truncated or corrupt"
        )


def _jpeg_scale(encoded: bytes, least: int) -> int:
    """Return by how much a JPEG can be reduced as it is decoded: 1, 2, 4 or 8.

    Its shorter side, and so both whatever the orientation, stays at least ``least``: the resize
    then makes up for the scale's own, slightly different filter. The library rounds sizes up, so
    what is at the far edges moves, by less than half a pixel of the result.
    """
    if encoded[:3] != b"\xff\xd8\xff":
        return 1
    spare = min(read_size(encoded)) / least
    return 8 if spare >= 8 else 4 if spare >= 4 else 2 if spare >= 2 else 1


def _jpeg_size(encoded: bytes) -> tuple[int, int]:
    position = 2
    while True:
        if encoded[position] != 0xFF:
            raise ImageError(f"image: expected a JPEG marker at byte {position}, got other bytes")
        marker = encoded[position + 1]
        if marker == 0xFF:  # a fill byte before the marker
            position += 1
        elif marker in _JPEG_SOF:
            height, width = struct.unpack_from(">HH", encoded, position + 5)
            return width, height
        elif marker == 0x01 or 0xD0 <= marker <= 0xD8:  # markers without a length
            position += 2
        else:
            position += 2 + int(struct.unpack_from(">H", encoded, position + 2)[0])


def _webp_size(encoded: bytes) -> tuple[int, int]:
    """RFC 9649, sections 2.5-2.7: the first chunk says which of the three layouts follows."""
    chunk = encoded[12:16]
    if chunk == b"VP8X":
        return (
            int.from_bytes(encoded[24:27], "little") + 1,
            int.from_bytes(encoded[27:30], "little") + 1,
        )
    if chunk == b"VP8L":
        bits = int(struct.unpack_from("<I", encoded, 21)[0])
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    width, height = struct.unpack_from("<HH", encoded, 26)
    return width & 0x3FFF, height & 0x3FFF


def _format(encoded: bytes) -> str:
    return {b"\x89PN": "PNG", b"\xff\xd8\xff": "JPEG", b"RIF": "WebP"}.get(encoded[:3], "BMP")
