"""Pixels are those of Pillow, torchvision, timm and transformers, whose transforms run here."""

import io
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from models.artifact import Filter, ImageSpec, Resize
from models.geometry import Pixels, fit
from models.image import decode_pixels
from tests.models.photographs import KINDS, photograph
from tests.models.pixels_table import compare, environment, rows_of
from tests.models.transforms import CONVERT, PACKAGES, UPRIGHT, Libraries, cases, libraries

LIBRARIES = pytest.mark.skipif(
    not PACKAGES.is_dir(), reason="needs torchvision, timm and transformers: make .venv/.user"
)
pytestmark = pytest.mark.filterwarnings("ignore:Palette images with Transparency")
SIZES = 8


@pytest.fixture(scope="module")
def peers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Libraries]:
    folder = tmp_path_factory.mktemp("peers")
    with libraries([sys.executable, "-P"], environment(), folder) as started:
        yield started


@pytest.mark.thorough
@LIBRARIES
def test_pixels_are_those_of_the_libraries(peers: Libraries, tmp_path: Path) -> None:
    """Where a library resizes tensors, few values differ."""
    rows = rows_of(cases())
    for number in range(SIZES):
        compare(photograph(number, 20, 600)[1], tmp_path / f"{number}", peers, rows)
    for row in rows.values():
        assert row.compared == row.transforms * SIZES
        if row.is_exact:
            assert row.different == 0, row
        else:
            assert row.different_values < row.values / 10, row


@pytest.mark.parametrize("number", range(len(KINDS)))
def test_files_are_opened_as_pillow_opens_them(number: int) -> None:
    """What a program without a loader of its own writes, and the same after ``exif_transpose``."""
    _, encoded = photograph(number, 20, 300)
    stored = Image.open(io.BytesIO(encoded)).convert("RGB")
    np.testing.assert_array_equal(decode_pixels(encoded, CONVERT), stored)
    shown = ImageOps.exif_transpose(Image.open(io.BytesIO(encoded))).convert("RGB")
    np.testing.assert_array_equal(decode_pixels(encoded, UPRIGHT), shown)


@pytest.mark.thorough
@LIBRARIES
def test_a_wrong_filter_and_a_wrong_crop_are_seen(peers: Libraries, tmp_path: Path) -> None:
    """The control: what the comparison above would not pass over."""
    picture = tmp_path / "0"
    kind, encoded = photograph(0, 300, 301)
    picture.write_bytes(encoded)
    made = peers.transform(picture)
    assert kind == "JPEG"
    for number, case in enumerate(cases()):
        assert isinstance(case.spec.resize, Resize)
        wrong: Filter = "bicubic" if case.spec.resize.filter != "bicubic" else "bilinear"
        spec = replace(case.spec, resize=replace(case.spec.resize, filter=wrong))
        assert differ(encoded, spec, made[str(number)]), case
        crop = case.spec.crop
        spec = replace(case.spec, crop=replace(crop, place="top-left"))
        if case.spec.resized != (case.spec.height, case.spec.width):
            assert differ(encoded, spec, made[str(number)]), case


def differ(encoded: bytes, spec: ImageSpec, expected: Pixels) -> bool:
    return not np.array_equal(fit(decode_pixels(encoded, CONVERT), spec), expected)
