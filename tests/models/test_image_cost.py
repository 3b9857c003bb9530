"""What a hostile file may cost: pixels, scans, segments, chunks, tags, blocks."""

import struct
import time
import zlib
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from models.image import ImageError, ImageTooLargeError, decode_pixels, is_light, work
from models.pixels import Decoding
from tests.loop_watch import LONGEST_S, shortest_of
from tests.models.pictures import RGB, TURNED, chunk, picture, png_file, save, written

MIB = 1 << 20
AT_A_SCALE = Decoding(least=64)


def segment(marker: int, payload: bytes) -> bytes:
    return bytes([0xFF, marker]) + struct.pack(">H", len(payload) + 2) + payload


def jpeg_parts(frame: int, height: int, width: int) -> bytes:
    one_code = bytes([1] + [0] * 15) + b"\0"
    return b"".join(
        (
            segment(0xDB, b"\0" + b"\1" * 64),
            segment(frame, struct.pack(">BHHB", 8, height, width, 1) + b"\1\x11\0"),
            segment(0xC4, b"\0" + one_code),
            segment(0xC4, b"\x10" + one_code),
        )
    )


def scan(first: int, last: int) -> bytes:
    return segment(0xDA, b"\1\1\0" + bytes([first, last, 0]))


def jpeg_of_scans(side: int, scans: int, frame: int = 0xC2) -> bytes:
    return b"\xff\xd8" + jpeg_parts(frame, side, side) + scan(0, 0) * scans + b"\xff\xd9"


def jpeg_of_two_sizes(side: int) -> bytes:
    """FF 00 begins a segment for one parser and nothing for another."""
    hidden = jpeg_parts(0xC0, side, side) + scan(0, 63) + bytes(16)
    frame = segment(0xC0, struct.pack(">BHHB", 8, 8, 8, 1) + b"\1\x11\0")
    return b"\xff\xd8\xff\0" + struct.pack(">H", len(hidden) + 2) + hidden + frame + b"\xff\xd9"


def test_two_sizes_are_one() -> None:
    with pytest.raises(ImageTooLargeError, match="got 32767 x 32767"):
        work(jpeg_of_two_sizes(32767), Decoding())


@pytest.mark.parametrize("decoding", [Decoding(), AT_A_SCALE])
def test_many_scans_of_a_large_picture_are_refused(decoding: Decoding) -> None:
    with pytest.raises(ImageTooLargeError, match="got 5792 x 5792, which counts as"):
        work(jpeg_of_scans(5792, 1000), decoding)


def test_scans_count_where_they_are_decoded() -> None:
    """A scan that a comment hides, or that stands behind the end, takes no time."""
    assert work(jpeg_of_scans(64, 16), Decoding()) == 64 * 64
    assert work(jpeg_of_scans(64, 160), Decoding()) == 10 * 64 * 64
    behind = save(RGB, "JPEG") + scan(0, 0) * 1000
    assert work(behind, Decoding()) == RGB.shape[0] * RGB.shape[1]


@pytest.mark.parametrize("exif", [None, TURNED])
def test_a_progressive_jpeg_counts_whole_whatever_its_scale(exif: Image.Exif | None) -> None:
    pixels = np.zeros((800, 1600, 3), np.uint8)
    options = {} if exif is None else {"exif": exif}
    assert work(save(pixels, "JPEG", **options), AT_A_SCALE) == 800 * 1600 // 16
    assert work(save(pixels, "JPEG", progressive=True, **options), AT_A_SCALE) == 800 * 1600


def test_a_photograph_of_50_megapixels_is_decoded_at_a_scale() -> None:
    encoded = written(Image.new("RGB", (8160, 6144), (10, 200, 30)), "JPEG")
    assert work(encoded, AT_A_SCALE) == 8160 * 6144 // 16  # the time it takes
    with pytest.raises(ImageTooLargeError, match="got 8160 x 6144"):
        work(encoded, Decoding())
    pixels = decode_pixels(encoded, AT_A_SCALE)
    assert pixels.shape == (768, 1020, 3)


def gif_of_blocks() -> bytes:
    return b"GIF89a\1\0\1\0\0\0\0!\xfe" + b"\1x" * (MIB // 2) + b"\0,"


def tiff_of(count: int, tag: int, kind: int, values: int) -> bytes:
    entry = struct.pack("<HHII", tag, kind, values, 8)
    return b"II*\0" + struct.pack("<IH", 8, count) + entry * count + bytes(4)


@pytest.mark.parametrize(
    ("encoded", "match"),
    [
        (b"\xff\xd8" + b"\xff\xe0\0\2" * 20_000 + save(RGB, "JPEG")[2:], "1024 segments"),
        (
            save(RGB, "PNG")[:33] + chunk(b"tEXt", b"") * 70_000 + save(RGB, "PNG")[33:],
            "65536 chunks",
        ),
        (gif_of_blocks(), "65536 blocks"),
        (tiff_of(5000, 700, 1, 4), "4096 TIFF tags"),
        (tiff_of(1, 273, 4, 1_000_000), "32768 values in TIFF tag 273"),
        (
            written(picture("P", 2000, 1000), "BMP")[:30] + b"\1" + bytes(2_000_000),
            "1048576 pixels in a BMP",
        ),
    ],
    ids=["segments", "chunks", "blocks", "tags", "strips", "bmp"],
)
def test_parts_are_counted(encoded: bytes, match: str) -> None:
    with pytest.raises(ImageError, match=match):
        work(encoded, Decoding())
        decode_pixels(encoded, Decoding())


@pytest.mark.parametrize("disposal", range(8))
def test_what_follows_a_gifs_picture_costs_nothing(disposal: int) -> None:
    """Pillow filled the area of a picture of any size with the background as it read the header."""
    control = b"!\xf9\4" + bytes([disposal << 2 | 1, 0, 0, 0, 0])
    area = struct.pack("<BHHHHB", 0x2C, 0, 0, 65_535, 65_535, 0)
    started = time.process_time()
    with pytest.raises(ImageTooLargeError, match="got 65535 x 65535"):
        work(b"GIF89a\1\0\1\0\0\0\0" + control + area + b"\x08\1\1\0;", Decoding())
    assert time.process_time() - started < 0.5, "4 GiB take seconds"


def test_the_transparent_colour_of_a_gif_outlives_its_disposal() -> None:
    dots = picture("P", 4, 3)
    first = dots.getpixel((0, 0))
    encoded = bytearray(written(dots, "GIF", transparency=first, disposal=2, optimize=False))
    at = encoded.index(b"!\xf9") + 3
    assert encoded[at] == 0b1001
    over = Decoding(background=(9, 8, 7))
    pixels = decode_pixels(bytes(encoded), over)
    assert pixels[0, 0].tolist() == [9, 8, 7]
    encoded[at] = 1
    assert (decode_pixels(bytes(encoded), over) == pixels).all()


@pytest.mark.parametrize("kind", [b"zTXt", b"iTXt", b"iCCP"])
def test_texts_and_profiles_are_not_inflated(kind: bytes) -> None:
    bomb = zlib.compress(bytes(64 * MIB), 9)
    head = {b"zTXt": b"k\0\0", b"iTXt": b"k\0\1\0\0\0", b"iCCP": b"k\0\0"}[kind]
    encoded = png_file(b"\0\1\2\3\4" * 3, 8, 0, *[chunk(kind, head + bomb)] * 64)
    started = time.process_time()
    assert decode_pixels(encoded, Decoding("L"))[0, 3, 0] == 4
    assert time.process_time() - started < 1, "64 bombs of 64 MiB take seconds each"


def with_segments(count: int, stray: bytes = b"", content: bytes = b"") -> bytes:
    plain = save(RGB, "JPEG")
    return plain[:2] + (segment(0xE1, content) + stray) * count + plain[2:]


def test_segments_count_as_the_time_they_take() -> None:
    """Four JPEGs of 64 KB of empty segments held the event loop for 0.2 s."""
    plain = RGB.shape[0] * RGB.shape[1]
    assert work(with_segments(0), Decoding()) == plain
    assert work(with_segments(1000), Decoding()) > 16_000 > plain
    assert work(with_segments(20, content=bytes(5000)), Decoding(least=8)) < 1000
    with pytest.raises(ImageTooLargeError, match="1024 segments"):
        work(with_segments(1100, stray=b"x"), Decoding())


LONG: dict[str, Callable[[int], bytes]] = {
    "fill bytes": lambda size: b"\xff\xd8" + b"\xff" * size,
    "segments": lambda size: b"\xff\xd8" + b"\xff\xe0\0\2" * (size // 4),
    "segments and stray bytes": lambda size: with_segments(1000, b"x" * (size // 1000 - 8)),
    "scans": lambda size: jpeg_of_scans(128, size // 10),
    "sequential scans": lambda size: jpeg_of_scans(128, size // 10, 0xC1),
    "stray bytes": lambda size: b"\xff\xd8\xff\xe0\0\2" + b"\0" * size,
    "chunks": lambda size: (
        save(RGB, "PNG")[:33] + chunk(b"tEXt", b"") * (size // 12) + save(RGB, "PNG")[33:]
    ),
    "rows of nothing": lambda size: png_file(
        b"\0" * (1 << 14), 8, 0, *[chunk(b"IDAT", b"")] * (size // 12), size=(1, 1 << 13)
    ),
    "webp chunks": lambda size: save(RGB, "WEBP", exif=TURNED) + b"ABCD\0\0\0\0" * (size // 8),
}


@pytest.mark.parametrize("what", LONG)
def test_what_is_decoded_on_the_loop_takes_little_time(what: str) -> None:
    """Of 256 KiB and 128 x 128 pixels, which is what the event loop looks at."""
    encoded = LONG[what](250 << 10)
    assert is_light(encoded)

    def take() -> float:
        started = time.process_time()
        try:
            if work(encoded, Decoding()) <= 128 * 128:
                decode_pixels(encoded, Decoding())
        except ImageError:
            pass
        return time.process_time() - started

    assert shortest_of(8, take) <= LONGEST_S
