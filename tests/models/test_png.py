"""What a PNG may hold: the pixels are Pillow's, whatever else is in it is passed over."""

import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, _imaging

from models import png
from models.artifact import Mode
from models.image import ImageError, decode
from tests.models.pictures import (
    GREY,
    HEIGHT,
    RGB,
    WIDTH,
    assert_pillows,
    chunk,
    png_file,
    save,
    spec,
    written,
)

MODES = pytest.mark.parametrize("mode", ["RGB", "L"])


@MODES
@given(
    layout=st.sampled_from([layout for layout in png._LAYOUTS if layout != (16, 0)]),
    width=st.integers(1, 20),
    height=st.integers(1, 20),
    filters=st.booleans(),
    seed=st.integers(0, 999),
)
@settings(max_examples=200, deadline=None)
def test_png_of_every_layout(
    mode: Mode, layout: tuple[int, int], width: int, height: int, filters: bool, seed: int
) -> None:
    depth, colour = layout
    noise = np.random.default_rng(seed)
    bits = depth * {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour]
    rows = b"".join(
        bytes([noise.integers(0, 5) if filters else 0]) + noise.bytes(-(-bits * width // 8))
        for _ in range(height)
    )
    palette = [chunk(b"PLTE", noise.bytes(3 * 256))] if colour == 3 else []
    assert_pillows(png_file(rows, depth, colour, *palette, size=(width, height)), mode)


@MODES
def test_interlaced_png(mode: Mode) -> None:
    """Adam7 with a plain filter: seven passes, each with its own rows."""
    passes = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2)]
    passes.append((0, 1, 1, 2))
    rows = b"".join(
        b"\0" + row.tobytes()
        for left, top, across, down in passes
        for row in RGB[top::down, left::across]
    )
    encoded = bytearray(png_file(rows, 8, 2, size=(WIDTH, HEIGHT)))
    encoded[28] = 1
    encoded[29:33] = struct.pack(">I", zlib.crc32(encoded[12:29]))
    assert_pillows(bytes(encoded), mode)
    np.testing.assert_array_equal(decode(bytes(encoded), spec()), RGB)


def test_sixteen_bits_of_grey_are_cut_to_the_high_byte() -> None:
    deep = GREY.astype(np.uint16) * 256 + 255
    for kind in ("PNG", "TIFF", "PPM"):
        for mode in ("L", "RGB"):
            found = decode(save(deep, kind), spec(mode))
            for channel in range(found.shape[2]):
                np.testing.assert_array_equal(found[:, :, channel], GREY)


def test_numbers_of_32_bits_are_refused_by_name() -> None:
    with pytest.raises(ImageError, match=r"1, 8 or 16 bits a channel, got a TIFF.*\"F\""):
        decode(save(RGB[:, :, 0].astype(np.float32), "TIFF"), spec())


def animated_png(side: int, filter_byte: int) -> bytes:
    """The first frame stands before its fcTL; the second frame's rows name an unknown filter."""

    def rows(first: int) -> bytes:
        return zlib.compress(b"".join(bytes([first]) + bytes(side) for _ in range(side)), 9)

    control = struct.pack(">IIIIIHHBB", 0, side, side, 0, 0, 1, 1, 0, 0)
    return b"".join(
        (
            b"\x89PNG\r\n\x1a\n",
            chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)),
            chunk(b"acTL", struct.pack(">II", 2, 0)),
            chunk(b"IDAT", rows(0)),
            chunk(b"fcTL", control),
            chunk(b"fdAT", struct.pack(">I", 1) + rows(filter_byte)),
            chunk(b"IEND", b""),
        )
    )


@pytest.mark.parametrize("side", [8, 64])
def test_animated_png_that_killed_opencv(side: int) -> None:
    assert not decode(animated_png(side, 9), spec("L", side, side)).any()


@pytest.mark.parametrize("kind", ["PNG", "GIF", "WEBP", "TIFF"])
def test_first_picture_of_several(kind: str) -> None:
    second = Image.fromarray(255 - RGB)
    options: dict[str, Any] = {"lossless": True} if kind == "WEBP" else {}
    encoded = written(
        Image.fromarray(RGB),
        kind,
        save_all=True,
        append_images=[second, Image.fromarray(RGB)],
        **options,
    )
    assert getattr(Image.open(io.BytesIO(encoded)), "n_frames", 1) == 3
    assert_pillows(encoded, "RGB")


def test_names_that_are_pillows_own() -> None:
    """The PNG decoder uses these below Pillow's documented functions; see ``png._inflate``."""
    core = _imaging.new("L", (1, 1))
    decoder = _imaging.zip_decoder("L", "L", 0)
    decoder.setimage(core, (0, 0, 1, 1))
    assert decoder.decode(zlib.compress(b"\0\7")) == (-1, 0)
    decoder.cleanup()
    encoder = _imaging.raw_encoder("L", "L", 0, 1)
    encoder.setimage(core, (0, 0, 1, 1))
    assert encoder.encode(65536)[2] == b"\7"
    assert Image.Image()._new(core).getpixel((0, 0)) == 7
