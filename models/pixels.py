"""From what a decoder made to pixels: mode, transparency, 16 bits, orientation.

Works on strips of rows, so that a large picture is never in memory in three forms at once. Equal to
Pillow's ``convert``, but for grey of 16 bits, which is cut to its high byte where it is not asked
to be clipped, as Pillow does.

Layout legend: H height, W width, C channels (1 grey, 3 RGB).
"""

from dataclasses import dataclass

import numpy as np
from PIL import Image

from models.artifact import Colour, Mode
from models.exif import turned
from models.geometry import Pixels
from models.image_errors import ImageError

# Pixels in one strip: its copies fit the processor's cache.
_STRIP_PIXELS = 1 << 18

_MODES = frozenset(
    {"1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr"}
    | {"I;16", "I;16B", "I;16L", "I;16N"}
)

# Every picture is bounded by our own limit, before it is decoded.
Image.MAX_IMAGE_PIXELS = None


@dataclass(frozen=True, slots=True)
class Decoding:
    """How an encoded image becomes pixels.

    Attributes:
        mode: ``RGB`` or ``L`` (grey).
        applies_exif: Whether the picture is turned as its EXIF says.
        background: RGB under transparent pixels, 0-255; None drops the transparency.
        least: Least height and width, whichever way up, that a JPEG may be decoded at when its
            scale is reduced; None: it is decoded whole.
        clips_16_bits: Whether grey of 16 bits is clipped to 255; else its high byte counts.
    """

    mode: Mode = "RGB"
    applies_exif: bool = True
    background: Colour | None = None
    least: int | None = None
    clips_16_bits: bool = False

    @property
    def channels(self) -> int:
        """Return C."""
        return 3 if self.mode == "RGB" else 1


def to_pixels(image: Image.Image, decoding: Decoding, orientation: int = 1) -> Pixels:
    """Bring a decoded Pillow image to the mode.

    Args:
        image: Loaded; grey, palette, RGB, CMYK or YCbCr, at most 16 bits a channel.
        decoding: Mode and background.
        orientation: As EXIF has it, 1 to 8.

    Returns:
        uint8 [H, W, C], 0-255, contiguous.

    Raises:
        ImageError: It has another mode.
    """
    if image.mode not in _MODES:
        raise ImageError(
            "image: expected grey, RGB, CMYK or YCbCr with 1, 8 or 16 bits a channel, "
            f'got a {image.format} file of Pillow\'s mode "{image.mode}"'
        )
    if decoding.background is None:
        # Pillow warns of a palette whose transparency a conversion drops.
        image.info.pop("transparency", None)
    width, height = image.size
    if width * height <= _STRIP_PIXELS and orientation == 1:
        return _strip(image, decoding).reshape(height, width, decoding.channels)
    shape = (width, height) if orientation >= 5 else (height, width)
    shown = np.empty((*shape, decoding.channels), np.uint8)
    # A view of it with the rows as they are stored: turning by 90 degrees is undone by the other.
    stored = turned(shown, {6: 8, 8: 6}.get(orientation, orientation))
    step = max(1, _STRIP_PIXELS // width)
    for top in range(0, height, step):
        bottom = min(top + step, height)
        strip = _strip(image.crop((0, top, width, bottom)), decoding)
        stored[top:bottom] = strip.reshape(bottom - top, width, decoding.channels)
    return shown


def to_grey(image_HWC: Pixels) -> Pixels:
    """Return uint8 [H, W, 1] of RGB, ITU-R BT.601 as Pillow rounds it."""
    height, width, _ = image_HWC.shape
    if height * width <= _STRIP_PIXELS:
        small = Image.frombuffer("RGB", (width, height), image_HWC, "raw", "RGB", 0, 1)
        return np.asarray(small.convert("L")).reshape(height, width, 1)
    grey = np.empty((height, width, 1), np.uint8)
    step = max(1, _STRIP_PIXELS // width)
    for top in range(0, height, step):
        strip = Image.fromarray(image_HWC[top : top + step]).convert("L")
        grey[top : top + step, :, 0] = np.asarray(strip)
    return grey


def _strip(image: Image.Image, decoding: Decoding) -> Pixels:
    if image.mode.startswith("I"):
        image = _eight_bits(image, decoding.clips_16_bits)
    if decoding.background is not None and image.has_transparency_data:
        below = Image.new("RGBA", image.size, (*decoding.background, 255))
        image = Image.alpha_composite(below, image.convert("RGBA")).convert("RGB")
    if image.mode != decoding.mode:
        image = image.convert(decoding.mode)
    return np.asarray(image)


def _eight_bits(image: Image.Image, clips: bool) -> Image.Image:
    """Bring 16 bits to 8; a value that means transparency becomes an alpha channel."""
    values = np.asarray(image)
    grey = Image.fromarray((values.clip(max=255) if clips else values >> 8).astype(np.uint8))
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        alpha = Image.fromarray(np.where(values == transparent, 0, 255).astype(np.uint8))
        return Image.merge("LA", (grey, alpha))
    return grey
