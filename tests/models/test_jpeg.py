"""What a JPEG may hold: the pixels are Pillow's."""

import struct

import numpy as np
import pytest

from models.artifact import Mode
from models.image import ImageError, decode
from tests.models.pictures import (
    RGB,
    assert_pillows,
    picture,
    save,
    spec,
    written,
)

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
