"""The formats that Pillow's own plugins read: WebP, BMP, GIF, TIFF; HEIC and AVIF if asked.

Each plugin is called by its name: no other one of Pillow's can be reached by what a file holds.

Layout legend: H height, W width, C channels (1 grey, 3 RGB).
"""

import io
import struct
from collections.abc import Callable

from PIL import (
    AvifImagePlugin,
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    ImageFile,
    TiffImagePlugin,
    WebPImagePlugin,
)

from models.exif import read_orientation
from models.geometry import Pixels
from models.gif import first_picture
from models.image_errors import ImageTooLargeError, incomplete
from models.pixels import Decoding, to_pixels
from models.tiff import first_page, silence

try:
    import pillow_heif
except ModuleNotFoundError:  # the heif extra is not installed
    pillow_heif = None  # type: ignore[assignment]

silence()

# Pillow decodes BMPs of runs in Python: up to 1 us a pixel, and as much for a run of nothing.
MAX_SLOW_PIXELS = 1 << 20

_OPENERS: dict[str, Callable[[io.BytesIO], ImageFile.ImageFile]] = {
    "BMP": BmpImagePlugin.BmpImageFile,
    "GIF": GifImagePlugin.GifImageFile,
    "TIFF": TiffImagePlugin.TiffImageFile,
    "WebP": WebPImagePlugin.WebPImageFile,
}
if pillow_heif is not None:
    _OPENERS["AVIF"] = AvifImagePlugin.AvifImageFile
    _OPENERS["HEIC"] = pillow_heif.HeifImageFile
# These hold a picture up to four times: canvas, canvas before, copy, Pillow's.
_HELD_TWICE = ("WebP", "AVIF", "HEIC")


def can_read(kind: str) -> bool:
    """Return whether a format's plugin is installed."""
    return kind in _OPENERS


def work(kind: str, encoded: bytes) -> tuple[int, int, int]:
    """Return width and height as stored, and the pixels that decoding holds in memory.

    Raises:
        ImageTooLargeError: Decoding would take minutes.
        ImageError: The header is incomplete, or of a kind that is not decoded.
    """
    # libwebp allocates its canvas as it opens a file.
    width, height = _webp_size(encoded) if kind == "WebP" else _open(kind, encoded).size
    return width, height, width * height * (2 if kind in _HELD_TWICE else 1)


def decode(kind: str, encoded: bytes, decoding: Decoding) -> Pixels:
    """Decode the first picture of a file whose size the caller has found small enough.

    Returns:
        uint8 [H, W, C], 0-255, contiguous.

    Raises:
        ImageError: Truncated, corrupt, or of a kind that is not decoded.
    """
    image = _open(kind, encoded)
    expected = image.size
    if kind == "WebP" and expected != _webp_size(encoded):
        raise incomplete(kind, encoded)
    try:
        image.load()
    except Exception:  # plugins raise whatever their parsing meets
        raise incomplete(kind, encoded) from None
    if image.size != expected:
        raise incomplete(kind, encoded)
    exif = image.info.get("exif")
    orientation = read_orientation(exif) if decoding.applies_exif and exif else 1
    return to_pixels(image, decoding, orientation)


def _open(kind: str, encoded: bytes) -> ImageFile.ImageFile:
    """Read the header of a file."""
    if kind == "GIF":
        encoded = first_picture(encoded)
    elif kind == "TIFF":
        encoded = first_page(encoded)
    try:
        image = _OPENERS[kind](io.BytesIO(encoded))
    except Exception:  # as above
        raise incomplete(kind, encoded, "header") from None
    if kind == "GIF" and image.mode == "L":
        # Its first picture has a table of greys; Pillow would give them the file's other colours.
        image.palette = None
    width, height = image.size
    is_slow = any(tile[0] in Image.DECODERS for tile in image.tile)
    if is_slow and width * height > MAX_SLOW_PIXELS:
        raise ImageTooLargeError(
            f"image: expected at most {MAX_SLOW_PIXELS} pixels in a {kind} of this kind, "
            f"got {width} x {height}; save it as PNG"
        )
    if is_slow:
        # No more than pixels can need: two bytes for each, ends of rows, and moves.
        end = image.tile[0].offset + 2 * width * height + 8 * height + 1024
        image.fp = io.BytesIO(encoded[:end])
    return image


def _webp_size(encoded: bytes) -> tuple[int, int]:
    """RFC 9649, sections 2.5-2.7: the first chunk says which of the three layouts follows."""
    chunk = encoded[12:16]
    try:
        if chunk == b"VP8X":
            return (
                int.from_bytes(encoded[24:27], "little") + 1,
                int.from_bytes(encoded[27:30], "little") + 1,
            )
        if chunk == b"VP8L":
            bits = int(struct.unpack_from("<I", encoded, 21)[0])
            return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
        width, height = struct.unpack_from("<HH", encoded, 26)
    except struct.error:
        raise incomplete("WebP", encoded, "header") from None
    return width & 0x3FFF, height & 0x3FFF
