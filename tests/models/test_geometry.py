"""Resize, crop and pad, against Pillow and the rules of torchvision, timm and transformers."""

import math
import subprocess
import sys
from typing import Literal, get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from models.artifact import Crop, Filter, ImageSpec, Mode, OpenCVResize, Resize
from models.enlarge import enlarge
from models.geometry import fit
from tests.models.pictures import RGB, spec
from tests.server import ROOT

Pixels = NDArray[np.uint8]
SIDES = st.integers(1, 90)
FILTERS = st.sampled_from(get_args(Filter))


def noise(height: int, width: int, channels: int = 3, seed: int = 0) -> Pixels:
    shape = (height, width) if channels == 1 else (height, width, channels)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def pillow(image: Pixels, height: int, width: int, kind: Filter) -> Pixels:
    resized = Image.fromarray(image).resize((width, height), Image.Resampling[kind.upper()])
    return np.asarray(resized)


def padded(image: Pixels, top: int, left: int, height: int, width: int) -> Pixels:
    """An image on black at a place, which may be outside, cut to a size."""
    cut = image[max(0, -top) :, max(0, -left) :]
    top, left = max(0, top), max(0, left)
    cut = cut[: height - top, : width - left]
    canvas = np.zeros((height, width, *image.shape[2:]), np.uint8)
    canvas[top : top + cut.shape[0], left : left + cut.shape[1]] = cut
    return canvas


def torchvision_eval(image: Pixels, resize: int, height: int, width: int, kind: Filter) -> Pixels:
    """``Resize(int)`` and ``CenterCrop`` of torchvision 0.29 on a PIL image.

    transforms/functional.py: ``_compute_resized_output_size`` cuts the longer side to a whole
    number; ``center_crop`` pads first, the odd pixel right and below, then rounds half to even.
    """
    short, long = sorted(image.shape[:2])
    scaled = resize, int(resize * long / short)
    sizes = scaled if image.shape[0] <= image.shape[1] else scaled[::-1]
    resized = pillow(image, *sizes, kind)
    offsets = [
        round((size - target) / 2.0) if size >= target else -((target - size) // 2)
        for size, target in zip(sizes, (height, width), strict=True)
    ]
    return padded(resized, -offsets[0], -offsets[1], height, width)


@settings(deadline=None, max_examples=300)
@given(SIDES, SIDES, st.integers(1, 40), st.integers(1, 48), st.integers(1, 48), FILTERS)
def test_resize_and_centre_crop_as_torchvision(
    height: int, width: int, resize: int, to_height: int, to_width: int, kind: Filter
) -> None:
    image = noise(height, width)
    got = fit(image, ImageSpec("RGB", to_height, to_width, Resize("shorter", kind, resize, resize)))
    np.testing.assert_array_equal(got, torchvision_eval(image, resize, to_height, to_width, kind))


@settings(deadline=None, max_examples=100)
@given(SIDES, SIDES, st.integers(1, 60), st.integers(1, 60), FILTERS, st.sampled_from([1, 3]))
def test_both_sides_as_pillow(
    height: int, width: int, to_height: int, to_width: int, kind: Filter, channels: int
) -> None:
    image = noise(height, width, channels)
    mode: Mode = "L" if channels == 1 else "RGB"
    got = fit(image, ImageSpec(mode, to_height, to_width, Resize("both", kind)))
    np.testing.assert_array_equal(got, pillow(image, to_height, to_width, kind))
    assert got.flags.c_contiguous


@settings(deadline=None, max_examples=200)
@given(SIDES, SIDES, st.integers(8, 60), st.integers(8, 60), st.sampled_from([0.0, 1.0]))
def test_keeping_the_ratio_as_timm(
    height: int, width: int, to_height: int, to_width: int, longest: float
) -> None:
    """timm 1.0.31, data/transforms.py: ``ResizeKeepRatio`` and ``CenterCropOrPad``."""
    image = noise(height, width)
    ratios = height / to_height, width / to_width
    ratio = max(ratios) * longest + min(ratios) * (1.0 - longest)
    sizes = round(height / ratio), round(width / ratio)
    if min(sizes) < 1:
        return  # timm fails
    offsets = [
        round((size - target) / 2.0) if size >= target else -((target - size) // 2)
        for size, target in zip(sizes, (to_height, to_width), strict=True)
    ]
    expected = padded(
        pillow(image, *sizes, "bicubic"), -offsets[0], -offsets[1], to_height, to_width
    )
    side: Literal["longer", "shorter"] = "longer" if longest else "shorter"
    resize = Resize(side, "bicubic", rounding="half-even")
    np.testing.assert_array_equal(
        fit(image, ImageSpec("RGB", to_height, to_width, resize)), expected
    )


@settings(deadline=None, max_examples=200)
@given(SIDES, SIDES, SIDES, SIDES, st.booleans())
def test_centre_crop_as_transformers(
    height: int, width: int, to_height: int, to_width: int, is_pil: bool
) -> None:
    """transformers 5.24: image_transforms.py ``center_crop`` and its torchvision backend's.

    The first rounds the offset down and the padding up, the second both toward zero.
    """
    image = noise(height, width)
    offsets = [
        math.floor((size - target) / 2) if is_pil else int((size - target) / 2.0)
        for size, target in ((height, to_height), (width, to_width))
    ]
    crop = Crop(rounding="floor" if is_pil else "trunc")
    got = fit(image, ImageSpec("RGB", to_height, to_width, None, crop))
    np.testing.assert_array_equal(got, padded(image, -offsets[0], -offsets[1], to_height, to_width))


def test_padding_has_a_colour_and_a_place() -> None:
    """As detectors and SAM do: the longer side to the size, the picture in the corner."""
    white = np.full((10, 20, 3), 255, np.uint8)
    crop = Crop((1, 2, 3), "top-left")
    image = fit(white, ImageSpec("RGB", 40, 40, Resize("longer"), crop))
    assert (image[:20] == 255).all()
    assert (image[20:] == (1, 2, 3)).all()
    grey = fit(white[:, :, 0].copy(), ImageSpec("L", 40, 40, Resize("longer"), Crop((7,))))
    assert (grey[:10] == 7).all() and (grey[10:30] == 255).all() and (grey[30:] == 7).all()


def test_same_size_is_the_same_object() -> None:
    assert fit(RGB, spec()) is RGB


def test_a_picture_of_the_models_size_is_resized_where_the_geometry_says_so() -> None:
    image = noise(24, 24)
    to = ImageSpec("RGB", 24, 24, Resize("shorter", "bicubic", 32, 32))
    assert not to.keeps_own_size
    np.testing.assert_array_equal(fit(image, to), pillow(image, 32, 32, "bicubic")[4:28, 4:28])


@pytest.mark.parametrize("channels", [1, 3])
def test_one_channel_may_have_an_axis(channels: int) -> None:
    image = noise(9, 14, 3)[:, :, :channels].copy()
    mode: Mode = "L" if channels == 1 else "RGB"
    got = fit(image, ImageSpec(mode, 6, 6, Resize("shorter")))
    assert got.shape == (6, 6, channels)


# Strips


@settings(deadline=None, max_examples=400)
@given(
    st.integers(1, 40),
    st.integers(1, 40),
    st.integers(0, 90),
    st.integers(0, 90),
    FILTERS,
    st.data(),
)
def test_part_of_an_enlargement_is_the_part_of_pillows(
    height: int, width: int, more_rows: int, more_columns: int, kind: Filter, data: st.DataObject
) -> None:
    size = height + more_rows, width + more_columns
    top, left = (data.draw(st.integers(0, side - 1)) for side in size)
    bottom = data.draw(st.integers(top + 1, size[0]))
    right = data.draw(st.integers(left + 1, size[1]))
    image = noise(height, width, data.draw(st.sampled_from([1, 3])))
    expected = pillow(image, *size, kind)[top:bottom, left:right]
    got = enlarge(image, size, (top, bottom), (left, right), kind)
    np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("kind", get_args(Filter))
@pytest.mark.parametrize("shape", [(3, 200), (200, 3), (1, 4000), (4000, 1)])
def test_a_strip_is_cut_from_its_whole_enlargement(shape: tuple[int, int], kind: Filter) -> None:
    image = noise(*shape)
    to = ImageSpec("RGB", 24, 24, Resize("shorter", kind, 28, 28))
    np.testing.assert_array_equal(fit(image, to), torchvision_eval(image, 28, 24, 24, kind))


# Format 1


def wide(height: int, width: int) -> Pixels:
    """Grey that rises from left to right, so that a place can be read off a pixel."""
    return np.tile(np.linspace(0, 255, width).astype(np.uint8), (height, 1))


def test_stretch_uses_the_whole_image() -> None:
    image = fit(wide(10, 100), ImageSpec("L", 10, 10, OpenCVResize("stretch")))
    assert image.shape == (10, 10)
    assert image[0, 0] < 15
    assert image[0, -1] > 240


def test_crop_keeps_the_centre() -> None:
    image = fit(wide(10, 100), ImageSpec("L", 10, 10, OpenCVResize("crop")))
    assert image.shape == (10, 10)
    assert 105 < image[0, 0] < image[0, -1] < 150
    tall = fit(wide(10, 100).T.copy(), ImageSpec("L", 10, 10, OpenCVResize("crop")))
    assert 105 < tall[0, 0] < tall[-1, 0] < 150


def test_pad_keeps_all_and_adds_black() -> None:
    white = np.full((10, 100), 255, np.uint8)
    image = fit(white, ImageSpec("L", 100, 100, OpenCVResize("pad")))
    assert image.shape == (100, 100)
    np.testing.assert_array_equal(image[45:55], 255)
    assert not image[:45].any()
    assert not image[55:].any()
    tall = fit(white.T.copy(), ImageSpec("L", 100, 100, OpenCVResize("pad")))
    np.testing.assert_array_equal(tall, image.T)


def test_area_averages() -> None:
    noisy = np.array([[0, 100], [200, 250]], np.uint8).repeat(8, axis=0).repeat(8, axis=1)
    noisy[::2, ::2] += np.uint8(4)
    image = fit(noisy, ImageSpec("L", 2, 2, OpenCVResize("stretch", "area")))
    np.testing.assert_array_equal(image, [[1, 101], [201, 251]])


def test_nearest_invents_no_value() -> None:
    image = fit(wide(3, 100), ImageSpec("L", 9, 37, OpenCVResize("stretch", "nearest")))
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
    rule: Literal["stretch", "crop", "pad"],
    interpolation: Literal["nearest", "linear", "cubic", "area"],
    channels: int,
) -> None:
    """White stays white, and how much of it is left says what each rule did."""
    mode: Mode = "L" if channels == 1 else "RGB"
    shape = (height, width) if channels == 1 else (height, width, 3)
    white = np.full(shape, 255, np.uint8)
    image = fit(white, ImageSpec(mode, to_height, to_width, OpenCVResize(rule, interpolation)))
    assert image.shape == (to_height, to_width) if channels == 1 else (to_height, to_width, 3)
    assert image.flags.c_contiguous
    if rule != "pad":
        assert (image == 255).all()
        return
    rows = image.reshape(to_height, to_width, -1)[:, :, 0]
    kept_height, kept_width = rows.any(axis=1).sum(), rows.any(axis=0).sum()
    assert kept_height == to_height or kept_width == to_width
    assert (rows[rows > 0] == 255).all()
    scale = min(to_height / height, to_width / width)
    assert abs(kept_height - max(1, height * scale)) <= 0.5 + 1e-9
    assert abs(kept_width - max(1, width * scale)) <= 0.5 + 1e-9


def test_without_opencv_only_format_1_is_refused() -> None:
    """In a process where cv2 cannot be imported; the line names both remedies."""
    program = (
        "import sys\n"
        "sys.modules['cv2'] = None\n"
        "import numpy as np\n"
        "from models.artifact import ArtifactError, ImageSpec, OpenCVResize, Resize\n"
        "from models.geometry import check_available, fit\n"
        "image = np.zeros((9, 9, 3), np.uint8)\n"
        "assert fit(image, ImageSpec('RGB', 4, 4)).shape == (4, 4, 3)\n"
        "old = ImageSpec('RGB', 4, 4, OpenCVResize())\n"
        "check_available(ImageSpec('RGB', 4, 4), 'new')\n"
        "try:\n"
        "    check_available(old, 'mine')\n"
        "except ArtifactError as error:\n"
        "    print(error)\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        check=True,
        timeout=60,
        capture_output=True,
        text=True,
    )
    assert ended.stdout.count("\n") == 1
    assert "make install-opencv" in ended.stdout
    assert "foveal models upgrade mine" in ended.stdout
