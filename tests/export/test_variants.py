"""Each file that adoption makes is opened differently by programs that differ in one thing."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from export.errors import AdoptError
from export.variants import write_variants
from models.artifact import ImageSpec
from models.image import decode
from tests.models.pictures import photograph, save

PILLOW = ImageSpec("RGB", 60, 80, exif=False, clip_16_bits=True)
OTHERS = {
    "turned.jpg": replace(PILLOW, exif=True),
    "transparent.png": replace(PILLOW, background=(255, 255, 255)),
    "palette.png": replace(PILLOW, background=(255, 255, 255)),
    "grey16.png": replace(PILLOW, clip_16_bits=False),
}


def test_every_file_tells_two_loaders_apart(tmp_path: Path) -> None:
    given = tmp_path / "given.png"
    given.write_bytes(save(photograph(3, 60, 80), "PNG"))
    made = {path.name: path for path in write_variants([given], tmp_path)}
    for name, other in OTHERS.items():
        encoded = made.pop(name).read_bytes()
        converted = Image.open(tmp_path / name).convert("RGB").resize((80, 60), 2)
        np.testing.assert_array_equal(decode(encoded, PILLOW), converted)
        change = np.abs(decode(encoded, PILLOW).astype(int) - decode(encoded, other)).mean()
        assert change > 10, (name, change)
    assert list(made) == ["cmyk.jpg"]
    with Image.open(made["cmyk.jpg"]) as cmyk:
        assert cmyk.mode == "CMYK"
    found = decode(made["cmyk.jpg"].read_bytes(), PILLOW)
    assert np.abs(found.astype(int) - photograph(3, 60, 80)).mean() < 10


def test_a_large_picture_is_made_small(tmp_path: Path) -> None:
    given = tmp_path / "given.jpg"
    given.write_bytes(save(photograph(0, 900, 1300), "JPEG"))
    for path in write_variants([given], tmp_path):
        with Image.open(path) as image:
            assert max(image.size) == 512


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no picture")
    with pytest.raises(AdoptError, match=r"broken\.png: image: expected"):
        write_variants([broken], tmp_path)
    with pytest.raises(AdoptError, match="expected --images"):
        write_variants([], tmp_path)
