"""Files that programs open differently, made of given ones: turned, transparent, CMYK, 16 bits.

A user's own photographs are often all upright and opaque, and then show nothing about how their
program opens a file that is not. What becomes of EXIF, transparency and 16 bits is seen on these.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from export.errors import AdoptError
from models.image import ImageError, decode_pixels, work
from models.pixels import Decoding

# Enough to show a difference, and cheap to run through any pipeline.
_SIDE = 512
_ORIENTATION = 0x0112
_QUARTER_TURN = 6


def write_variants(images: Sequence[Path], folder: Path) -> list[Path]:
    """Write a picture in the ways that programs open differently.

    Args:
        images: Encoded images; the first one is taken.
        folder: Where the files are written.

    Returns:
        ``turned.jpg`` (EXIF orientation 6), ``transparent.png`` (RGBA), ``palette.png`` (with a
        transparent colour), ``cmyk.jpg`` and ``grey16.png``, each of at most 512 pixels a side.

    Raises:
        AdoptError: There is no image, or it cannot be decoded.
    """
    if not images:
        raise AdoptError("expected --images to make turned and transparent files of, got none")
    decoding = Decoding()
    try:
        encoded = images[0].read_bytes()
        work(encoded, decoding)
        picture = Image.fromarray(decode_pixels(encoded, decoding))
    except ImageError as error:
        raise AdoptError(f"{images[0]}: {error}") from None
    picture.thumbnail((_SIDE, _SIDE))
    exif = Image.Exif()
    exif[_ORIENTATION] = _QUARTER_TURN
    transparent = picture.copy()
    transparent.putalpha(Image.linear_gradient("L").resize(picture.size))
    grey = np.asarray(picture.convert("L")).astype(np.uint16) << 8
    paths = [
        folder / name
        for name in ("turned.jpg", "transparent.png", "palette.png", "cmyk.jpg", "grey16.png")
    ]
    picture.save(paths[0], exif=exif, quality=95)
    transparent.save(paths[1])
    # Half of the picture is of the transparent colour's entry.
    flat = picture.quantize(64)
    values = np.asarray(flat).copy()
    values[: flat.height // 2] = 0
    halved = Image.fromarray(values, "P")
    halved.putpalette(flat.getpalette() or [])
    halved.save(paths[2], transparency=0)
    picture.convert("CMYK").save(paths[3], quality=95)
    Image.fromarray(grey).save(paths[4])
    return paths
