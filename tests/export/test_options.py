from pathlib import Path

import pytest

from export.errors import AdoptError
from export.options import Options, read_options
from models.artifact import Resize


def test_flags_win_over_toml_and_toml_over_defaults(tmp_path: Path) -> None:
    toml = tmp_path / "pixels.toml"
    toml.write_text('scale = "1/255"\nmean = [0.1, 0.2, 0.3]\nsize = [224, 256]\nlayout = "NHWC"\n')
    got = read_options(toml, {"layout": "NCHW", "std": "0.5", "mean": None})
    assert got == Options("NCHW", 1 / 255, (0.1, 0.2, 0.3), (0.5,), size=(224, 256))
    assert read_options(None, {}) == Options(is_scaled=False)
    assert read_options(None, {"size": "224"}).size == (224, 224)
    assert read_options(None, {"mean": "1/2,2,3"}).mean == (0.5, 2, 3)


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        ({"layout": "CHWN"}, "layout: expected NCHW or NHWC, got 'CHWN'"),
        ({"resize": "squash"}, "resize: expected stretch or crop or pad"),
        ({"scale": "1/0"}, "scale: expected numbers"),
        ({"scale": "inf"}, "scale: expected numbers"),
        ({"scale": "nan"}, "scale: expected numbers"),
        ({"scale": "1,2"}, "scale: expected one number"),
        ({"mean": "1,2"}, "mean: expected one number or three"),
        ({"std": "1,0,1"}, "std not 0"),
        ({"size": "0"}, "size: expected 224 or 224x256"),
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


def test_the_geometry_that_the_options_name() -> None:
    given = {"resize": "crop", "resize_to": "256", "interpolation": "bicubic"}
    assert read_options(None, given).geometry == Resize("shorter", "bicubic", 256, 256)
    assert read_options(None, {"resize_to": "8x9"}).geometry == Resize("both", "bilinear", 8, 9)
    with pytest.raises(AdoptError, match="resize_to: expected 224 or 224x256"):
        read_options(None, {"resize_to": "0.875"})
    with pytest.raises(AdoptError, match="interpolation: expected nearest or box"):
        read_options(None, {"interpolation": "area"})
