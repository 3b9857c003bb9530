"""The decoder against Pillow, and against everything that is not an image."""

import io
import random
import resource
import struct
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from models.artifact import ImageSpec, Interpolation, Mode, Resize
from models.image import (
    MAX_PIXELS,
    ImageError,
    ImageTooLargeError,
    decode,
    encode_png,
    fit,
    read_size,
)
from tests.server import ROOT

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
}
EXACT = ("png", "png-grey", "webp-lossless", "bmp", "bmp-grey")
ONE = pytest.mark.parametrize("name", ENCODED)


def spec(mode: Mode = "RGB", height: int = HEIGHT, width: int = WIDTH) -> ImageSpec:
    return ImageSpec(mode, height, width)


# Whole images


@ONE
def test_size_is_pillows(name: str) -> None:
    assert read_size(ENCODED[name]) == Image.open(io.BytesIO(ENCODED[name])).size


@pytest.mark.parametrize("size", [(1, 1), (1, 500), (500, 1), (255, 257), (1000, 300)])
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "BMP"])
def test_any_size_is_pillows(kind: str, size: tuple[int, int]) -> None:
    pixels = np.zeros((size[1], size[0], 3), np.uint8)
    assert read_size(save(pixels, kind)) == size
    if kind == "WEBP":
        assert read_size(save(pixels, kind, lossless=True)) == size
        extended = save(pixels, kind, exif=EXIF)
        assert extended[12:16] == b"VP8X"
        assert read_size(extended) == size


@pytest.mark.parametrize("name", EXACT)
def test_lossless_pixels_are_pillows(name: str) -> None:
    expected = np.asarray(Image.open(io.BytesIO(ENCODED[name])).convert("RGB"))
    np.testing.assert_array_equal(decode(ENCODED[name], spec()), expected)


@ONE
def test_lossy_pixels_are_close_to_pillows(name: str) -> None:
    """JPEG leaves the last bit of the inverse transform and the chroma filter to the decoder."""
    expected = np.asarray(Image.open(io.BytesIO(ENCODED[name])).convert("RGB"))
    got = decode(ENCODED[name], spec())
    difference = np.abs(got.astype(int) - expected.astype(int))
    assert difference.mean() < 2
    assert difference.max() < 40


@ONE
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_result_is_what_the_spec_says(name: str, mode: Mode) -> None:
    for height, width in ((HEIGHT, WIDTH), (8, 8), (40, 3)):
        image = decode(ENCODED[name], spec(mode, height, width))
        assert image.shape == spec(mode, height, width).shape_HWC
        assert image.dtype == np.uint8
        assert image.flags.c_contiguous


def test_grey_file_as_grey_is_untouched() -> None:
    np.testing.assert_array_equal(decode(ENCODED["png-grey"], spec("L"))[:, :, 0], GREY)


def test_grey_file_as_rgb_has_three_equal_channels() -> None:
    image = decode(ENCODED["png-grey"], spec())
    for channel in range(3):
        np.testing.assert_array_equal(image[:, :, channel], GREY)


def test_colour_as_grey_is_luma() -> None:
    """ITU-R BT.601, as Pillow and every camera have it; rounding may differ by one."""
    expected = np.asarray(Image.fromarray(RGB).convert("L")).astype(int)
    got = decode(ENCODED["png"], spec("L"))[:, :, 0].astype(int)
    assert np.abs(got - expected).max() <= 1


def test_transparency_is_dropped() -> None:
    alpha = np.dstack([RGB, np.tile(np.arange(WIDTH, dtype=np.uint8) * 7, (HEIGHT, 1))])
    np.testing.assert_array_equal(decode(save(alpha, "PNG"), spec()), RGB)


def test_sixteen_bits_are_cut_to_eight() -> None:
    deep = GREY.astype(np.uint16) * 256 + 255
    np.testing.assert_array_equal(decode(save(deep, "PNG"), spec("L"))[:, :, 0], GREY)


def test_one_bit_and_palette() -> None:
    black_white = Image.fromarray(GREY > 128)
    file = io.BytesIO()
    black_white.save(file, "PNG")
    expected = np.asarray(black_white.convert("L"))
    np.testing.assert_array_equal(decode(file.getvalue(), spec("L"))[:, :, 0], expected)
    expected = np.asarray(Image.open(io.BytesIO(ENCODED["png-palette"])).convert("RGB"))
    np.testing.assert_array_equal(decode(ENCODED["png-palette"], spec()), expected)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_exif_orientation_is_applied(orientation: int, mode: Mode) -> None:
    """A photograph held upright is upright."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    encoded = save(RGB, "JPEG", exif=exif, quality=100, subsampling=0)
    upright = Image.open(io.BytesIO(encoded))
    upright = upright.convert(mode)
    transposed = _exif_transpose(upright, orientation)
    height, width = transposed.height, transposed.width
    assert (height, width) == ((WIDTH, HEIGHT) if orientation > 4 else (HEIGHT, WIDTH))
    got = decode(encoded, spec(mode, height, width)).squeeze()
    expected = np.asarray(transposed).astype(int)
    assert np.abs(got.astype(int) - expected).max() <= 6


def _exif_transpose(image: Image.Image, orientation: int) -> Image.Image:
    operations = {
        2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM, 5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_90,
    }  # fmt: skip
    return image.transpose(operations[orientation]) if orientation in operations else image


@given(st.integers(1, 40), st.integers(1, 40), st.sampled_from([1, 3]), st.integers(0, 99))
def test_encode_png_loses_nothing(height: int, width: int, channels: int, seed: int) -> None:
    image = np.random.default_rng(seed).integers(0, 256, (height, width, channels), np.uint8)
    mode: Mode = "L" if channels == 1 else "RGB"
    np.testing.assert_array_equal(decode(encode_png(image), spec(mode, height, width)), image)


# Sizes


def wide(height: int, width: int) -> NDArray[np.uint8]:
    """Grey that rises from left to right, so that a place can be read off a pixel."""
    return np.tile(np.linspace(0, 255, width).astype(np.uint8), (height, 1))


def test_same_size_is_the_same_object() -> None:
    assert fit(RGB, spec()) is RGB


def test_stretch_uses_the_whole_image() -> None:
    image = fit(wide(10, 100), ImageSpec("L", 10, 10, "stretch"))
    assert image.shape == (10, 10)
    assert image[0, 0] < 15
    assert image[0, -1] > 240


def test_crop_keeps_the_centre() -> None:
    image = fit(wide(10, 100), ImageSpec("L", 10, 10, "crop"))
    assert image.shape == (10, 10)
    assert 105 < image[0, 0] < image[0, -1] < 150
    tall = fit(wide(10, 100).T.copy(), ImageSpec("L", 10, 10, "crop"))
    assert 105 < tall[0, 0] < tall[-1, 0] < 150


def test_pad_keeps_all_and_adds_black() -> None:
    white = np.full((10, 100), 255, np.uint8)
    image = fit(white, ImageSpec("L", 100, 100, "pad"))
    assert image.shape == (100, 100)
    np.testing.assert_array_equal(image[45:55], 255)
    assert not image[:45].any()
    assert not image[55:].any()
    tall = fit(white.T.copy(), ImageSpec("L", 100, 100, "pad"))
    np.testing.assert_array_equal(tall, image.T)


def test_area_averages() -> None:
    blocks = np.kron(np.array([[0, 100], [200, 250]], np.uint8), np.ones((8, 8), np.uint8))
    noisy = blocks.copy()
    noisy[::2, ::2] += 4
    image = fit(noisy, ImageSpec("L", 2, 2, "stretch", "area"))
    np.testing.assert_array_equal(image, [[1, 101], [201, 251]])


def test_nearest_invents_no_value() -> None:
    image = fit(wide(3, 100), ImageSpec("L", 9, 37, "stretch", "nearest"))
    assert set(image.ravel()) <= set(wide(3, 100).ravel())


@given(
    st.integers(1, 80), st.integers(1, 80), st.integers(1, 40), st.integers(1, 40),
    st.sampled_from(["stretch", "crop", "pad"]),
    st.sampled_from(["nearest", "linear", "cubic", "area"]), st.sampled_from([1, 3]),
)  # fmt: skip
@settings(max_examples=300)
def test_any_size_becomes_any_other(
    height: int, width: int, to_height: int, to_width: int, resize: Resize,
    interpolation: Interpolation, channels: int,
) -> None:  # fmt: skip
    """White stays white, and how much of it is left says what each rule did."""
    mode: Mode = "L" if channels == 1 else "RGB"
    shape = (height, width) if channels == 1 else (height, width, 3)
    white = np.full(shape, 255, np.uint8)
    image = fit(white, ImageSpec(mode, to_height, to_width, resize, interpolation))
    assert image.shape == (to_height, to_width) if channels == 1 else (to_height, to_width, 3)
    assert image.flags.c_contiguous
    if resize != "pad":
        assert (image == 255).all()
        return
    rows = image.reshape(to_height, to_width, -1)[:, :, 0]
    kept_height, kept_width = rows.any(axis=1).sum(), rows.any(axis=0).sum()
    assert kept_height == to_height or kept_width == to_width
    assert (rows[rows > 0] == 255).all()
    scale = min(to_height / height, to_width / width)
    assert abs(kept_height - max(1, height * scale)) <= 0.5 + 1e-9
    assert abs(kept_width - max(1, width * scale)) <= 0.5 + 1e-9


@pytest.mark.parametrize("resize", ["stretch", "crop", "pad"])
def test_extreme_shape_needs_little_memory(resize: str) -> None:
    """A strip of a pixel's height, within the limit of pixels, in a process of 1 GiB."""
    program = (
        "import resource, sys\n"
        "import numpy as np\n"
        "from models.artifact import ImageSpec\n"
        "from models.image import ImageError, decode, encode_png\n"
        "strip = encode_png(np.zeros((1, 1_000_000, 3), np.uint8))\n"
        f"spec = ImageSpec('RGB', 224, 224, {resize!r})\n"
        "used = int(open('/proc/self/statm').read().split()[0]) * 4096\n"
        "resource.setrlimit(resource.RLIMIT_AS, (used + 2**30,) * 2)\n"
        "try:\n"
        "    assert decode(strip, spec).shape == (224, 224, 3)\n"
        "except ImageError:\n"
        "    pass\n"
    )
    if not hasattr(resource, "RLIMIT_AS") or not Path("/proc/self/statm").exists():
        pytest.skip("needs Linux")
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True, timeout=60)


# Limits


def png_header(width: int, height: int) -> bytes:
    """A PNG that announces a size and holds a few bytes."""
    header = struct.pack(">II5B", width, height, 8, 2, 0, 0, 0)

    def chunk(kind: bytes, content: bytes) -> bytes:
        crc = zlib.crc32(kind + content)
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", crc)

    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b"\0" * 100))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize(
    "size", [(2**31 - 1, 2**31 - 1), (100_000, 100_000), (MAX_PIXELS + 1, 1), (5793, 5793)]
)
def test_bombs_are_refused_before_decoding(size: tuple[int, int]) -> None:
    with pytest.raises(ImageTooLargeError, match=f"got {size[0]} x {size[1]}"):
        decode(png_header(*size), spec())


@ONE
def test_limit_is_exact(name: str) -> None:
    decode(ENCODED[name], spec(), HEIGHT * WIDTH)
    with pytest.raises(ImageTooLargeError, match=f"at most {HEIGHT * WIDTH - 1} pixels"):
        decode(ENCODED[name], spec(), HEIGHT * WIDTH - 1)


def test_real_bomb() -> None:
    """100 million pixels in 100 KB."""
    bomb = io.BytesIO()
    Image.new("1", (10_000, 10_000)).save(bomb, "PNG")
    assert len(bomb.getvalue()) < 200_000
    with pytest.raises(ImageTooLargeError):
        decode(bomb.getvalue(), spec())


@pytest.mark.parametrize("size", [(0, 0), (0, 5), (5, 0)])
def test_image_without_pixels(size: tuple[int, int]) -> None:
    with pytest.raises(ImageError):
        decode(png_header(*size), spec())


def test_header_that_lies_about_its_pixels() -> None:
    """The size that is checked must be the size that is decoded."""
    small = bytearray(ENCODED["webp-extended"])
    assert small[12:16] == b"VP8X"
    small[24:30] = bytes(6)  # a canvas of 1 x 1 around the same frame
    assert read_size(bytes(small)) == (1, 1)
    with pytest.raises(ImageError):
        decode(bytes(small), spec(), 100)


def test_jpeg_thumbnail_is_not_taken_for_the_image() -> None:
    thumbnail = save(photograph(1, 5, 7), "JPEG")
    exif = b"\xff\xe1" + struct.pack(">H", len(thumbnail) + 8) + b"Exif\0\0" + thumbnail
    encoded = b"\xff\xd8" + exif + ENCODED["jpeg"][2:]
    assert read_size(encoded) == (WIDTH, HEIGHT)
    assert decode(encoded, spec()).shape == (HEIGHT, WIDTH, 3)


# What is no image


@pytest.mark.parametrize(
    "content",
    [
        b"", b"\0", b"hello", b"<svg xmlns='http://www.w3.org/2000/svg'/>", b"GIF89a" + bytes(99),
        b"II*\0" + bytes(99), b"%PDF-1.7", b"\x89PNG", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff",
        b"\xff\xd8\xff\xe0\0\0", b"\xff\xd8\xff" + b"\xff" * 5000, b"RIFF\0\0\0\0WEBP",
        b"RIFF\0\0\0\0WEBPVP8 ", b"RIFF\0\0\0\0WEBPVP8L" + bytes(30), b"BM", b"BM" + bytes(23),
        b"BM" + bytes(200), b"BM" + b"\xff" * 200, b"\0\0\0\x20ftypavif" + bytes(99),
    ],
)  # fmt: skip
def test_no_image(content: bytes) -> None:
    with pytest.raises(ImageError, match="^image: expected "):
        decode(content, spec())


def test_jpeg_segment_without_a_length_ends() -> None:
    """A length of 0 is less than its own two bytes; the walk must still go forward."""
    with pytest.raises(ImageError):
        read_size(b"\xff\xd8" + b"\xff\xe0\0\0" * 100_000)


@ONE
def test_every_truncation_is_refused(name: str) -> None:
    """But for what follows the last pixel, where all of the image is there."""
    encoded = ENCODED[name]
    whole = decode(encoded, spec())
    step = max(1, len(encoded) // 700)
    for size in [*range(0, len(encoded), step), *range(len(encoded) - 40, len(encoded))]:
        try:
            image = decode(encoded[:size], spec())
        except ImageError as error:
            assert str(error).startswith("image: expected ")
            assert "\n" not in str(error)
        else:
            assert size > len(encoded) - 20, f"{size} of {len(encoded)} bytes were taken as whole"
            np.testing.assert_array_equal(image, whole)


@ONE
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(seed=st.integers(0, 2**32))
def test_corruption_gives_an_array_or_an_image_error(name: str, seed: int) -> None:
    chance = random.Random(seed)
    encoded = bytearray(ENCODED[name])
    for _ in range(chance.choice([1, 1, 2, 5, 30])):
        position = chance.randrange(min(len(encoded), chance.choice([30, 200, 100_000])))
        encoded[position] = chance.choice([0, 255, 128, chance.randrange(256)])
    try:
        image = decode(bytes(encoded), spec("RGB", 8, 8), 1 << 20)
    except ImageError as error:
        assert "\n" not in str(error)
        return
    assert image.shape == (8, 8, 3)
    assert image.dtype == np.uint8


@given(
    st.sampled_from([b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"RIFF....WEBPVP8X", b"BM", b""]),
    st.binary(max_size=200),
)
@settings(max_examples=300, deadline=None)
def test_random_bytes_are_refused(head: bytes, tail: bytes) -> None:
    try:
        image = decode(head + tail, spec("L", 8, 8), 1 << 20)
    except ImageError:
        return
    assert image.shape == (8, 8, 1)
