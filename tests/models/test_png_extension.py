"""The C extension that decodes small plain PNGs: it answers as Pillow does, or not at all."""

import os
import random
import struct
import zlib
from collections.abc import Iterator
from types import ModuleType

import numpy as np
import pytest
from numpy.typing import NDArray

from models import png
from models.image_errors import ImageError
from models.pixels import Decoding
from tests.models.extensions import build, load, need_compiler
from tests.models.pictures import chunk, photograph, save

Pixels = NDArray[np.uint8]
MUTATIONS = 4000
SIZES = [(1, 1), (1, 40), (40, 1), (28, 28), (32, 32), (128, 128)]
CHANNELS = pytest.mark.parametrize("channels", [1, 3])


@pytest.fixture(scope="module")
def extension(tmp_path_factory: pytest.TempPathFactory) -> ModuleType:
    need_compiler()
    return load("_png", build(tmp_path_factory.mktemp("extensions"), os.environ))


@pytest.fixture
def _pillow_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """What ``png.decode`` answers is Pillow's."""
    monkeypatch.setattr(png, "_png", None)


def pillows(encoded: bytes, channels: int) -> Pixels | str:
    """What runs without the extension: pixels, or the words of the error."""
    try:
        return png.decode(encoded, Decoding("L" if channels == 1 else "RGB"))
    except ImageError as error:
        return str(error)


def plain(rows: bytes, width: int, height: int, channels: int, *more: bytes) -> bytes:
    """A file with the zlib stream ``rows``."""
    colour = 0 if channels == 1 else 2
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, colour, 0, 0, 0))
    return b"".join(
        (b"\x89PNG\r\n\x1a\n", header, *more, chunk(b"IDAT", rows), chunk(b"IEND", b""))
    )


def pictures(channels: int) -> Iterator[tuple[bytes, tuple[int, int]]]:
    """Files of all filters, all kinds of blocks and codes, smooth, noisy and of one colour."""
    noise = np.random.default_rng(1)
    for width, height in SIZES:
        smooth = photograph(2, height, width)[..., :channels]
        for pixels in (smooth, noise.integers(0, 256, smooth.shape, np.uint8), smooth * 0 + 7):
            filters = noise.integers(0, 5, height)
            raw = b"".join(
                bytes([kind]) + row.tobytes() for kind, row in zip(filters, pixels, strict=True)
            )
            for level in (0, 1, 6, 9):
                yield plain(zlib.compress(raw, level), width, height, channels), (height, width)
            for strategy in (zlib.Z_FIXED, zlib.Z_HUFFMAN_ONLY, zlib.Z_RLE, zlib.Z_FILTERED):
                memory = 1 if height < 128 else 8  # 1: a block of 127 symbols
                packed = zlib.compressobj(9, zlib.DEFLATED, 9 + height % 7, memory, strategy)
                parts = packed.compress(raw[: len(raw) // 2]), packed.flush(zlib.Z_FULL_FLUSH)
                stream = b"".join((*parts, packed.compress(raw[len(raw) // 2 :]), packed.flush()))
                yield plain(stream, width, height, channels), (height, width)
            yield save(pixels[..., 0] if channels == 1 else pixels, "PNG"), (height, width)


@CHANNELS
@pytest.mark.usefixtures("_pillow_alone")
def test_plain_files_have_pillows_pixels(extension: ModuleType, channels: int) -> None:
    for encoded, (height, width) in pictures(channels):
        decoded = extension.decode(encoded, channels)
        assert decoded is not None, "it must not leave a plain file to Pillow"
        assert decoded[1:] == (height, width)
        expected = pillows(encoded, channels)
        assert not isinstance(expected, str)
        assert expected.tobytes() == decoded[0]


@CHANNELS
@pytest.mark.usefixtures("_pillow_alone")
def test_damage_is_never_decoded_otherwise(extension: ModuleType, channels: int) -> None:
    """Damage under right checksums, as only a hostile file has it: Pillow's pixels, or None."""
    dice = random.Random(channels)
    files = [encoded for encoded, (height, _) in pictures(channels) if height <= 40]
    decoded = 0
    for _ in range(MUTATIONS):
        encoded = bytearray(dice.choice(files))
        start = encoded.index(b"IDAT") + 4
        end = start + int.from_bytes(encoded[start - 8 : start - 4])
        for _ in range(dice.choice((1, 1, 2, 8))):
            encoded[dice.randrange(start, end)] ^= 1 << dice.randrange(8)
        if dice.random() < 0.3:
            encoded[dice.randrange(16, 29)] = dice.randrange(256)  # size, depth, colour
        if dice.random() < 0.1:
            del encoded[dice.randrange(len(encoded)) :]
        else:
            encoded[end : end + 4] = zlib.crc32(encoded[start - 4 : end]).to_bytes(4)
        answer = extension.decode(bytes(encoded), channels)
        if answer is not None:
            decoded += 1
            expected = pillows(bytes(encoded), channels)
            assert not isinstance(expected, str)
            assert expected.tobytes() == answer[0]
    assert decoded  # bits that carry nothing: the stream's level, for one


@CHANNELS
def test_what_is_not_plain_is_left_to_pillow(extension: ModuleType, channels: int) -> None:
    raw = b"".join(b"\1" + bytes([row] * 9 * channels) for row in range(7))
    rows = zlib.compress(raw)
    good = plain(rows, 9, 7, channels)
    assert extension.decode(good, channels) is not None
    assert extension.decode(good, 4 - channels) is None  # grey as RGB, RGB as grey
    passed_over = chunk(b"tEXt", b"a\0b"), chunk(b"pHYs", bytes(9)), chunk(b"sRGB", b"\0")
    assert extension.decode(plain(rows, 9, 7, channels, *passed_over), channels) is not None
    header = good[8:33]
    for other in (
        b"",
        good[:-1],
        good[:-12],
        good[:8] + bytes(8) + good[16:],
        good.replace(b"IDAT", b"IDAX"),
        good[:-20] + b"\0" + good[-19:],  # CRC
        plain(rows + b"\0", 9, 7, channels),
        plain(rows[:-1], 9, 7, channels),
        plain(rows[:-4] + bytes(4), 9, 7, channels),  # zlib's checksum
        plain(zlib.compress(raw[:-1]), 9, 7, channels),
        plain(zlib.compress(raw + b"\0"), 9, 7, channels),
        plain(zlib.compress(b"\5" + raw[1:]), 9, 7, channels),  # no such filter
        plain(rows, 9, 7, channels, chunk(b"tRNS", bytes(6))),
        plain(rows, 9, 7, channels, chunk(b"eXIf", bytes(6))),
        plain(rows, 9, 7, channels, header),
        plain(rows, 9, 7, channels, *[chunk(b"tEXt", b"")] * 64),
        plain(rows, 1 << 14, 2, channels),
        plain(rows, 0, 7, channels),
        good[:8] + chunk(b"IHDR", header[8:20] + b"\1") + good[33:],  # interlaced
    ):
        assert extension.decode(other, channels) is None
    with pytest.raises(ValueError, match="expected 1 or 3 channels, got 2"):
        extension.decode(good, 2)


def test_the_decoder_asks_it_first(extension: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    class Watched:
        @staticmethod
        def decode(encoded: bytes, channels: int) -> tuple[bytes, int, int] | None:
            asked.append(extension.decode(encoded, channels))
            return asked[-1]  # type: ignore[no-any-return]

    monkeypatch.setattr(png, "_png", Watched)
    pixels = photograph(3, 30, 20)
    for mode, channels in (("RGB", 3), ("L", 1)):
        shown = png.decode(save(pixels, "PNG"), Decoding(mode))  # type: ignore[arg-type]
        assert shown.shape == (30, 20, channels)
    assert [answer is not None for answer in asked] == [True, False]
    np.testing.assert_array_equal(png.decode(save(pixels, "PNG"), Decoding("RGB")), pixels)
