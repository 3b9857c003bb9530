"""PPM, PGM and PBM against Pillow's decoder, which takes minutes for what takes a moment here."""

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, PpmImagePlugin

from models import ppm
from models.artifact import Mode
from models.geometry import Pixels
from models.image import ImageError, decode_pixels, work
from models.pixels import Decoding
from tests.models.pictures import RGB, save

SPACES = [b" ", b"\n", b"\t", b"\r\n", b" #c\n", b"\n# x y\r  "]


def pillows(encoded: bytes, mode: Mode, clips: bool = False) -> Pixels | None:
    """What Pillow decodes; None if it refuses the file."""
    try:
        image: Image.Image = PpmImagePlugin.PpmImageFile(io.BytesIO(encoded))
        image.load()
    except (ValueError, OSError, SyntaxError):
        return None
    if image.mode == "I":
        deep = np.asarray(image)
        image = Image.fromarray((deep.clip(max=255) if clips else deep >> 8).astype(np.uint8))
    pixels = np.asarray(image.convert(mode))
    return pixels.reshape(*pixels.shape[:2], -1)


def ours(encoded: bytes, decoding: Decoding) -> Pixels | None:
    try:
        return decode_pixels(encoded, decoding)
    except ImageError:
        return None


@st.composite
def files(draw: st.DrawFn) -> bytes:
    """A file of one of the six kinds: with comments, odd maximums, sometimes cut or followed."""
    kind, width, height = draw(st.integers(1, 6)), draw(st.integers(1, 30)), draw(st.integers(1, 9))
    most = draw(st.sampled_from([1, 3, 9, 100, 254, 255, 256, 300, 1000, 65534, 65535]))
    random = draw(st.randoms(use_true_random=True))
    sides = [b"%d" % width, b"%d" % height, *([] if kind in (1, 4) else [b"%d" % most])]
    head = b"P%d" % kind + b"".join(b"\n" + random.choice(SPACES) + side for side in sides) + b"\n"
    count = width * height * (3 if kind in (3, 6) else 1)
    if kind == 4:
        values = random.randbytes((width + 7) // 8 * height)
    elif kind > 4:
        values = random.randbytes(count * (2 if most > 255 else 1))
    else:
        seams = [b"", b" ", b"#q\n"] if kind == 1 else [*SPACES, b"#1\n\n", b" # 2 #\n #\r"]
        widest = 1 if kind == 1 else random.choice([1, 5, 10])
        values = b"".join(
            b"%0*d" % (widest, random.randint(0, 1 if kind == 1 else most)) + random.choice(seams)
            for _ in range(count)
        )
    values = values[: draw(st.sampled_from([len(values), len(values), len(values) // 2]))]
    return head + values + draw(st.sampled_from([b"", b" ", b"1 1"]))


@given(encoded=files(), mode=st.sampled_from(["RGB", "L"]), clips=st.booleans())
@settings(max_examples=400, deadline=None)
def test_pixels_are_pillows(encoded: bytes, mode: Mode, clips: bool) -> None:
    expected = pillows(encoded, mode, clips)
    found = ours(encoded, Decoding(mode, clips_16_bits=clips))
    assert (found is None) == (expected is None)
    if expected is not None:
        np.testing.assert_array_equal(found, expected, strict=True)


@pytest.mark.parametrize("step", [1, 2, 7, 64])
def test_a_text_is_read_across_steps(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Numbers and comments stand on both sides of a seam."""
    monkeypatch.setattr(ppm, "_STEP", step)
    for text in (
        b"P3 2 1 65535 1 #a\n 20000#b\n 3 0000000004 #\r5\n6",
        b"P1 4 2 1 0#1\n01 #11\n1000",
    ):
        np.testing.assert_array_equal(ours(text, Decoding()), pillows(text, "RGB"))
    binary = b"P6 3 2 99\n" + bytes(range(18))
    np.testing.assert_array_equal(ours(binary, Decoding()), pillows(binary, "RGB"))


@pytest.mark.parametrize(
    "encoded",
    [
        b"P2 1 1 255 ",
        b"P2 1 1 255 256",
        b"P2 1 1 255 00000000001",
        b"P2 1 1 255 -1",
        b"P2 1 1 255 a",
        b"P2 1 1 255 " + b"1" * 600_000,
        b"P1 2 1 12",
        b"P3 1 1 255 1 2#\n",
        b"P2 0 1 255 1",
        b"P2 1 1 0 1",
        b"P2 1 1 65536 1",
        b"P5 1 1#\n1 255 1",
        b"P6 2 2 255 " + bytes(11),
        b"P6 2 2 256 " + bytes(23),
        b"P4 9 2 " + bytes(3),
        b"P5 12345678901 1 255 x",
        b"P7 1 1 255 x",
    ],
)
def test_what_is_no_picture_is_refused(encoded: bytes) -> None:
    with pytest.raises(ImageError, match="image: expected"):
        work(encoded, Decoding())
        decode_pixels(encoded, Decoding())


def test_what_follows_a_picture_is_ignored() -> None:
    text = b"P2 2 1 9 1 2 P2 2 1 9"
    np.testing.assert_array_equal(ours(text, Decoding("L")), pillows(text, "L"))
    once = save(RGB, "PPM")
    np.testing.assert_array_equal(decode_pixels(once * 2, Decoding()), RGB)


def test_a_header_is_short() -> None:
    comments = b"P5 " + b"#x\n" * 2000 + b"1 1 255 x"
    with pytest.raises(ImageError, match="PPM header in the first 4096 bytes"):
        work(comments, Decoding())
    assert work(b"P5 " + b"#x\n" * 1000 + b"1 1 255 x", Decoding()) == 1


def test_a_small_file_of_large_size_holds_nothing() -> None:
    encoded = b"P3 4000 4000 255 " + b"1 " * 100
    assert work(encoded, Decoding()) == 16_000_000
    with pytest.raises(ImageError, match="complete PPM"):
        decode_pixels(encoded, Decoding())
