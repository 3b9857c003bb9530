"""What a JPEG may hold: the pixels are Pillow's."""

import io
import random
import struct
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from models.artifact import Mode
from models.image import ImageError, decode
from models.jpeg import _inspect
from tests.models.pictures import (
    RGB,
    assert_pillows,
    picture,
    save,
    spec,
    written,
)

# Noise fills a file: of this size its markers are looked for one by one.
NOISE = np.random.default_rng(0).integers(0, 256, (240, 320, 3), np.uint8)
MODES = pytest.mark.parametrize("mode", ["RGB", "L"])


@MODES
@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:2", "4:2:0"])
@pytest.mark.parametrize("progressive", [False, True])
def test_jpeg_of_every_layout(mode: Mode, subsampling: str, progressive: bool) -> None:
    for quality in (5, 75, 100):
        assert_pillows(
            save(RGB, "JPEG", subsampling=subsampling, progressive=progressive, quality=quality),
            mode,
        )


@MODES
def test_jpeg_for_print(mode: Mode) -> None:
    """CMYK with and without Adobe's marker, and YCCK."""
    marked = written(picture("CMYK"), "JPEG", quality=98)
    at = marked.index(b"\xff\xee")
    bare = marked[:at] + marked[at + 2 + struct.unpack_from(">H", marked, at + 2)[0] :]
    at = marked.index(b"Adobe") + 11
    ycck = marked[:at] + b"\2" + marked[at + 1 :]
    for encoded in (marked, bare, ycck):
        assert_pillows(encoded, mode)


@pytest.mark.parametrize("stray", [b"\0", b"\0" * 7, b"\xff\0\xff\0", b"\xff\xff", b"\x12" * 99])
def test_stray_bytes_between_jpeg_segments_are_passed_over(stray: bytes) -> None:
    good = save(RGB, "JPEG")
    at = good.index(b"\xff\xdb")
    np.testing.assert_array_equal(
        decode(good[:at] + stray + good[at:], spec()), decode(good, spec())
    )


def test_jpeg_with_bytes_behind_its_end() -> None:
    """Phones put a video behind the picture."""
    good = save(RGB, "JPEG")
    behind = np.random.default_rng(0).integers(0, 256, 3_000_000, np.uint8).tobytes()
    assert behind.count(b"\xff\xda") > 20
    np.testing.assert_array_equal(decode(good + behind, spec()), decode(good, spec()))


def test_jpeg_subsampled_in_an_unusual_way_is_named() -> None:
    odd = bytearray(save(RGB, "JPEG"))
    frame = odd.index(b"\xff\xc0")
    odd[frame + 11] = 0x31
    with pytest.raises(ImageError, match="subsamplings"):
        decode(bytes(odd), spec())


def flipped(encoded: bytes, count: int) -> list[bytes]:
    """A JPEG with one bit of its data flipped, again and again."""
    chance = random.Random(0)
    first = encoded.index(b"\xff\xda") + 14
    changed = []
    for _ in range(count):
        content = bytearray(encoded)
        content[chance.randrange(first, len(encoded) - 2)] ^= 1 << chance.randrange(8)
        changed.append(bytes(content))
    return changed


def is_pillows(encoded: bytes) -> bool:
    try:
        with Image.open(io.BytesIO(encoded)) as image:
            image.load()
    except OSError:
        return False
    return True


@pytest.mark.parametrize(
    "options",
    [{}, {"progressive": True}, {"restart_marker_rows": 1}],
    ids=["plain", "scans", "restarts"],
)
def test_a_flipped_bit_is_refused_where_pillow_refuses_it(options: dict[str, int]) -> None:
    """The decoder gives up, and what it had decoded before is no picture."""
    noise = np.random.default_rng(0).integers(0, 256, (24, 24, 3), np.uint8)
    picture = Image.fromarray(noise).resize((160, 120), Image.Resampling.BICUBIC)
    counts: Counter[str] = Counter()
    for encoded in flipped(written(picture, "JPEG", quality=90, **options), 600):
        damage: list[str] = []
        try:
            decode(encoded, spec(), on_damage=damage.append)
        except ImageError as error:
            assert "truncated or corrupt" in str(error)
            counts["refused"] += 1
            counts["refused by Pillow"] += not is_pillows(encoded)
            continue
        assert is_pillows(encoded)
        counts["damaged" if damage else "silent"] += 1
    assert counts["refused by Pillow"], "there was nothing to refuse"
    assert counts["refused"] < 30
    assert counts["damaged"] >= 10
    assert counts["silent"] >= 100


def test_stray_bytes_are_damage_only_within_the_data() -> None:
    """There they are what a flipped bit leaves over, or what a camera put there."""
    good = save(RGB, "JPEG")
    for place, is_within in ((good.index(b"\xff\xdb"), False), (len(good) - 2, True)):
        damage: list[str] = []
        encoded = good[:place] + bytes(9) + good[place:]
        pixels = decode(encoded, spec(), on_damage=damage.append)
        np.testing.assert_array_equal(pixels, decode(good, spec()))
        assert bool(damage) is is_within


def test_the_data_of_a_whole_scan_is_not_searched() -> None:
    """What a search finds there is known before; a byte behind the end causes one."""
    read, frame = [], None
    for kind in ({}, {"progressive": True}, {"restart_marker_blocks": 4}, {"exif": turned_exif()}):
        encoded = save(NOISE, "JPEG", quality=95, **kind)
        frame, searched = _inspect(encoded), _inspect(encoded + b"\0")
        assert frame[:4] == searched[:4]
        read.append(searched.segments - frame.segments)
    assert read == [1, 0, 1, 1]  # the end of the image was passed only where it was looked for
    assert frame is not None and frame.orientation == 6


def test_a_cut_file_that_ends_like_a_whole_one_is_as_one_that_is_searched() -> None:
    good = save(NOISE, "JPEG", quality=95)
    encoded = good[:2] + b"\xff\xfe\xff\xfe" + b"c" * 0xFFFC + good[2:]
    scan = encoded.index(b"\xff\xda")

    def outcome(cut: bytes) -> bytes:
        try:
            return decode(cut, spec()).tobytes()
        except ImageError as error:
            return type(error).__name__.encode()

    outcomes = {
        cut: (outcome(encoded[:cut] + b"\xff\xd9"), outcome(encoded[:cut] + b"\xff\xd9\0"))
        for cut in (
            *range(1 << 16, scan, 17),
            *range(scan - 2, scan + 18),
            *range(scan + 99, len(encoded), 2999),
        )
    }
    assert {cut for cut, (whole, searched) in outcomes.items() if whole != searched} == set()
    assert len(set(outcomes.values())) > 5


def turned_exif() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif
