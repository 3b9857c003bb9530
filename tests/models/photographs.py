"""Photographs of every size, format and mode, made of those that installed packages ship.

scikit-learn's ``china.jpg`` and ``flower.jpg`` and matplotlib's ``grace_hopper.jpg``: crops of
them, enlarged or reduced to sides of 20 to 4,000 pixels, with noise, so that no filter meets flat
colours.
"""

import importlib.util
import io
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

SOURCES = (
    ("sklearn", "datasets/images/china.jpg"),
    ("sklearn", "datasets/images/flower.jpg"),
    ("matplotlib", "mpl-data/sample_data/grace_hopper.jpg"),
)
_ORIENTATION = 0x0112
_SLOW_SIDE = 1200  # of formats whose writers take seconds for more

Numbers = np.random.Generator
Writer = Callable[[Image.Image, Numbers], bytes]


def photograph(number: int, least: int = 20, most: int = 4000) -> tuple[str, bytes]:
    """Return a photograph's kind and its encoded bytes.

    Args:
        number: Chooses kind, size and content; the same ones each time.
        least: Smallest side, pixels.
        most: Largest side, pixels.
    """
    numbers = np.random.default_rng(number)
    kind = list(KINDS)[number % len(KINDS)]
    if kind.split()[0] in ("WebP", "GIF"):
        most = min(most, _SLOW_SIDE)
    return kind, KINDS[kind](_scene(numbers, least, most), numbers)


def source(number: int) -> Path:
    """Return the file of one of ``SOURCES``."""
    package, name = SOURCES[number]
    spec = importlib.util.find_spec(package)
    assert spec is not None and spec.origin is not None, package
    return Path(spec.origin).parent / name


@cache
def _opened(number: int) -> Image.Image:
    return Image.open(source(number)).convert("RGB")


def _scene(numbers: Numbers, least: int, most: int) -> Image.Image:
    whole = _opened(int(numbers.integers(len(SOURCES))))
    # More small ones than large ones, which take seconds each.
    width = int(least * ((most + 1) / least) ** (numbers.uniform() ** 2))
    height = int(np.clip(width * np.exp2(numbers.uniform(-1.5, 1.5)), least, most))
    share = numbers.uniform(0.4, 1)
    scale = share * min(whole.width / width, whole.height / height)
    box_width, box_height = scale * width, scale * height
    left = numbers.uniform(0, whole.width - box_width)
    top = numbers.uniform(0, whole.height - box_height)
    box = (left, top, left + box_width, top + box_height)
    scene = whole.resize((width, height), Image.Resampling.BICUBIC, box)
    noise = numbers.integers(-8, 9, (173, 211, 3), np.int16)
    repeats = (-(-height // 173), -(-width // 211), 1)
    noisy = np.asarray(scene) + np.tile(noise, repeats)[:height, :width]
    return Image.fromarray(noisy.clip(0, 255).astype(np.uint8))


def _write(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def _turned(numbers: Numbers) -> Image.Exif:
    exif = Image.Exif()
    exif[_ORIENTATION] = int(numbers.integers(1, 9))
    return exif


def _alpha(image: Image.Image) -> Image.Image:
    """A slope from transparent to opaque, with both at its ends."""
    slope = Image.linear_gradient("L").resize(image.size)
    return slope.point([max(0, min(255, 2 * value - 128)) for value in range(256)])


def _deep(image: Image.Image, numbers: Numbers) -> Image.Image:
    grey = np.asarray(image.convert("L")).astype(np.uint16)
    return Image.fromarray(grey * 256 // int(numbers.choice([1, 128])))


def _clear(image: Image.Image) -> Image.Image:
    image = image.copy()
    image.putalpha(_alpha(image))
    return image


def _jpeg(image: Image.Image, numbers: Numbers, **options: Any) -> bytes:
    if image.mode == "RGB":
        options["subsampling"] = ["4:4:4", "4:2:2", "4:2:0"][int(numbers.integers(3))]
    return _write(image, "JPEG", quality=int(numbers.integers(40, 98)), **options)


def _png(image: Image.Image, **options: Any) -> bytes:
    return _write(image, "PNG", compress_level=1, **options)


KINDS: dict[str, Writer] = {
    "JPEG": _jpeg,
    "JPEG, turned": lambda image, numbers: _jpeg(image, numbers, exif=_turned(numbers)),
    "JPEG, progressive": lambda image, numbers: _jpeg(image, numbers, progressive=True),
    "JPEG, grey": lambda image, numbers: _jpeg(image.convert("L"), numbers),
    "JPEG, CMYK": lambda image, numbers: _jpeg(image.convert("CMYK"), numbers),
    "PNG": lambda image, _: _png(image),
    "PNG, turned": lambda image, numbers: _png(image, exif=_turned(numbers)),
    "PNG, RGBA": lambda image, _: _png(_clear(image)),
    "PNG, RGB and a transparent colour": lambda image, _: _png(
        image, transparency=image.getpixel((0, 0))
    ),
    "PNG, L": lambda image, _: _png(image.convert("L")),
    "PNG, LA": lambda image, _: _png(_clear(image.convert("L"))),
    "PNG, L and a transparent grey": lambda image, _: _png(image.convert("L"), transparency=90),
    "PNG, P": lambda image, _: _png(image.quantize(200)),
    "PNG, P with transparencies": lambda image, _: _png(
        image.quantize(64), transparency=bytes(range(0, 256, 4))
    ),
    "PNG, P and a transparent colour": lambda image, _: _png(image.quantize(30), transparency=0),
    "PNG, 1": lambda image, _: _png(image.convert("1")),
    "PNG, 16 bits": lambda image, numbers: _png(_deep(image, numbers)),
    "WebP": lambda image, _: _write(image, "WEBP", method=0),
    "WebP, turned": lambda image, numbers: _write(image, "WEBP", method=0, exif=_turned(numbers)),
    "WebP, RGBA": lambda image, _: _write(_clear(image), "WEBP", lossless=True, method=0),
    "TIFF, LZW": lambda image, _: _write(image, "TIFF", compression="tiff_lzw"),
    "TIFF, turned": lambda image, numbers: _write(image, "TIFF", exif=_turned(numbers)),
    "TIFF, RGBA": lambda image, _: _write(_clear(image), "TIFF"),
    "TIFF, CMYK": lambda image, _: _write(image.convert("CMYK"), "TIFF"),
    "TIFF, 16 bits": lambda image, numbers: _write(_deep(image, numbers), "TIFF"),
    "TIFF, 1": lambda image, _: _write(image.convert("1"), "TIFF", compression="group4"),
    "GIF, P and a transparent colour": lambda image, _: _write(
        image.quantize(100), "GIF", transparency=3
    ),
    "BMP": lambda image, _: _write(image, "BMP"),
    "BMP, P": lambda image, _: _write(image.quantize(256), "BMP"),
    "PPM": lambda image, _: _write(image, "PPM"),
    "PPM, 16 bits": lambda image, numbers: _write(_deep(image, numbers), "PPM"),
}
