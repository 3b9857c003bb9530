"""One picture in every format and layout that the decoder reads, written by Pillow."""

import io
import struct
import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from models.artifact import ImageSpec, Mode
from models.image import decode_pixels
from models.pixels import Decoding

HEIGHT, WIDTH = 21, 34


def photograph(seed: int = 0, height: int = HEIGHT, width: int = WIDTH) -> NDArray[np.uint8]:
    """Smooth colours, as lossy formats are made for."""
    noise = np.random.default_rng(seed).integers(0, 256, (5, 5, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC))


def save(pixels: NDArray[Any], kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind, **options)
    return file.getvalue()


TURNED = Image.Exif()
TURNED[0x0112] = 6
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


def written(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def large_jpeg(seed: int, mode: str = "RGB", **options: Any) -> bytes:
    """Return a JPEG of 240 x 180 pixels, more than are decoded on the loop."""
    few = np.random.default_rng(seed).integers(0, 256, (9, 12, 3), np.uint8)
    image = Image.fromarray(few).resize((240, 180), Image.Resampling.BICUBIC).convert(mode)
    return written(image, "JPEG", **options)


def pillows(encoded: bytes, mode: str) -> NDArray[np.uint8]:
    image = Image.open(io.BytesIO(encoded))
    image.load()
    image.info.pop("transparency", None)
    pixels = np.asarray(ImageOps.exif_transpose(image).convert(mode))
    return pixels.reshape(*pixels.shape[:2], -1)


def assert_pillows(encoded: bytes, mode: Mode) -> None:
    np.testing.assert_array_equal(
        decode_pixels(encoded, Decoding(mode)), pillows(encoded, mode), strict=True
    )


def picture(mode: str, width: int = WIDTH, height: int = HEIGHT, seed: int = 0) -> Image.Image:
    """Noise in one of Pillow's modes."""
    bands = len(Image.new(mode, (1, 1)).getbands())
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, bands), np.uint8)
    if mode == "1":
        return Image.fromarray(noise[:, :, 0]).convert("1")
    if mode == "P":
        return Image.fromarray(noise[:, :, 0].repeat(3).reshape(height, width, 3)).quantize(30)
    if mode == "I;16":
        return Image.fromarray(noise.astype(np.uint16)[:, :, 0] * 250)
    return Image.frombytes(mode, (width, height), noise.tobytes())


def chunk(kind: bytes, content: bytes) -> bytes:
    crc = zlib.crc32(kind + content)
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", crc)


def png_file(
    rows: bytes, depth: int, colour: int, *more: bytes, size: tuple[int, int] = (4, 3)
) -> bytes:
    header = struct.pack(">IIBBBBB", *size, depth, colour, 0, 0, 0)
    body = chunk(b"IDAT", zlib.compress(rows))
    return (
        b"\x89PNG\r\n\x1a\n" + b"".join((chunk(b"IHDR", header), *more, body)) + chunk(b"IEND", b"")
    )
