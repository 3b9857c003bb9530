"""Stripped pictures: every pixel as before, turned as before, and nothing of who took them."""

import io
from collections.abc import Callable

import numpy as np
import pytest
from PIL import ExifTags, Image, PngImagePlugin

from models.artifact import ImageSpec
from models.exif import read_orientation
from models.image import decode
from models.stripped import strip

SECRET = b"Eiffel Tower 48.858"
SPEC = ImageSpec("RGB", 24, 36)


def picture(mode: str = "RGB") -> Image.Image:
    rng = np.random.default_rng(7)
    shape = (24, 36) if mode == "L" else (24, 36, len(mode))
    return Image.fromarray(rng.integers(0, 256, shape, np.uint8), mode)


def exif(orientation: int) -> Image.Exif:
    block = Image.Exif()
    block[ExifTags.Base.Orientation] = orientation
    block[ExifTags.Base.ImageDescription] = SECRET.decode()
    block.get_ifd(ExifTags.IFD.GPSInfo)[ExifTags.GPS.GPSLatitude] = (48.0, 51.0, 29.0)
    return block


def save(kind: str, image: Image.Image, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def jpeg(orientation: int, **options: object) -> bytes:
    return save(
        "JPEG", picture(), exif=exif(orientation), comment=SECRET, xmp=SECRET, quality=90, **options
    )


def png(orientation: int) -> bytes:
    info = PngImagePlugin.PngInfo()
    info.add_text("Comment", SECRET.decode())
    info.add_itxt("XML:com.adobe.xmp", SECRET.decode())
    return save("PNG", picture("RGBA"), exif=exif(orientation), pnginfo=info)


def webp(orientation: int) -> bytes:
    return save("WEBP", picture(), exif=exif(orientation), xmp=SECRET, lossless=True)


MAKERS: dict[str, Callable[[int], bytes]] = {
    "baseline": jpeg,
    "progressive": lambda turn: jpeg(turn, progressive=True),
    "restarts": lambda turn: jpeg(turn, restart_marker_blocks=1),
    "preview behind it": lambda turn: jpeg(turn) + jpeg(1),
    "film behind it": lambda turn: jpeg(turn) + b"ftypmp42" + SECRET * 9,
    "cmyk": lambda turn: save("JPEG", picture("CMYK"), exif=exif(turn), comment=SECRET),
    "grey": lambda turn: save("JPEG", picture("L"), exif=exif(turn), comment=SECRET),
    "png": png,
    "webp": webp,
}


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
@pytest.mark.parametrize("kind", MAKERS)
def test_pixels_stay_and_words_go(kind: str, orientation: int) -> None:
    encoded = MAKERS[kind](orientation)
    assert SECRET in encoded or kind == "png"  # its text may be compressed
    stripped = strip(encoded)
    assert stripped is not None
    content, turn = stripped
    assert turn == orientation
    assert SECRET not in content and b"GPS" not in content and b"xmp" not in content.lower()
    np.testing.assert_array_equal(decode(content, SPEC), decode(encoded, SPEC))
    block = Image.open(io.BytesIO(content)).info.get("exif", b"")
    assert read_orientation(block) == orientation
    assert len(block) <= 6 + 26
    assert strip(content) == (content, orientation)


@pytest.mark.parametrize("encoded", [b"", b"\xff\xd8", b"\x89PNG\r\n\x1a\n", b"RIFF", b"GIF89a"])
def test_what_has_no_end_is_not_stripped(encoded: bytes) -> None:
    assert strip(encoded) is None


def test_a_cut_jpeg_is_not_stripped() -> None:
    assert strip(jpeg(1)[:-2]) is None


def test_a_picture_without_metadata_is_the_same() -> None:
    encoded = save("PNG", picture())
    assert strip(encoded) == (encoded, 1)
