"""The decoder against bombs, lies, truncations and what is no image."""

import io
import random
import resource
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from models.image import (
    MAX_PIXELS,
    ImageError,
    ImageTooLargeError,
    decode,
    read_size,
)
from tests.models.pictures import ENCODED, HEIGHT, RGB, WIDTH, photograph, save, spec
from tests.server import ROOT

ONE = pytest.mark.parametrize("name", ENCODED)


# Limits


@pytest.mark.parametrize(
    "resize",
    [
        *(f"OpenCVResize('{rule}')" for rule in ("stretch", "crop", "pad")),
        *(f"Resize('{side}', height=256)" for side in ("both", "shorter", "longer")),
        "Resize('shorter', 'nearest')",
        "None",
    ],
)
def test_extreme_shape_needs_little_memory(resize: str) -> None:
    """A strip of a pixel's height, within the limit of pixels, in a process of 1 GiB."""
    program = (
        "import resource, sys\n"
        "import numpy as np\n"
        "from models.artifact import ImageSpec, OpenCVResize, Resize\n"
        "from models.image import ImageError, decode, encode_png\n"
        "strip = encode_png(np.zeros((1, 1_000_000, 3), np.uint8))\n"
        f"spec = ImageSpec('RGB', 224, 224, {resize})\n"
        "used = int(open('/proc/self/statm').read().split()[0]) * 4096\n"
        "resource.setrlimit(resource.RLIMIT_AS, (used + 2**30,) * 2)\n"
        "try:\n"
        "    assert decode(strip, spec).shape == (224, 224, 3)\n"
        "except ImageError:\n"
        "    pass\n"
    )
    if not hasattr(resource, "RLIMIT_AS") or not Path("/proc/self/statm").exists():
        pytest.skip("needs Linux")
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True, timeout=60)


def png_header(width: int, height: int) -> bytes:
    """A PNG that announces a size and holds a few bytes."""
    header = struct.pack(">II5B", width, height, 8, 2, 0, 0, 0)

    def chunk(kind: bytes, content: bytes) -> bytes:
        crc = zlib.crc32(kind + content)
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", crc)

    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b"\0" * 100))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize(
    "size", [(2**31 - 1, 2**31 - 1), (100_000, 100_000), (MAX_PIXELS + 1, 1), (5793, 5793)]
)
def test_bombs_are_refused_before_decoding(size: tuple[int, int]) -> None:
    with pytest.raises(ImageTooLargeError, match=f"got {size[0]} x {size[1]}"):
        decode(png_header(*size), spec())


@ONE
def test_limit_is_exact(name: str) -> None:
    pixels = HEIGHT * WIDTH * (2 if name.startswith("webp") else 1)
    decode(ENCODED[name], spec(), pixels)
    with pytest.raises(ImageTooLargeError, match=f"at most {pixels - 1} pixels"):
        decode(ENCODED[name], spec(), pixels - 1)


def test_real_bomb() -> None:
    """100 million pixels in 100 KB."""
    bomb = io.BytesIO()
    Image.new("1", (10_000, 10_000)).save(bomb, "PNG")
    assert len(bomb.getvalue()) < 200_000
    with pytest.raises(ImageTooLargeError):
        decode(bomb.getvalue(), spec())


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="asks Linux for the peak")
@pytest.mark.parametrize("kind", [b"IDAT", b"tEXt", b"iCCP", b"eXIf", b"IEND", b"fcTL", b"zzzz"])
def test_announced_chunk_is_not_allocated(kind: bytes) -> None:
    """OpenCV 4.14 takes 4 GiB and five seconds for a PNG of 277 bytes that announces them."""
    program = (
        "import sys\n"
        "from models.artifact import ImageSpec\n"
        "from models.image import ImageError, decode\n"
        "png = bytes.fromhex(sys.argv[1])\n"
        "for position in (33, len(png) - 12):\n"
        "    chunk = b'\\xff\\xff\\xff\\xf0' + sys.argv[2].encode()\n"
        "    bomb = png[:position] + chunk + png[position:]\n"
        "    try:\n"
        "        decode(bomb, ImageSpec('RGB', 8, 8))\n"
        "    except ImageError:\n"
        "        continue\n"
        "    sys.exit('decoded')\n"
        "status = open('/proc/self/status').read()\n"
        "print(status.partition('VmHWM:')[2].split()[0])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, png_header(8, 8).hex(), kind.decode()],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert int(done.stdout) < 512 << 10, "KiB of memory at the most"


def test_bytes_behind_the_end_of_a_png_are_passed_over() -> None:
    np.testing.assert_array_equal(decode(ENCODED["png"] + b"\xff" * 50, spec()), RGB)


@pytest.mark.parametrize("size", [(0, 0), (0, 5), (5, 0)])
def test_image_without_pixels(size: tuple[int, int]) -> None:
    with pytest.raises(ImageError):
        decode(png_header(*size), spec())


def test_header_that_lies_about_its_pixels() -> None:
    """The size that is checked must be the size that is decoded."""
    small = bytearray(ENCODED["webp-extended"])
    assert small[12:16] == b"VP8X"
    small[24:30] = bytes(6)  # a canvas of 1 x 1 around the same frame
    assert read_size(bytes(small)) == (1, 1)
    with pytest.raises(ImageError):
        decode(bytes(small), spec(), 100)


def test_jpeg_thumbnail_is_not_taken_for_the_image() -> None:
    thumbnail = save(photograph(1, 5, 7), "JPEG")
    exif = b"\xff\xe1" + struct.pack(">H", len(thumbnail) + 8) + b"Exif\0\0" + thumbnail
    encoded = b"\xff\xd8" + exif + ENCODED["jpeg"][2:]
    assert read_size(encoded) == (WIDTH, HEIGHT)
    assert decode(encoded, spec()).shape == (HEIGHT, WIDTH, 3)


# What is no image


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\0",
        b"hello",
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        b"GIF89a" + bytes(99),
        b"II*\0" + bytes(99),
        b"%PDF-1.7",
        b"\x89PNG",
        b"\x89PNG\r\n\x1a\n",
        b"\xff\xd8\xff",
        b"\xff\xd8\xff\xe0\0\0",
        b"\xff\xd8\xff" + b"\xff" * 5000,
        b"RIFF\0\0\0\0WEBP",
        b"RIFF\0\0\0\0WEBPVP8 ",
        b"RIFF\0\0\0\0WEBPVP8L" + bytes(30),
        b"BM",
        b"BM" + bytes(23),
        b"BM" + bytes(200),
        b"BM" + b"\xff" * 200,
        b"\0\0\0\x20ftypavif" + bytes(99),
    ],
)
def test_no_image(content: bytes) -> None:
    with pytest.raises(ImageError, match=r"^image: expected "):
        decode(content, spec())


def test_jpeg_segment_without_a_length_ends() -> None:
    """A length of 0 is less than its own two bytes; the walk must still go forward."""
    with pytest.raises(ImageError):
        read_size(b"\xff\xd8" + b"\xff\xe0\0\0" * 100_000)


@ONE
def test_every_truncation_is_refused(name: str) -> None:
    """But for what follows the last pixel, where all of the image is there."""
    encoded = ENCODED[name]
    whole = decode(encoded, spec())
    step = max(1, len(encoded) // 700)
    for size in [*range(0, len(encoded), step), *range(len(encoded) - 40, len(encoded))]:
        try:
            image = decode(encoded[:size], spec())
        except ImageError as error:
            assert str(error).startswith("image: expected ")
            assert "\n" not in str(error)
        else:
            assert size > len(encoded) - 20, f"{size} of {len(encoded)} bytes were taken as whole"
            np.testing.assert_array_equal(image, whole)


@ONE
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(seed=st.integers(0, 2**32))
def test_corruption_gives_an_array_or_an_image_error(name: str, seed: int) -> None:
    chance = random.Random(seed)
    encoded = bytearray(ENCODED[name])
    for _ in range(chance.choice([1, 1, 2, 5, 30])):
        position = chance.randrange(min(len(encoded), chance.choice([30, 200, 100_000])))
        encoded[position] = chance.choice([0, 255, 128, chance.randrange(256)])
    try:
        image = decode(bytes(encoded), spec("RGB", 8, 8), 1 << 20)
    except ImageError as error:
        assert "\n" not in str(error)
        return
    assert image.shape == (8, 8, 3)
    assert image.dtype == np.uint8


@given(
    st.sampled_from([b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"RIFF....WEBPVP8X", b"BM", b""]),
    st.binary(max_size=200),
)
@settings(max_examples=300, deadline=None)
def test_random_bytes_are_refused(head: bytes, tail: bytes) -> None:
    try:
        image = decode(head + tail, spec("L", 8, 8), 1 << 20)
    except ImageError:
        return
    assert image.shape == (8, 8, 1)
