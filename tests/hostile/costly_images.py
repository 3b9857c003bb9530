"""What the most expensive images that may be sent cost to decode, by format: processor time.

``python -m tests.hostile.costly_images`` prints the table of the README.
"""

import io
import struct
import time
import zlib
from collections.abc import Callable

import numpy as np
from PIL import Image

from models.image import MAX_PIXELS, ImageError, decode_pixels, work
from models.pixels import Decoding
from tests.hostile.corpus import chunk, jpeg_of_scans, png, segment

SIDE = 5792  # of the largest square
WEBP_SIDE = 4094  # its pixels count twice

Make = Callable[[], bytes]


def costly(mebibytes: int = 31) -> dict[str, Make]:
    """Return what makes each image; the word before ":" is its format.

    Args:
        mebibytes: Size of what is meant to fill a request; a body may have 32.
    """
    size = mebibytes << 20
    return {
        "JPEG: 33 MP of noise": lambda: _saved(_noise(SIDE // 2, 2), "JPEG", quality=60),
        "JPEG: 33 MP in 16 empty scans": lambda: jpeg_of_scans(SIDE, 16),
        "JPEG: 0.5 MP in 1,000 scans of noise": lambda: _noisy_scans(720, 1000, size),
        "JPEG: 33 MP in 15 scans of noise": lambda: _noisy_scans(SIDE, 15, size),
        "JPEG: 33 MP, arithmetic coding of noise": lambda: _arithmetic(SIDE, size),
        "PNG: 33 MP of 16 bits, Paeth": lambda: _png_rows(4, 16, 6),
        "PNG: 33 MP of 1 bit": lambda: _png_rows(0, 1, 0),
        "PNG: empty blocks of deflate": lambda: png(
            28, 28, chunk(b"IDAT", b"\x78\1" + b"\0\0\0\xff\xff" * (size // 5))
        ),
        "PNG: 65,000 chunks": lambda: png(28, 28, *[chunk(b"teXt", b"")] * 65_000),
        "WebP: 17 MP of noise": lambda: _saved(_noise(WEBP_SIDE // 2, 2), "WEBP", quality=50),
        "WebP: 4 MP of noise, lossless": lambda: _saved(
            _noise(1024, 2), "WEBP", lossless=True, quality=0, method=0
        ),
        "WebP: chunks": lambda: _webp_chunks(size // 8),
        "WebP: 16 MP, black, lossless": lambda: _saved(
            Image.new("RGB", (WEBP_SIDE, WEBP_SIDE)), "WEBP", lossless=True, method=0
        ),
        "BMP: 1 MP of runs of a pixel": lambda: _runs((b"\1\7" * 1024 + b"\0\0") * 1024, 2),
        "BMP: moves by nothing": lambda: _runs(b"\0\2\0\0" * (size // 4), 1),
        "BMP: runs behind a row": lambda: _runs(b"\xff\1" * (size // 2), 1),
        "GIF: 33 MP, clear codes": lambda: _gif((b"\xff" + b"\x24" * 255) * (size // 256)),
        "GIF: 33 MP, blocks of a byte": lambda: _gif(b"\1\x44" * (size // 2)),
        "GIF: 65,000 comments": lambda: _gif(b"\1\x44", b"!\xfe\1a\0" * 32_000),
        "TIFF: 33 MP, deflate": lambda: _tiff(8, 1, zlib.compress(bytes(SIDE * SIDE), 1)),
        "TIFF: 33 MP, LZW": lambda: _tiff(5, 1, b"\x80\x00\x80" * (size // 3)),
        "TIFF: fax": lambda: _tiff(3, 1, b"\0\1" * (size // 2), bits=1),
        "TIFF: 33 MP, JPEG of 99 scans": lambda: _tiff(7, 1, jpeg_of_scans(SIDE, 99)),
        "TIFF: 5,792 strips of the same bytes": lambda: _tiff(
            8, SIDE, zlib.compress(bytes(SIDE)) + bytes(size)
        ),
        "PPM: comments": lambda: _ppm(b"#\n" * (size // 2)),
        "PPM: spaces": lambda: _ppm(b" " * size),
        "PPM: a long comment": lambda: _ppm(b"#" + b" " * size),
        "PPM: 4 MP of text": lambda: b"P2 2000 2000 255 " + b"0001 " * 4_000_000,
        "PPM: 33 MP of digits": lambda: b"P1 5600 5600 " + b"1" * 31_360_000,
        "PPM: 5 MP of 16 bits": lambda: b"P6 2200 2200 300 " + bytes(6 * 2200 * 2200),
    }


def processor_s(encoded: bytes) -> float:
    """Return what decoding an image takes, or refusing it; pixels are bounded as in a server."""
    started = time.process_time()
    try:
        work(encoded, Decoding("L"), MAX_PIXELS)
        decode_pixels(encoded, Decoding("L"))
    except ImageError:
        pass
    return time.process_time() - started


def _noise(side: int, scale: int) -> Image.Image:
    random = np.random.default_rng(3)
    small = random.integers(0, 256, (side, side, 3), np.uint8)
    return Image.fromarray(small.repeat(scale, axis=0).repeat(scale, axis=1))


def _saved(image: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def _noisy_scans(side: int, scans: int, size: int) -> bytes:
    """Return a progressive JPEG whose every scan has its share of the bytes."""
    empty = jpeg_of_scans(side, 1)
    start = empty.index(b"\xff\xda")
    noise = np.random.default_rng(4).bytes(size // scans - 20).replace(b"\xff", b"\xfe")
    first = empty[start:-2] + noise
    more = segment(0xDA, b"\1\1\0\x01\x3f\0") + noise
    return empty[:start] + first + more * (scans - 1) + b"\xff\xd9"


def _arithmetic(side: int, size: int) -> bytes:
    noise = np.random.default_rng(4).bytes(size).replace(b"\xff", b"\xfe")
    frame = segment(0xC9, struct.pack(">BHHB", 8, side, side, 1) + b"\1\x11\0")
    tables = segment(0xDB, b"\0" + b"\1" * 64)
    return b"\xff\xd8" + tables + frame + segment(0xDA, b"\1\1\0\0\x3f\0") + noise + b"\xff\xd9"


def _png_rows(filtering: int, bits: int, colour: int) -> bytes:
    row = bytes([filtering]) + bytes(SIDE * bits * (4 if colour == 6 else 1) // 8)
    rows = zlib.compressobj(1)
    packed = b"".join(rows.compress(row) for _ in range(SIDE)) + rows.flush()
    return png(SIDE, SIDE, chunk(b"IDAT", packed), bits=bits, colour=colour)


def _webp_chunks(count: int) -> bytes:
    exif = b"Exif\0\0MM\0*\0\0\0\x08\0\0"
    body = _saved(Image.new("RGB", (16, 16)), "WEBP", exif=exif)[8:] + b"ABCD\0\0\0\0" * count
    return b"RIFF" + struct.pack("<I", len(body)) + body


def _runs(data: bytes, compression: int) -> bytes:
    bits = 8 if compression == 1 else 4
    info = struct.pack("<IiiHHIIiiII", 40, 1024, 1024, 1, bits, compression, 0, 0, 0, 256, 0)
    palette = bytes(range(256)) * 4
    return (
        b"BM" + struct.pack("<IHHI", 54 + 1024 + len(data), 0, 0, 54 + 1024) + info + palette + data
    )


def _gif(data: bytes, before: bytes = b"") -> bytes:
    head = b"GIF89a" + struct.pack("<HHBBB", SIDE, SIDE, 0x80, 0, 0) + bytes(6) + before
    return head + struct.pack("<BHHHHB", 0x2C, 0, 0, SIDE, SIDE, 0x40) + b"\2" + data + b"\0;"


def _tiff(compression: int, strips: int, data: bytes, bits: int = 8) -> bytes:
    """Return a TIFF of strips that are all the same bytes."""
    data += bytes(len(data) & 1)
    offsets = struct.pack("<I", 8) * strips
    counts = struct.pack("<I", len(data)) * strips
    place = 8 + len(data)
    tags = [
        *((256, 4, 1, SIDE), (257, 4, 1, SIDE), (258, 3, 1, bits), (259, 3, 1, compression)),
        *((262, 3, 1, 1), (273, 4, strips, place if strips > 1 else 8), (277, 3, 1, 1)),
        (278, 4, 1, SIDE // strips),
        (279, 4, strips, place + len(offsets) if strips > 1 else len(data)),
    ]
    directory = b"".join(struct.pack("<HHII", *tag) for tag in tags)
    start = struct.pack("<I", place + len(offsets) + len(counts))
    body = data + offsets + counts + struct.pack("<H", len(tags)) + directory + bytes(4)
    return b"II*\0" + start + body


def _ppm(before: bytes) -> bytes:
    return b"P3\n28 28\n255\n" + before + b"\n" + b"1 " * (3 * 28 * 28)


def main() -> None:
    """Print the table."""
    print("| image | MiB | processor time, s |\n|---|---|---|")
    for name, make in costly().items():
        encoded = make()
        print(
            f"| {name} | {len(encoded) / (1 << 20):.1f} | {processor_s(encoded):.2f} |", flush=True
        )


if __name__ == "__main__":
    main()
