"""The one decoder: encoded bytes and an ``ImageSpec`` to the pixels that a model takes.

Used by training for folders of files, by scoring, and by the service for every protocol, so a pixel
means the same on all sides. Each format has one parser, which says the size and decodes:

    jpeg     libjpeg-turbo
    png      its chunks read here, its rows decoded by Pillow
    ppm      PPM, PGM and PBM, by NumPy
    plugins  WebP, BMP, GIF, TIFF by Pillow; HEIC and AVIF with the extra ``heif``

What a picture costs is read from its header and bounded before anything is decoded. Knows nothing
about models, batches or HTTP.

Layout legend: H height, W width, C channels (1 grey, 3 RGB).
"""

import io
from collections.abc import Callable
from importlib.metadata import version

import PIL
from PIL import Image

from models import jpeg, plugins, png, ppm
from models.artifact import ImageSpec, OpenCVResize
from models.geometry import Pixels, fit, opencv_version
from models.image_errors import ImageError, ImageTooLargeError, TooManyPixelsError
from models.pixels import Decoding

__all__ = [
    "ENDINGS",
    "FORMATS",
    "MAX_PIXELS",
    "PIXEL_BYTES",
    "ImageError",
    "ImageTooLargeError",
    "Pixels",
    "TooManyPixelsError",
    "decode",
    "decode_pixels",
    "decode_sized",
    "decoder_versions",
    "decoding_of",
    "encode_png",
    "is_image",
    "is_light",
    "read_size",
    "work",
]

# 2^25 pixels are a 33-megapixel photograph and 100 MB of RGB: above what cameras in phones write by
# default, below what hurts a small container.
MAX_PIXELS = 1 << 25
# What a decoded pixel takes until it is resized: in Pillow's memory, as an array and in a copy.
PIXEL_BYTES = 8

FORMATS = "JPEG, PNG, WebP, GIF, BMP, TIFF or PPM"
# Endings of the names of files of these formats, in lower case, and of HEIC and AVIF, which are
# images without the extra ``heif``, too.
ENDINGS = frozenset(
    (
        *("jpg", "jpeg", "jpe", "jfif", "png", "apng", "webp", "gif", "bmp", "dib", "tif", "tiff"),
        *("ppm", "pgm", "pbm", "pnm", "heic", "heics", "heif", "hif", "avif", "avifs"),
    )
)
_LIGHT = frozenset({b"\xff", b"\x89", b"R"})
_HEIC_BRANDS = frozenset(
    {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1", b"heif"}
)
# What base64 makes of how PNG, JPEG, GIF and WebP begin, and the URL of a canvas or a file reader.
_BASE64 = (b"iVBORw0K", b"/9j/", b"R0lGOD", b"UklGR", b"data:image/")
_AVIF_BRANDS = frozenset({b"avif", b"avis"})
_MAGIC = {
    b"\xff\xd8\xff": "JPEG",
    b"\x89PN": "PNG",
    b"GIF": "GIF",
    b"II*": "TIFF",
    b"II+": "TIFF",
    b"MM\0": "TIFF",
}


def decoding_of(spec: ImageSpec) -> Decoding:
    """Return how images become pixels for a model."""
    return Decoding(spec.mode, spec.exif, spec.background, spec.least_decoded, spec.clip_16_bits)


def decode(
    encoded: bytes,
    spec: ImageSpec,
    max_pixels: int = MAX_PIXELS,
    on_damage: Callable[[str], None] | None = None,
) -> Pixels:
    """Decode one image and bring it to the size that the model takes.

    Of 16 bits the high 8 count, unless grey is to be clipped. Of several pictures in a file the
    first one counts.

    Args:
        encoded: One file of one of the formats.
        spec: Mode, EXIF, background and geometry of the result.
        max_pixels: Most pixels that are decoded: of a JPEG, at the scale it is decoded at.
        on_damage: Called with the decoder's words on damage within a JPEG that it, Pillow and
            browsers go on after: a part of the picture may be another.

    Returns:
        image_HWC: uint8 [H, W, C], RGB or grey, 0-255, contiguous.

    Raises:
        ImageTooLargeError: Decoding would take more than ``max_pixels``, or minutes.
        ImageError: The bytes are empty, of another format, truncated or corrupt.
    """
    decoding = decoding_of(spec)
    work(encoded, decoding, max_pixels)
    return decode_sized(encoded, spec, decoding, on_damage)


def decode_sized(
    encoded: bytes,
    spec: ImageSpec,
    decoding: Decoding,
    on_damage: Callable[[str], None] | None = None,
) -> Pixels:
    """Decode one image whose ``work`` the caller has found small enough; see ``decode``."""
    pixels = decode_pixels(encoded, decoding, on_damage)
    is_own_size = pixels.shape[0] == spec.height and pixels.shape[1] == spec.width
    if not (is_own_size and spec.keeps_own_size):
        pixels = fit(pixels, spec).reshape(spec.height, spec.width, spec.channels)
    return pixels


def decode_pixels(
    encoded: bytes, decoding: Decoding, on_damage: Callable[[str], None] | None = None
) -> Pixels:
    """Decode one image of any size, which the caller has found small enough.

    Returns:
        uint8 [H, W, C], RGB or grey, 0-255, contiguous.

    Raises:
        ImageError: As in ``decode``.
    """
    kind = _kind(encoded)
    if kind == "PNG":
        return png.decode(encoded, decoding)
    if kind == "JPEG":
        return jpeg.decode(encoded, decoding, on_damage)
    if kind == "PPM":
        return ppm.decode(encoded, decoding)
    return plugins.decode(kind, encoded, decoding)


def work(encoded: bytes, decoding: Decoding, max_pixels: int = MAX_PIXELS) -> int:
    """Return the pixels that decoding an image holds in memory, read from its header.

    Formats whose decoder holds more than ``PIXEL_BYTES`` a pixel count their pixels twice. A JPEG
    counts at least a sixteenth of its pixels times its scans, and its segments: the time that they
    take.

    Raises:
        ImageTooLargeError: Decoding would take more than ``max_pixels``, or minutes.
        ImageError: Empty, not one of the formats, or cut inside the header.
    """
    kind = _kind(encoded)
    if kind == "PNG":
        width, height = png.read_size(encoded)
        pixels = width * height
    elif kind == "JPEG":
        width, height, pixels = jpeg.work(encoded, decoding)
    elif kind == "PPM":
        width, height = ppm.read_size(encoded)
        pixels = width * height
    else:
        width, height, pixels = plugins.work(kind, encoded)
    if pixels > max_pixels:
        held = "" if pixels == width * height else f", which counts as {pixels} to decode"
        raise TooManyPixelsError(
            f"image: expected at most {max_pixels} pixels, got {width} x {height}{held}"
        )
    return pixels


def is_image(first: bytes) -> bool:
    """Return whether bytes begin as an image does, to tell images from other files.

    Formats whose mark is a letter and a digit that texts begin with, too (PPM), are not told.

    Args:
        first: At least the first 12 bytes of a file.
    """
    return (
        first[:3] in _MAGIC
        or (first[:4] == b"RIFF" and first[8:12] == b"WEBP")
        or (first[:2] == b"BM" and first[6:10] == bytes(4))
        or (first[4:8] == b"ftyp" and first[8:12] in _HEIC_BRANDS | _AVIF_BRANDS)
    )


def is_light(encoded: bytes) -> bool:
    """Return whether an image of few bytes and pixels takes little time, whatever it holds.

    True for JPEG, PNG and WebP; other formats are read by loops in Python.
    """
    return encoded[:1] in _LIGHT


def read_size(encoded: bytes) -> tuple[int, int]:
    """Read width and height from the header, without decoding.

    Returns:
        (width, height) in pixels, as stored: an EXIF orientation is not applied.

    Raises:
        ImageError: Empty, not one of the formats, or cut inside the header.
    """
    kind = _kind(encoded)
    if kind == "PNG":
        return png.read_size(encoded)
    if kind == "JPEG":
        return jpeg.read_size(encoded)
    if kind == "PPM":
        return ppm.read_size(encoded)
    return plugins.work(kind, encoded)[:2]


def decoder_versions(spec: ImageSpec) -> dict[str, str]:
    """Return the versions of the libraries that decide a model's pixels."""
    versions = {"Pillow": PIL.__version__, "simplejpeg": version("simplejpeg")}
    if plugins.can_read("HEIC"):
        versions["pillow-heif"] = version("pillow-heif")
    if isinstance(spec.resize, OpenCVResize):
        versions["OpenCV"] = opencv_version()
    return versions


def encode_png(image_HWC: Pixels) -> bytes:
    """Encode pixels without loss, for golden images and tests.

    Args:
        image_HWC: uint8 [H, W, 1] grey or [H, W, 3] RGB, 0-255.
    """
    encoded = io.BytesIO()
    pixels = image_HWC[:, :, 0] if image_HWC.shape[2] == 1 else image_HWC
    Image.fromarray(pixels).save(encoded, "PNG")
    return encoded.getvalue()


def _kind(encoded: bytes) -> str:
    """Return the format by its first bytes.

    Raises:
        ImageError: Empty, or none of the formats that are decoded.
    """
    kind = _MAGIC.get(encoded[:3])
    if kind is not None:
        return kind
    if encoded[:4] == b"RIFF" and encoded[8:12] == b"WEBP":
        return "WebP"
    if encoded[:2] == b"BM":
        return "BMP"
    if encoded[:1] == b"P" and encoded[1:2] in b"123456" and len(encoded) > 2:
        return "PPM"
    if not encoded:
        raise ImageError(f"image: expected {FORMATS} bytes, got an empty body")
    if encoded[4:8] == b"ftyp":
        kind = "AVIF" if encoded[8:12] in _AVIF_BRANDS else "HEIC"
        if kind == "AVIF" or encoded[8:12] in _HEIC_BRANDS:
            if plugins.can_read(kind):
                return kind
            raise ImageError(
                f"image: expected {FORMATS}, got {kind}; save it as JPEG, or install foveal[heif]"
            )
    how = "; it is text in base64: send the bytes" if encoded.startswith(_BASE64) else ""
    raise ImageError(
        f"image: expected {FORMATS}, got {len(encoded)} bytes starting {encoded[:8]!r}{how}"
    )
