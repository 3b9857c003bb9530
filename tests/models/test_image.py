"""The decoder against Pillow."""

import io
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, ImageOps

from models.artifact import ImageSpec, Interpolation, Mode, Resize
from models.geometry import fit
from models.image import (
    decode,
    encode_png,
    read_size,
)
from tests.models.pictures import ENCODED, EXIF, GREY, HEIGHT, RGB, WIDTH, photograph, save, spec

ONE = pytest.mark.parametrize("name", ENCODED)


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


@ONE
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_pixels_are_pillows(name: str, mode: Mode) -> None:
    expected = np.asarray(Image.open(io.BytesIO(ENCODED[name])).convert(mode))
    np.testing.assert_array_equal(decode(ENCODED[name], spec(mode)).squeeze(), expected)


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
    noisy = np.array([[0, 100], [200, 250]], np.uint8).repeat(8, axis=0).repeat(8, axis=1)
    noisy[::2, ::2] += np.uint8(4)
    image = fit(noisy, ImageSpec("L", 2, 2, "stretch", "area"))
    np.testing.assert_array_equal(image, [[1, 101], [201, 251]])


def test_nearest_invents_no_value() -> None:
    image = fit(wide(3, 100), ImageSpec("L", 9, 37, "stretch", "nearest"))
    assert set(image.ravel()) <= set(wide(3, 100).ravel())


@given(
    st.integers(1, 80),
    st.integers(1, 80),
    st.integers(1, 40),
    st.integers(1, 40),
    st.sampled_from(["stretch", "crop", "pad"]),
    st.sampled_from(["nearest", "linear", "cubic", "area"]),
    st.sampled_from([1, 3]),
)
@settings(max_examples=300)
def test_any_size_becomes_any_other(  # noqa: PLR0917 - what hypothesis draws
    height: int,
    width: int,
    to_height: int,
    to_width: int,
    resize: Resize,
    interpolation: Interpolation,
    channels: int,
) -> None:
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


# Scaled decoding


@pytest.mark.parametrize("orientation", [1, 6])
@pytest.mark.parametrize(
    ("height", "width", "scale"),
    [(320, 480, 8), (319, 480, 4), (160, 400, 4), (159, 400, 2), (80, 80, 2), (79, 800, 1)],
)
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_a_large_jpeg_is_decoded_at_the_smallest_scale_that_suffices(
    mode: Mode, height: int, width: int, scale: int, orientation: int
) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    encoded = save(photograph(1, height, width), "JPEG", quality=95, exif=exif)
    image = Image.open(io.BytesIO(encoded))
    image.draft("RGB", (width // scale, height // scale))
    reduced = np.asarray(ImageOps.exif_transpose(image).convert(mode))
    sides = (height, width) if orientation == 1 else (width, height)
    assert reduced.shape[:2] == tuple(-(-side // scale) for side in sides)
    to = ImageSpec(mode, 16, 20, scaled_decoding=True)
    expected = fit(reduced, to).reshape(to.shape_HWC)
    np.testing.assert_array_equal(decode(encoded, to), expected)


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 300), st.integers(1, 300))
def test_scaled_decoding_is_close_to_decoding_whole(height: int, width: int) -> None:
    """Each pixel within what its neighbours span: sizes are rounded up, so content moves a bit."""
    encoded = save(photograph(2, height, width), "JPEG", quality=95)
    whole, scaled = (
        decode(encoded, ImageSpec("RGB", 12, 12, scaled_decoding=is_scaled)).astype(int)
        for is_scaled in (False, True)
    )
    padded = np.pad(whole, ((1, 1), (1, 1), (0, 0)), "edge")
    around = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(0, 1))
    low, high = around.min(axis=(-1, -2)), around.max(axis=(-1, -2))
    assert np.all((low - 12 <= scaled) & (scaled <= high + 12))


@pytest.mark.parametrize("name", [name for name in ENCODED if not name.startswith("jpeg")])
def test_only_jpegs_are_decoded_at_a_scale(name: str) -> None:
    small = replace(spec(height=2, width=2), scaled_decoding=True)
    np.testing.assert_array_equal(
        decode(ENCODED[name], small), decode(ENCODED[name], spec(height=2, width=2))
    )
