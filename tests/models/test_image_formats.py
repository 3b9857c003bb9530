"""What each format may hold: the pixels of Pillow's ``exif_transpose`` and ``convert``."""

import contextlib
import io
import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from models import plugins
from models.artifact import Mode
from models.image import ENDINGS, ImageError, decode, decode_pixels
from models.pixels import Decoding
from tests.models.pictures import (
    GREY,
    HEIGHT,
    RGB,
    TURNED,
    WIDTH,
    assert_pillows,
    chunk,
    picture,
    pillows,
    png_file,
    save,
    spec,
    written,
)

MODES = pytest.mark.parametrize("mode", ["RGB", "L"])

WRITTEN = [
    *((kind, mode) for kind in ("PNG", "TIFF") for mode in ("1", "L", "LA", "P", "RGB", "RGBA")),
    *(("GIF", mode) for mode in ("1", "L", "P", "RGB", "RGBA")),
    *(("BMP", mode) for mode in ("1", "L", "P", "RGB", "RGBA")),
    *(("JPEG", mode) for mode in ("1", "L", "RGB", "CMYK", "YCbCr")),
    *(("WEBP", mode) for mode in ("L", "RGB", "RGBA")),
    *(("PPM", mode) for mode in ("1", "L", "RGB")),
    *(("TIFF", mode) for mode in ("CMYK", "YCbCr")),
]


@pytest.mark.parametrize(("kind", "saved"), WRITTEN)
@given(
    width=st.integers(1, 70),
    height=st.integers(1, 70),
    seed=st.integers(0, 999),
    mode=st.sampled_from(["RGB", "L"]),
)
@settings(max_examples=25, deadline=None)
def test_whatever_pillow_writes(
    kind: str, saved: str, width: int, height: int, seed: int, mode: Mode
) -> None:
    assert_pillows(written(picture(saved, width, height, seed), kind), mode)


@MODES
@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("size", [(9, 5), (700, 600)])
def test_exif_orientation_is_applied(
    kind: str, orientation: int, mode: Mode, size: tuple[int, int]
) -> None:
    """A photograph held upright is upright, in whatever it is saved."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    options: dict[str, Any] = {"lossless": True, "method": 0} if kind == "WEBP" else {}
    encoded = written(picture("RGB", *size), kind, exif=exif, **options)
    sides = size[::-1] if orientation < 5 else size
    assert pillows(encoded, mode).shape[:2] == sides
    assert_pillows(encoded, mode)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_exif_orientation_may_be_left_out(kind: str) -> None:
    encoded = save(RGB, kind, exif=TURNED)
    stored = np.asarray(Image.open(io.BytesIO(encoded)).convert("RGB"))
    found = decode_pixels(encoded, Decoding(applies_exif=False))
    np.testing.assert_array_equal(found, stored)


def test_exif_orientation_of_other_types_and_orders() -> None:
    for order, magic in (("<", b"II*\0"), (">", b"MM\0*")):
        for kind, letter in ((3, "H"), (4, "I")):
            value = struct.pack(order + letter, 6).ljust(4, b"\0")
            entry = struct.pack(order + "HHI", 0x0112, kind, 1) + value
            block = magic + struct.pack(order + "IH", 8, 1) + entry + bytes(4)
            assert_pillows(save(RGB, "JPEG", exif=b"Exif\0\0" + block), "RGB")


@pytest.mark.parametrize("exif", [b"", b"II*\0", b"II*\0\xff\xff\xff\xff", b"MM\0*\0\0\0\x08\xff"])
def test_broken_exif_is_passed_over(exif: bytes) -> None:
    encoded = save(RGB, "JPEG", exif=b"Exif\0\0" + exif)
    np.testing.assert_array_equal(decode(encoded, spec()), decode(save(RGB, "JPEG"), spec()))


# 16 bits


@MODES
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM"])
@pytest.mark.parametrize("size", [(9, 5), (700, 600)])
def test_grey_of_16_bits_may_be_clipped(kind: str, mode: Mode, size: tuple[int, int]) -> None:
    """``Image.open(f).convert``, which is what most programs write, clips."""
    encoded = written(picture("I;16", *size), kind)
    with Image.open(io.BytesIO(encoded)) as opened:
        expected = np.asarray(opened.convert(mode)).reshape(*size[::-1], -1)
    found = decode_pixels(encoded, Decoding(mode, clips_16_bits=True))
    np.testing.assert_array_equal(found, expected)
    cut = decode_pixels(encoded, Decoding(mode))
    with Image.open(io.BytesIO(encoded)) as opened:
        np.testing.assert_array_equal(cut[:, :, 0], np.asarray(opened) >> 8)


# Transparency


def same_looks(mode: str) -> list[bytes]:
    """Two files that differ in what nobody sees."""
    files = []
    for hidden in (0, 255):
        if mode == "P":
            image = Image.new("P", (32, 32), 0)
            image.putpalette([hidden, hidden, hidden, 200, 30, 30])
            image.paste(1, (10, 10, 22, 22))
            files.append(written(image, "PNG", transparency=0))
            continue
        levels = (hidden,) * (len(mode) - 1)
        image = Image.new(mode, (32, 32), (*levels, 0))
        image.paste((*(200, 30, 30)[: len(levels)], 255), (10, 10, 22, 22))
        files.append(written(image, "PNG"))
    return files


@pytest.mark.parametrize("saved", ["RGBA", "LA", "P"])
@MODES
def test_what_looks_the_same_over_a_background_is_the_same(saved: str, mode: Mode) -> None:
    over = Decoding(mode, background=(255, 128, 0))
    one, other = (decode_pixels(encoded, over) for encoded in same_looks(saved))
    np.testing.assert_array_equal(one, other)
    corner = np.asarray(Image.new("RGB", (1, 1), (255, 128, 0)).convert(mode)).ravel()
    np.testing.assert_array_equal(one[0, 0], corner)
    seen = (200, 200, 200) if saved == "LA" else (200, 30, 30)
    centre = np.asarray(Image.new("RGB", (1, 1), seen).convert(mode)).ravel()
    np.testing.assert_array_equal(one[16, 16], centre)


def test_half_transparent_pixels_are_laid_over_the_background() -> None:
    image = picture("RGBA", 600, 500)  # more than one strip
    below = Image.new("RGBA", image.size, (10, 200, 30, 255))
    expected = np.asarray(Image.alpha_composite(below, image).convert("RGB"))
    found = decode_pixels(written(image, "PNG"), Decoding(background=(10, 200, 30)))
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    ("depth", "colour", "rows", "transparent"),
    [
        (8, 0, b"\0\1\2\3\4" * 3, b"\0\2"),
        (2, 0, b"\0\x1b" * 3, b"\0\2"),
        (1, 0, b"\0\x40" * 3, b"\0\1"),
        (16, 0, b"\0" + b"\1\1\1\2\1\3\1\4" + b"\0" + bytes(8) + b"\0" + bytes(8), b"\1\2"),
        (8, 2, (b"\0" + bytes(range(12))) * 3, b"\0\3\0\4\0\5"),
    ],
)
def test_a_colour_that_means_transparent(
    depth: int, colour: int, rows: bytes, transparent: bytes
) -> None:
    encoded = png_file(rows, depth, colour, chunk(b"tRNS", transparent))
    over = decode_pixels(encoded, Decoding(background=(9, 99, 199)))
    plain = decode_pixels(encoded, Decoding())
    at = 2 if depth == 2 else 1
    assert tuple(over[0, at]) == (9, 99, 199)
    others = [x for x in range(4) if x != at]
    np.testing.assert_array_equal(over[0, others], plain[0, others])


# Other formats


@pytest.mark.parametrize("transparent", [None, 75])
def test_gif_with_greys_of_its_own_and_other_colours(transparent: int | None) -> None:
    """The picture's own table counts; Pillow takes the file's, or cannot convert it at all."""
    values = bytes([1, 75, 200, 255])
    coloured = Image.frombytes("P", (2, 2), values)
    coloured.putpalette(bytes(x for i in range(256) for x in (i, 255 - i, 0)))
    file = written(coloured, "GIF", optimize=False)
    start = file.index(b",", 13 + 768)  # the picture's descriptor, of 10 bytes
    control = b"" if transparent is None else bytes([0x21, 0xF9, 4, 1, 0, 0, transparent, 0])
    descriptor = file[start : start + 9] + b"\x87"
    greys = bytes(x for i in range(256) for x in (i, i, i))
    changed = file[: 13 + 768] + control + descriptor + greys + file[start + 10 :]
    expected = np.array([1, 255 if transparent == 75 else 75, 200, 255]).reshape(2, 2)
    decoding = Decoding(background=(255, 255, 255))
    np.testing.assert_array_equal(decode_pixels(changed, decoding), np.dstack([expected] * 3))


def test_bmp_with_a_header_of_12_bytes() -> None:
    rows = b"".join(row[:, ::-1].tobytes() + bytes(-WIDTH * 3 % 4) for row in RGB[::-1])
    header = struct.pack("<IHHHH", 12, WIDTH, HEIGHT, 1, 24)
    encoded = b"BM" + struct.pack("<IHHI", 26 + len(rows), 0, 0, 26) + header + rows
    np.testing.assert_array_equal(decode(encoded, spec()), RGB)


@pytest.mark.parametrize(
    "compression",
    [
        None,
        "tiff_lzw",
        "tiff_adobe_deflate",
        "packbits",
        "jpeg",
        "tiff_deflate",
        "group3",
        "group4",
    ],
)
@MODES
def test_tiff_of_every_compression(compression: str | None, mode: Mode) -> None:
    saved = "1" if compression in ("group3", "group4") else "RGB"
    encoded = written(picture(saved, 300, 200), "TIFF", compression=compression)
    assert_pillows(encoded, mode)


@MODES
def test_tiff_of_more_layouts(mode: Mode) -> None:
    for options in ({"tiffinfo": {317: 2}}, {"tiffinfo": {278: 3}}, {"tiffinfo": {284: 1}}):
        assert_pillows(save(RGB, "TIFF", compression="tiff_lzw", **options), mode)
    big_endian = Image.fromarray(GREY.astype(">u2") * 256)
    assert_pillows(save(RGB, "TIFF", exif=TURNED), mode)
    np.testing.assert_array_equal(decode(written(big_endian, "TIFF"), spec(mode))[:, :, 0], GREY)


@pytest.mark.parametrize(
    "text", [b"P3 2 1 255 1 2 3 4 5 6\n", b"P2 # a word\n2 1 9 0 9\n", b"P1\n2 1\n1 0\n"]
)
def test_plain_ppm(text: bytes) -> None:
    assert_pillows(text, "RGB")


@pytest.mark.parametrize(
    ("kind", "brand"), [("HEIC", b"heic"), ("HEIC", b"mif1"), ("AVIF", b"avif")]
)
def test_heic_and_avif_are_named(kind: str, brand: bytes) -> None:
    content = struct.pack(">I4s4sI4s4s", 24, b"ftyp", brand, 0, b"mif1", brand) + bytes(500)
    expected = f"complete {kind}" if plugins.can_read(kind) else rf"got {kind};.*foveal\[heif\]"
    with pytest.raises(ImageError, match=expected):
        decode(content, spec())


@pytest.mark.skipif(not plugins.can_read("HEIC"), reason="needs the heif extra")
@pytest.mark.parametrize("kind", ["HEIF", "AVIF"])
def test_heic_and_avif_are_read_with_the_extra(kind: str) -> None:
    import pillow_heif

    pillow_heif.register_heif_opener()
    try:
        encoded = save(RGB, kind, exif=TURNED)
        assert_pillows(encoded, "RGB")
    finally:
        for registry in (Image.OPEN, Image.MIME):
            registry.pop("HEIF", None)
        Image.ID.remove("HEIF")


@pytest.mark.parametrize(
    "content",
    [
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
        b"SIMPLE  =                    T",
        b"icns\0\0\0\x10ic07\0\0\0\x08",
        b"\0\0\1\0\1\0\x10\x10",
        b"8BPS\0\1",
        b"\x0a\5\1\x08" + bytes(200),
        b"qoif" + bytes(100),
        b"\0\0\0\x0cjP  \r\n\x87\n",
        b"P7\nWIDTH 1\n",
        b"Pf\n1 1\n-1.0\n\0\0\0\0",
    ],
)
def test_no_other_plugin_of_pillow_is_reached(content: bytes) -> None:
    with pytest.raises(ImageError, match=r"^image: expected JPEG, PNG"):
        decode(content, spec())


def test_libtiff_writes_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    """A line for each bad row, from C, would fill the service's log."""
    whole = written(picture("1", 300, 300), "TIFF", compression="group4")
    for position in range(200, len(whole) - 20, 37):
        broken = whole[:position] + b"\0\xff\x13" + whole[position + 3 :]
        with contextlib.suppress(ImageError):
            decode(broken, spec("L", 300, 300))
    assert capfd.readouterr() == ("", "")


def test_every_format_has_an_ending() -> None:
    for kind in ("jpeg", "png", *plugins._OPENERS):
        assert kind.lower() in ENDINGS or kind == "TIFF", kind
    assert {"jpg", "tif", "tiff", "ppm", "pgm", "pnm", "heif"} <= ENDINGS
