from pathlib import Path

import pytest

from export.errors import AdoptError
from export.geometry import image_spec
from export.options import Options, read_options
from models.artifact import Crop, ImageSpec, Mode, Resize


def test_flags_win_over_toml_and_toml_over_defaults(tmp_path: Path) -> None:
    toml = tmp_path / "pixels.toml"
    toml.write_text('scale = "1/255"\nmean = [0.1, 0.2, 0.3]\nsize = [224, 256]\nlayout = "NHWC"\n')
    got = read_options(toml, {"layout": "NCHW", "std": "0.5", "mean": None})
    assert got == Options("NCHW", 1 / 255, (0.1, 0.2, 0.3), (0.5,), size=(224, 256))
    assert read_options(None, {}) == Options(is_scaled=False)
    for size in ("224", 224, "224x224", "224X224", [224]):
        assert read_options(None, {"size": size}).size == (224, 224)
    assert read_options(None, {"mean": "1/2,2,3"}).mean == (0.5, 2, 3)


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        ({"layout": "CHWN"}, "layout: expected NCHW or NHWC, got 'CHWN'"),
        (
            {"resize": "squash"},
            "resize: expected stretch, crop, pad or the shorter side, 1 to 16384",
        ),
        ({"resize": "0.875"}, "resize: expected stretch, crop, pad or the shorter side"),
        ({"resize": 0}, "resize: .* pixels, got 0"),
        ({"resize": "16385"}, "resize: .* pixels, got '16385'"),
        ({"resize": True}, "resize: .* got True"),
        ({"crop_share": "0"}, "crop_share: expected above 0, at most 1, got '0'"),
        ({"crop_share": "1.1"}, "crop_share: expected above 0, at most 1"),
        ({"crop_share": "1/2,1/2"}, "crop_share: expected one number"),
        ({"crop_rounding": "trunc"}, "crop_rounding: expected half-even or floor"),
        ({"filter": "area"}, "filter: expected nearest or box"),
        ({"pad_colour": "1,2"}, "pad_colour: expected one number or three, 0 to 255"),
        ({"pad_colour": "256"}, "pad_colour: expected one number or three, 0 to 255"),
        ({"pad_colour": "0.5"}, "pad_colour: expected one number or three, 0 to 255"),
        ({"loader": "opencv"}, "loader: expected viewer or pillow"),
        ({"scale": "1/0"}, "scale: expected numbers"),
        ({"scale": "inf"}, "scale: expected numbers"),
        ({"scale": "nan"}, "scale: expected numbers"),
        ({"scale": "1,2"}, "scale: expected one number"),
        ({"mean": "1,2"}, "mean: expected one number or three"),
        ({"std": "1,0,1"}, "std not 0"),
        ({"size": "0"}, "size: expected 224 or 224x256"),
        ({"size": "2_2x3"}, "size: expected 224 or 224x256"),
        ({"size": "224x"}, "size: expected 224 or 224x256"),
        ({"size": [224, True]}, "size: expected 224 or 224x256"),
        ({"size": "1x2x3"}, "size: expected 224 or 224x256"),
        ({"output": 3}, "output: expected a name"),
    ],
)
def test_a_value_that_is_none_is_named(flags: dict[str, object], reason: str) -> None:
    with pytest.raises(AdoptError, match=reason):
        read_options(None, flags)


def test_a_toml_that_is_none_is_named(tmp_path: Path) -> None:
    toml = tmp_path / "pixels.toml"
    toml.write_text("size = ")
    with pytest.raises(AdoptError, match="expected TOML"):
        read_options(toml, {})
    toml.write_text("meen = 3")
    with pytest.raises(AdoptError, match=r"expected layout, scale, .*got 'meen'"):
        read_options(toml, {})


def image(
    flags: dict[str, object], height: int = 224, width: int = 224, mode: Mode = "RGB"
) -> ImageSpec:
    return image_spec(read_options(None, flags), mode, height, width)


@pytest.mark.parametrize(
    ("flags", "resize"),
    [
        ({}, Resize("both")),
        ({"resize": "stretch"}, Resize("both")),
        ({"resize": "crop"}, Resize("shorter")),
        ({"resize": "pad"}, Resize("longer")),
        ({"resize": "256", "filter": "bicubic"}, Resize("shorter", "bicubic", 256, 256)),
        ({"resize": 232}, Resize("shorter", "bilinear", 232, 232)),
        ({"crop_share": "0.875"}, Resize("shorter", "bilinear", 256, 256)),
        ({"resize": "crop", "crop_share": 0.9}, Resize("shorter", "bilinear", 248, 248)),
        ({"resize": "stretch", "crop_share": 0.95}, Resize("both", "bilinear", 235, 235)),
        ({"resize": "pad", "crop_share": 1}, Resize("longer", "bilinear", 224, 224, "half-even")),
    ],
)
def test_the_resize_that_the_options_name(flags: dict[str, object], resize: Resize) -> None:
    assert image(flags).resize == resize


def test_a_graph_that_is_no_square() -> None:
    """torchvision's one number is the shorter side's, timm's share is of each side."""
    assert image({"resize": 256}, 224, 160).resize == Resize("shorter", "bilinear", 256, 256)
    shared = Resize("shorter", "bilinear", 256, 182, "half-even")
    assert image({"crop_share": 0.875}, 224, 160).resize == shared


def test_the_padding_and_the_loader_that_the_options_name() -> None:
    assert image({}) == ImageSpec("RGB", 224, 224, background=(255, 255, 255))
    pillow = ImageSpec("RGB", 224, 224, exif=False, clip_16_bits=True)
    assert image({"loader": "pillow"}) == pillow
    assert image({"pad_colour": 114}).crop == Crop((114, 114, 114))
    assert image({"pad_colour": "1,2,3", "crop_rounding": "floor"}).crop == Crop(
        (1, 2, 3), rounding="floor"
    )
    assert image({"pad_colour": "7"}, mode="L").crop == Crop((7,))


def test_options_that_contradict_each_other() -> None:
    with pytest.raises(AdoptError, match="crop_share: expected none beside resize 256"):
        image({"resize": 256, "crop_share": 0.875})
    with pytest.raises(AdoptError, match=r"pad_colour: expected one number, .* got \[1, 2, 3\]"):
        image({"pad_colour": "1,2,3"}, mode="L")
