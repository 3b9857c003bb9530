"""The scan of JPEGs: equal to its twin, and what it lets pass libjpeg-turbo decodes in silence."""

import io
import random

import numpy as np
import pytest
import simplejpeg
from PIL import Image

from models import jpeg_scan
from models.jpeg import _HARMLESS
from models.jpeg_scan import SAMPLINGS, can_scan, scan
from service.session.gpu.golden_jpegs import golden_jpegs
from tests.models import jpeg_scan_twin as twin

pytestmark = pytest.mark.skipif(not can_scan(), reason="needs the compiled scan")

MUTATIONS = 1500


def picture(height: int = 24, width: int = 40) -> Image.Image:
    pixels = np.random.default_rng(height).integers(0, 256, (height, width, 3), np.uint8)
    return Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC)


def saved(image: Image.Image, **options: object) -> bytes:
    encoded = io.BytesIO()
    image.save(encoded, "JPEG", **options)  # type: ignore[arg-type]
    return encoded.getvalue()


def by_both(encoded: bytes) -> tuple[int, ...]:
    """The extension's answer, once it is the twin's."""
    found: tuple[int, ...] = vars(jpeg_scan)["_jpeg_scan"].scan(encoded)
    expected = twin.scan(encoded)
    assert found[: len(expected)] == expected
    return found


SMALL = [
    (kind, encoded)
    for kind, encoded in golden_jpegs()
    if np.prod(simplejpeg.decode_jpeg_header(encoded)[:2]) <= 70 * 131
]


def test_every_golden_jpeg_passes() -> None:
    for _, encoded in SMALL[::7]:
        by_both(encoded)
    for kind, encoded in golden_jpegs():
        found = scan(encoded)
        assert (found.reason, found.sampling) == ("", kind.split()[0])
        assert found.has_restarts == kind.endswith("restarts")
        assert (found.height, found.width) == simplejpeg.decode_jpeg_header(encoded)[:2]
    assert {kind.split()[0] for kind, _ in SMALL} == set(SAMPLINGS)


def test_what_a_camera_writes_passes() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    found = scan(
        saved(picture(), exif=exif, comment="hello", icc_profile=b"profile", optimize=True)
    )
    assert (found.reason, found.orientation) == ("", 6)


@pytest.mark.parametrize(
    ("encoded", "reason"),
    [
        (saved(picture(), progressive=True), "progressive"),
        (saved(picture().convert("CMYK")), "colours"),
        (saved(picture(), keep_rgb=True), "colours"),
        (saved(picture()) + b"\0", "unusual"),
        (saved(picture())[:-2], "damaged"),
        (saved(picture())[:-40], "damaged"),
        (saved(picture())[:300], "damaged"),
        (b"\xff\xd8\xff\xd9", "damaged"),
        (b"", "damaged"),
    ],
)
def test_what_is_not_usual_is_named(encoded: bytes, reason: str) -> None:
    by_both(encoded)
    assert scan(encoded).reason == reason


def test_no_mutation_is_read_otherwise_than_by_the_twin() -> None:
    """And what passes after all, libjpeg-turbo decodes without a warning about its pixels."""
    chance = random.Random(7)
    files = [encoded for _, encoded in SMALL if len(encoded) < 2000]
    passed = 0
    for _ in range(MUTATIONS):
        encoded = bytearray(chance.choice(files))
        for _ in range(chance.choice([1, 1, 1, 2, 5])):
            at = chance.randrange(len(encoded))
            if chance.random() < 0.1:
                del encoded[at : at + chance.randint(1, 3)]
            elif chance.random() < 0.1:
                encoded[at:at] = chance.choice([b"\xff", b"\0", b"\xff\xd0", b"\xff\xd9"])
            else:
                encoded[at] = chance.choice([encoded[at] ^ 1 << chance.randrange(8), 255, 0])
        mutated = bytes(encoded)
        if by_both(mutated)[0] == 0:
            passed += 1
            try:
                simplejpeg.decode_jpeg(mutated, strict=True)
            except ValueError as error:
                assert str(error).startswith(_HARMLESS), error
    assert passed > MUTATIONS / 100
