"""One picture in every format and layout that the decoder reads, written by Pillow."""

import io
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from models.artifact import ImageSpec, Mode

HEIGHT, WIDTH = 21, 34


def photograph(seed: int = 0, height: int = HEIGHT, width: int = WIDTH) -> NDArray[np.uint8]:
    """Smooth colours, as lossy formats are made for."""
    noise = np.random.default_rng(seed).integers(0, 256, (5, 5, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC))


def save(pixels: NDArray[Any], kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind, **options)
    return file.getvalue()


EXIF = Image.Exif()
EXIF[0x010F] = "a camera"  # any tag makes WebP write its extended layout
RGB = photograph()
GREY = RGB[:, :, 1].copy()
ENCODED = {
    "png": save(RGB, "PNG"),
    "png-grey": save(GREY, "PNG"),
    "png-palette": save(np.asarray(Image.fromarray(RGB).quantize(16)), "PNG"),
    "jpeg": save(RGB, "JPEG"),
    "jpeg-grey": save(GREY, "JPEG"),
    "jpeg-progressive": save(RGB, "JPEG", progressive=True, quality=95),
    "jpeg-comment": save(RGB, "JPEG", comment=b"c" * 60_000),
    "webp": save(RGB, "WEBP"),
    "webp-lossless": save(RGB, "WEBP", lossless=True),
    "webp-extended": save(RGB, "WEBP", exif=EXIF),
    "bmp": save(RGB, "BMP"),
    "bmp-grey": save(GREY, "BMP"),
    "gif": save(RGB, "GIF"),
    "gif-grey": save(GREY, "GIF"),
    "tiff": save(RGB, "TIFF"),
    "tiff-lzw": save(RGB, "TIFF", compression="tiff_lzw"),
    "tiff-jpeg": save(RGB, "TIFF", compression="jpeg"),
    "ppm": save(RGB, "PPM"),
    "pgm": save(GREY, "PPM"),
}


def spec(mode: Mode = "RGB", height: int = HEIGHT, width: int = WIDTH) -> ImageSpec:
    return ImageSpec(mode, height, width)
