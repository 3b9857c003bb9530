"""Images that a stranger may send: good ones in every format, broken ones, bombs and polyglots.

Everything is made by code, so a name says how a file came about. ``kind`` of a file is the word
before its first "/".
"""

import io
import struct
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from PIL import Image, PngImagePlugin

WIDTH, HEIGHT = 12, 9


def chunk(kind: bytes, data: bytes) -> bytes:
    """Return a PNG chunk (PNG, third edition, 5.3)."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def segment(marker: int, payload: bytes) -> bytes:
    """Return a JPEG segment (ITU T.81, B.1.1.4)."""
    return bytes([0xFF, marker]) + struct.pack(">H", len(payload) + 2) + payload


PNG = b"\x89PNG\r\n\x1a\n"
IEND = chunk(b"IEND", b"")


def _save(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def good() -> dict[str, bytes]:
    """Return small images that decode, one for each format and layout that Pillow writes."""
    noise = np.random.default_rng(5).integers(0, 256, (HEIGHT, WIDTH, 4), dtype=np.uint8)
    rgba = Image.fromarray(noise)
    rgb, grey = rgba.convert("RGB"), rgba.convert("L")
    palette = rgb.quantize(16)
    frames = [rgb.rotate(90 * turn) for turn in range(3)]
    text = PngImagePlugin.PngInfo()
    text.add_text("comment", "c" * 100, zip=True)
    exif = Image.Exif()
    exif[0x0112] = 6
    animated: dict[str, Any] = {"save_all": True, "append_images": frames[1:], "duration": 50}
    return {
        "jpeg": _save(rgb, "JPEG"),
        "jpeg-444": _save(rgb, "JPEG", subsampling=0, quality=100),
        "jpeg-grey": _save(grey, "JPEG"),
        "jpeg-cmyk": _save(rgb.convert("CMYK"), "JPEG"),
        "jpeg-progressive": _save(rgb, "JPEG", progressive=True),
        "jpeg-restarts": _save(rgb, "JPEG", restart_marker_blocks=1),
        "jpeg-exif": _save(rgb, "JPEG", exif=exif, comment=b"a comment"),
        "png": _save(rgb, "PNG"),
        "png-grey": _save(grey, "PNG"),
        "png-1-bit": _save(grey.convert("1"), "PNG"),
        "png-16-bit": _save(Image.fromarray(noise[:, :, 0].astype(np.uint16) * 257), "PNG"),
        "png-palette": _save(palette, "PNG", transparency=3),
        "png-alpha": _save(rgba, "PNG"),
        "png-grey-alpha": _save(rgba.convert("LA"), "PNG"),
        "png-text": _save(rgb, "PNG", pnginfo=text, exif=exif),
        "png-animated": _save(frames[0], "PNG", **animated),
        "webp": _save(rgb, "WEBP"),
        "webp-lossless": _save(rgba, "WEBP", lossless=True),
        "webp-exif": _save(rgb, "WEBP", exif=exif),
        "webp-animated": _save(frames[0], "WEBP", **animated),
        "bmp": _save(rgb, "BMP"),
        "bmp-grey": _save(grey, "BMP"),
        "bmp-1-bit": _save(grey.convert("1"), "BMP"),
        "bmp-palette": _save(palette, "BMP"),
        "bmp-os2": os2_bmp(28),
        "gif": _save(palette, "GIF"),
        "gif-animated": _save(frames[0], "GIF", **animated),
        "tiff": _save(rgb, "TIFF"),
        "tiff-lzw": _save(rgb, "TIFF", compression="tiff_lzw"),
        "tiff-deflate": _save(grey, "TIFF", compression="tiff_adobe_deflate"),
        "tiff-jpeg": _save(rgb, "TIFF", compression="jpeg"),
        "tiff-pages": _save(frames[0], "TIFF", save_all=True, append_images=frames[1:]),
        "ppm": _save(rgb, "PPM"),
        "pgm": _save(grey, "PPM"),
        "pbm": _save(grey.convert("1"), "PPM"),
        "ppm-text": b"P3\n2 1\n255\n1 2 3 4 5 6\n",
    }


def os2_bmp(side: int) -> bytes:
    """Return a BMP with OS/2's 12-byte header, black."""
    row = (3 * side + 3) // 4 * 4
    size = struct.pack("<IHHI", 26 + row * side, 0, 0, 26)
    return b"BM" + size + struct.pack("<IHHHH", 12, side, side, 1, 24) + bytes(row * side)


def apng(side: int, filter_byte: int) -> bytes:
    """Return an animated PNG; the rows of its second frame start with ``filter_byte``."""

    def rows(first: int) -> bytes:
        return zlib.compress((bytes([first]) + bytes(side)) * side, 9)

    return b"".join(
        (
            PNG,
            chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)),
            chunk(b"acTL", struct.pack(">II", 2, 0)),
            chunk(b"IDAT", rows(0)),
            chunk(b"fcTL", struct.pack(">IIIIIHHBB", 0, side, side, 0, 0, 1, 1, 0, 0)),
            chunk(b"fdAT", struct.pack(">I", 1) + rows(filter_byte)),
            IEND,
        )
    )


def _jpeg_head(sof: int, height: int, width: int) -> bytes:
    code = bytes([1] + [0] * 15) + b"\0"
    tables = segment(0xDB, b"\0" + b"\1" * 64)
    frame = segment(sof, struct.pack(">BHHB", 8, height, width, 1) + b"\1\x11\0")
    return tables + frame + segment(0xC4, b"\0" + code) + segment(0xC4, b"\x10" + code)


def _scan(first: int, last: int) -> bytes:
    return segment(0xDA, b"\1\1\0" + bytes([first, last, 0]))


def jpeg_of_two_sizes(side: int) -> bytes:
    """Return a JPEG that is 8 x 8 to a parser that skips FF 00, and side x side to the others."""
    hidden = _jpeg_head(0xC0, side, side) + _scan(0, 63) + bytes(16)
    frame = segment(0xC0, struct.pack(">BHHB", 8, 8, 8, 1) + b"\1\x11\0")
    return b"\xff\xd8\xff\0" + struct.pack(">H", len(hidden) + 2) + hidden + frame + b"\xff\xd9"


def jpeg_of_scans(side: int, scans: int) -> bytes:
    """Return a progressive JPEG of many scans without data: each costs a pass over all pixels."""
    return b"\xff\xd8" + _jpeg_head(0xC2, side, side) + _scan(0, 0) * scans + b"\xff\xd9"


def png(width: int, height: int, *chunks: bytes, bits: int = 8, colour: int = 0) -> bytes:
    """Return a PNG with a header of that size, whatever chunks follow, and an end."""
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    return PNG + chunk(b"IHDR", header) + b"".join(chunks) + IEND


def bombs(mebibytes: int = 8) -> Iterator[tuple[str, bytes]]:
    """Yield files that announce or expand to far more than they are.

    Args:
        mebibytes: Size of what is meant to fill a request, and of what compressed parts expand to
            sixteen times over.
    """
    zeros = zlib.compress(bytes(mebibytes << 24), 9)
    size = mebibytes << 20
    yield "bomb/two-sizes.jpg", jpeg_of_two_sizes(32_767)
    yield "bomb/scans-10000.jpg", jpeg_of_scans(5792, 10_000)
    yield "bomb/scans-small.jpg", jpeg_of_scans(64, 40_000)
    yield "bomb/fills.jpg", b"\xff\xd8" + b"\xff" * size
    yield "bomb/comments.jpg", b"\xff\xd8" + segment(0xFE, b"") * (size // 4)
    yield "bomb/65535.jpg", b"\xff\xd8" + _jpeg_head(0xC0, 65_535, 65_535) + _scan(0, 63)
    yield "bomb/lossless.jpg", b"\xff\xd8" + _jpeg_head(0xC3, 65_535, 65_535) + _scan(0, 63)
    yield "bomb/arithmetic.jpg", b"\xff\xd8" + _jpeg_head(0xC9, 16_000, 16_000) + _scan(0, 63)
    yield "bomb/apng-8.png", apng(8, 9)
    yield "bomb/apng-64.png", apng(64, 9)
    yield "bomb/huge.png", png(2**31 - 1, 2**31 - 1, chunk(b"IDAT", b""))
    yield "bomb/zeros.png", png(1 << 14, 1 << 14, chunk(b"IDAT", zeros), bits=8)
    yield "bomb/thin.png", png(2**31 - 1, 1, chunk(b"IDAT", zeros), bits=1)
    yield "bomb/tall.png", png(1, mebibytes << 22, chunk(b"IDAT", zeros), bits=1)
    yield "bomb/text.png", png(8, 8, chunk(b"zTXt", b"k\0\0" + zeros), chunk(b"IDAT", b""))
    yield "bomb/texts.png", png(8, 8, chunk(b"tEXt", b"k\0v") * (size // 15))
    yield "bomb/profile.png", png(8, 8, chunk(b"iCCP", b"k\0\0" + zeros), chunk(b"IDAT", b""))
    yield "bomb/international.png", png(8, 8, chunk(b"iTXt", b"k\0\1\0\0\0" + zeros))
    yield "bomb/length.png", PNG + struct.pack(">I", 2**31 - 1) + b"IDAT" + bytes(200)
    yield "bomb/empty-chunks.png", png(8, 8, chunk(b"IDAT", b"") * (size // 12))
    yield "bomb/many-frames.png", apng(8, 0)[:-12] + chunk(b"fcTL", bytes(26)) * 50_000 + IEND
    yield "bomb/exif.png", png(8, 8, chunk(b"eXIf", b"MM\0*\0\0\0\x08\xff\xff" + bytes(60_000)))
    yield "bomb/huge.gif", b"GIF89a" + struct.pack("<HHBBB", 65_535, 65_535, 0x80, 0, 0) + bytes(6)
    small_gif = struct.pack("<BHHHHB", 0x2C, 0, 0, 65_535, 65_535, 0) + b"\x08\x01\x01\0;"
    yield (
        "bomb/frame.gif",
        b"GIF89a" + struct.pack("<HHBBB", 8, 8, 0x80, 0, 0) + bytes(6) + small_gif,
    )
    yield (
        "bomb/extensions.gif",
        (
            b"GIF89a"
            + struct.pack("<HHBBB", 8, 8, 0x80, 0, 0)
            + bytes(6)
            + b"\x21\xfe\0" * (size // 3)
        ),
    )
    yield "bomb/huge.bmp", _bmp(2**31 - 1, 2**31 - 1, 0)
    yield "bomb/negative.bmp", _bmp(-5, -(2**31), 0)
    yield "bomb/runs.bmp", _bmp(30_000, 30_000, 1) + b"\xff\0" * 10_000
    yield "bomb/huge.ppm", b"P6\n99999 99999\n255\n"
    yield "bomb/digits.ppm", b"P6\n" + b"9" * size
    yield "bomb/comment.ppm", b"P6\n#" + b"c" * size
    yield "bomb/text.ppm", b"P3\n4000 4000\n255\n" + b"1 " * (size // 2)
    yield "bomb/huge.webp", _webp(b"VP8X", bytes(4) + b"\xff" * 6)
    yield "bomb/16383.webp", _webp(b"VP8L", b"\x2f" + struct.pack("<I", (16_382 << 14) | 16_382))
    yield "bomb/size.webp", b"RIFF\xff\xff\xff\xffWEBPVP8 \xff\xff\xff\xff" + bytes(32)
    yield from _tiffs(zeros, size)


def _bmp(width: int, height: int, compression: int) -> bytes:
    info = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8, compression, 0, 0, 0, 0, 0)
    return b"BM" + struct.pack("<IHHI", 54, 0, 0, 54) + info


def _webp(kind: bytes, payload: bytes) -> bytes:
    inner = b"WEBP" + kind + struct.pack("<I", len(payload)) + payload
    return b"RIFF" + struct.pack("<I", len(inner)) + inner


def _tiff(tags: dict[int, tuple[int, int, int]], tail: bytes = b"", following: int = 0) -> bytes:
    """Return a TIFF of one directory: tag to (type, count, value), then ``tail`` at byte 1024."""
    entries = b"".join(struct.pack("<HHII", tag, *entry) for tag, entry in sorted(tags.items()))
    directory = struct.pack("<H", len(tags)) + entries + struct.pack("<I", following)
    return (b"II*\0\x08\0\0\0" + directory).ljust(1024, b"\0") + tail


def _tiffs(zeros: bytes, size: int) -> Iterator[tuple[str, bytes]]:
    grey = {258: (3, 1, 8), 262: (3, 1, 1), 277: (3, 1, 1)}

    def plain(side: int, rows: int, compression: int, length: int) -> dict[int, Any]:
        sides = {256: (4, 1, side), 257: (4, 1, side), 278: (4, 1, rows)}
        return grey | sides | {259: (3, 1, compression), 273: (4, 1, 1024), 279: (4, 1, length)}

    yield "bomb/huge.tiff", _tiff(plain(2**31 - 1, 2**31 - 1, 1, 8))
    yield "bomb/deflate.tiff", _tiff(plain(16_384, 16_384, 8, len(zeros)), zeros)
    yield "bomb/strip.tiff", _tiff(plain(8, 8, 1, 2**32 - 1), bytes(64))
    yield "bomb/strips.tiff", _tiff(plain(8, 8, 1, 64) | {273: (4, 2**31, 1024)}, bytes(64))
    yield "bomb/counts.tiff", _tiff(plain(8, 8, 1, 64) | {270: (2, 2**32 - 1, 1024)}, bytes(64))
    yield "bomb/loop.tiff", _tiff(plain(8, 8, 1, 64), bytes(64), following=8)
    tags = {tag: (4, 1, 0) for tag in range(300, 380)}
    yield "bomb/tags.tiff", _tiff(plain(8, 8, 1, 64) | tags, bytes(64))
    yield "bomb/filled.tiff", _tiff(plain(4000, 4000, 1, size), bytes(size))


def polyglots() -> Iterator[tuple[str, bytes]]:
    """Yield files that are two things, or pretend to be an image."""
    images = good()
    for first in ("jpeg", "png", "gif", "webp", "bmp", "tiff", "ppm"):
        for second in ("jpeg", "png", "gif"):
            if first != second:
                yield f"polyglot/{first}+{second}", images[first] + images[second]
                magic = images[first][:4] + images[second][4:]
                yield f"polyglot/magic-{first}-of-{second}", magic
    yield "polyglot/jpeg+zip", images["jpeg"] + b"PK\x03\x04" + bytes(26)
    yield "polyglot/gif+script", b"GIF89a/*" + bytes(8) + b"*/=1;alert(1)//"
    named = {
        "empty": b"",
        "one-byte": b"\xff",
        "svg": b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>',
        "html": b"<html><script>alert(1)</script></html>",
        "pdf": b"%PDF-1.4\n1 0 obj\n<<>>\nendobj\n",
        "eps": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(/etc/passwd) run\n",
        "ico": struct.pack("<HHHBBBBHHII", 0, 1, 1, 0, 0, 0, 0, 1, 32, 2**31, 22) + bytes(64),
        "icns": b"icns" + struct.pack(">I", 2**31) + b"ic10" + struct.pack(">I", 8),
        "psd": b"8BPS\0\1" + bytes(6) + struct.pack(">HIIHH", 3, 30_000, 30_000, 8, 3) + bytes(64),
        "jpeg2000": b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(64),
        "jpeg-xl": b"\xff\x0a" + bytes(64),
        "heic": b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(64),
        "avif": b"\0\0\0\x18ftypavif\0\0\0\0mif1avif" + bytes(64),
        "dds": b"DDS " + struct.pack("<I", 124) + b"\xff" * 120,
        "fli": struct.pack("<IHHHHHH", 128, 0xAF11, 9999, 30_000, 30_000, 8, 3) + bytes(112),
        "sgi": struct.pack(">HBBHHHH", 474, 1, 1, 3, 65_535, 65_535, 3) + bytes(500),
        "pcx": b"\x0a\x05\x01\x08\0\0\0\0\xff\xff\xff\xff" + bytes(116),
        "tga": b"\0\0\x0a" + bytes(9) + struct.pack("<HHBB", 65_535, 65_535, 24, 0) + bytes(32),
        "xbm": b"#define w_width 99999\n#define w_height 99999\nstatic char b[] = {\n",
        "wmf": b"\xd7\xcd\xc6\x9a" + bytes(40),
        "pickle": b"\x80\x04cos\nsystem\n(S'true'\ntR.",
        "numpy": b"\x93NUMPY\x01\0" + bytes(64),
        "gzip": b"\x1f\x8b\x08" + bytes(64),
    }
    for name, data in named.items():
        yield f"not-an-image/{name}", data


def truncated() -> Iterator[tuple[str, bytes]]:
    """Yield every proper prefix of every good image of up to 1,000 bytes, else 400 of them."""
    for name, data in good().items():
        step = 1 if len(data) <= 1000 else len(data) // 400
        for length in range(1, len(data), step):
            yield f"truncated/{name}-{length}", data[:length]


def flipped(count: int, seed: int = 0) -> Iterator[tuple[str, bytes]]:
    """Yield ``count`` images of each good one in which up to four bytes are other ones."""
    random = np.random.default_rng(seed)
    for name, data in good().items():
        for turn in range(count):
            changed = bytearray(data)
            for _ in range(int(random.integers(1, 5))):
                changed[int(random.integers(len(data)))] = int(random.integers(256))
            yield f"flipped/{name}-{turn}", bytes(changed)


def everything(flips: int = 40) -> Iterator[tuple[str, bytes]]:
    """Yield the whole corpus: some fifteen thousand files."""
    for name, data in good().items():
        yield f"good/{name}", data
    yield from polyglots()
    yield from bombs()
    yield from truncated()
    yield from flipped(flips)
