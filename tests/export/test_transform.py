"""Descriptions of transforms, as ``torch_describe`` writes them, read into the contract."""

from typing import Any

import numpy as np
import pytest

from export.transform import read_transform
from models.artifact import Crop, Resize


def step(name: str, package: str = "torchvision.transforms.transforms", **given: Any) -> Any:
    return {"class": f"{package}.{name}", "attributes": given, "parts": []}


def compose(*steps: Any) -> Any:
    return step("Compose", transforms=list(steps))


def processor(kind: str, **given: Any) -> Any:
    defaults = {"do_resize": True, "resample": 3, "do_rescale": True, "rescale_factor": 1 / 255}
    return step(kind, "transformers", image_processor_type=kind, **(defaults | given))


RESIZE = step("Resize", size=256, interpolation="bicubic", max_size=None)
CROP = step("CenterCrop", size=[224, 224])
TENSOR = step("ToTensor")


def test_steps_in_order() -> None:
    norm = step("Normalize", mean=[0.1, 0.2, 0.3], std=[0.5, 0.5, 0.25])
    reading = read_transform(compose(RESIZE, CROP, compose(TENSOR, norm)))
    assert reading.unread == []
    assert reading.resize == Resize("shorter", "bicubic", 256, 256)
    assert reading.crop == Crop()
    assert reading.scale == 1 / 255
    np.testing.assert_allclose(reading.mean, [0.1, 0.2, 0.3])
    np.testing.assert_allclose(reading.std, [0.5, 0.5, 0.25])


def test_two_normalisations_become_one() -> None:
    steps = [TENSOR, step("Normalize", mean=[0.5], std=[0.5]), step("Normalize", mean=[2], std=[4])]
    reading = read_transform(compose(*steps))
    pixel = 51.0
    expected = ((pixel / 255 - 0.5) / 0.5 - 2) / 4
    got = (pixel * reading.scale - reading.mean[0]) / reading.std[0]
    assert got == pytest.approx(expected)


@pytest.mark.parametrize(
    ("given", "resize"),
    [
        ({"size": [224, 192], "interpolation": "bilinear"}, Resize("both", "bilinear", 224, 192)),
        ({"size": [256], "interpolation": 1}, Resize("shorter", "lanczos", 256, 256)),
        (
            {"size": None, "max_size": 99, "interpolation": "nearest-exact"},
            Resize("longer", "nearest", 99, 99),
        ),
    ],
)
def test_sizes_and_filters(given: dict[str, Any], resize: Resize) -> None:
    assert read_transform(step("Resize", **given)).resize == resize


def test_timm_keeps_the_ratio_and_pads() -> None:
    ratio = step("ResizeKeepRatio", "timm", size=[168, 168], interpolation="bicubic", longest=1.0)
    pad = step("CenterCropOrPad", "timm", size=[160, 160], fill=[124, 116, 104])
    reading = read_transform(compose(ratio, pad, step("MaybeToTensor", "timm")))
    assert reading.resize == Resize("longer", "bicubic", 168, 168, "half-even")
    assert reading.crop == Crop((124, 116, 104))
    assert (reading.scale, reading.unread) == (1 / 255, [])
    assert read_transform(step("ToTensor", "timm.data.transforms")).scale == 1


@pytest.mark.parametrize(
    ("kind", "given", "resize"),
    [
        ("ViTImageProcessor", {"size": {"height": 8, "width": 9}}, Resize("both", "bicubic", 8, 9)),
        (
            "CLIPImageProcessor",
            {"size": {"shortest_edge": 70, "height": None}},
            Resize("shorter", "bicubic", 70, 70),
        ),
        (
            "ConvNextImageProcessor",
            {"size": {"shortest_edge": 224}, "crop_pct": 0.875},
            Resize("shorter", "bicubic", 256, 256),
        ),
        (
            "ConvNextImageProcessor",
            {"size": {"shortest_edge": 384}, "crop_pct": 0.875},
            Resize("both", "bicubic", 384, 384),
        ),
        (
            "PoolFormerImageProcessor",
            {"size": {"shortest_edge": 224}, "crop_pct": 0.9},
            Resize("shorter", "bicubic", 248, 248),
        ),
        (
            "PoolFormerImageProcessor",
            {"size": {"height": 90, "width": 90}, "crop_pct": 0.9},
            Resize("shorter", "bicubic", 100, 100),
        ),
        (
            "PoolFormerImageProcessor",
            {"size": {"height": 90, "width": 45}, "crop_pct": 0.9},
            Resize("both", "bicubic", 100, 50),
        ),
        (
            "PoolFormerImageProcessor",
            {"size": {"shortest_edge": 224}, "crop_pct": None},
            Resize("shorter", "bicubic", 224, 224),
        ),
    ],
)
def test_image_processors(kind: str, given: dict[str, Any], resize: Resize) -> None:
    reading = read_transform(processor(kind, **given))
    assert reading.resize == resize
    assert reading.unread == []


def test_an_offset_and_the_order_of_channels_are_read() -> None:
    size = {"height": 8, "width": 8}
    offset = processor("E", size=size, rescale_factor=1 / 127.5, rescale_offset=True)
    reading = read_transform(offset)
    assert 255 * reading.scale - reading.mean[0] == pytest.approx(1)
    once, twice = (
        read_transform(
            processor("EfficientNetImageProcessor", size=size, image_std=[0.25], include_top=top)
        )
        for top in (False, True)
    )
    assert twice.mean[0] == once.mean[0]
    assert twice.std[0] == once.std[0] / 4
    flipped = processor("M", size=size, do_flip_channel_order=True)
    assert read_transform(flipped).channels == "BGR"


@pytest.mark.parametrize(
    ("unknown", "named"),
    [
        (step("Resize", size=8, max_size=9, interpolation="bilinear"), "Resize"),
        (step("RandomCrop"), "RandomCrop, which is for training"),
        (step("Pad"), "Pad"),
        (step("Grayscale", num_output_channels=3), "Grayscale"),
        (processor("P", size={"longest_edge": 9}), "P's size {'longest_edge': 9}"),
        (
            {"class": "function", "attributes": {"name": "f", "file": "e.py", "line": 3}}
            | {"parts": []},
            "the function f (e.py:3)",
        ),
    ],
)
def test_what_is_not_read_is_named(unknown: Any, named: str) -> None:
    assert read_transform(compose(unknown, TENSOR)).unread == [named]


def test_a_resize_after_the_crop_is_not_read() -> None:
    assert read_transform(compose(CROP, RESIZE)).unread == ["Resize"]


def test_specs_begin_with_what_people_write() -> None:
    """``Image.open(path).convert("RGB")``: no EXIF, transparency dropped."""
    first, *others = read_transform(processor("V", size={"height": 8, "width": 8})).specs(8, 8, 3)
    assert (first.exif, first.background, first.crop.rounding) == (False, None, "floor")
    assert first.clip_16_bits, "as Pillow's convert"
    assert {each.exif for each in others} == {True, False}
    assert {each.clip_16_bits for each in others} == {True, False}
    assert {each.crop.rounding for each in others} == {"floor", "trunc"}
