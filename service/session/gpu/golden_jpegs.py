"""Golden JPEGs: of each kind a few, made here, to compare a card's pixels with the CPU's.

Every subsampling, grey, odd sizes, restart markers, qualities 1 to 100: what decoders round in
different ways. Knows no decoder.
"""

import io
from collections.abc import Iterator

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image

_QUALITIES = (1, 10, 35, 60, 75, 85, 95, 100)
# Height and width: of one block and less, odd, of several rows of blocks, and usual.
_SIZES = ((16, 16), (33, 17), (70, 131), (117, 66), (240, 320))
_SUBSAMPLINGS = ("444", "422", "420", "440", "411")
# Of the largest size: every second quality, as it takes most of the time.
_LARGE = 240 * 320
# Pillow's numbers of subsamplings, which alone writes restart markers.
_OF_PILLOW = {"444": 0, "422": 1, "420": 2}


def golden_jpegs() -> Iterator[tuple[str, bytes]]:
    """Yield the kind and the file of each golden JPEG."""
    for number, (height, width) in enumerate(_SIZES):
        picture = _picture(height, width, number)
        grey = np.ascontiguousarray(picture[..., :1])
        for quality in _QUALITIES[:: 2 if height * width >= _LARGE else 1]:
            for subsampling in _SUBSAMPLINGS:
                encoded = simplejpeg.encode_jpeg(picture, quality, "RGB", subsampling)
                yield subsampling, encoded
            yield "grey", simplejpeg.encode_jpeg(grey, quality, "GRAY", "Gray")
        for subsampling, pillows in _OF_PILLOW.items():
            yield f"{subsampling} restarts", _with_restarts(Image.fromarray(picture), pillows)
        yield "grey restarts", _with_restarts(Image.fromarray(grey[..., 0]), -1)


def _with_restarts(image: Image.Image, subsampling: int) -> bytes:
    encoded = io.BytesIO()
    image.save(encoded, "JPEG", quality=80, subsampling=subsampling, restart_marker_blocks=3)
    return encoded.getvalue()


def _picture(height: int, width: int, seed: int) -> NDArray[np.uint8]:
    """Return uint8 [H, W, 3]: slopes of colour, an edge, and noise in one half."""
    rows, columns = np.mgrid[0:height, 0:width]
    slopes = [rows * 255 // height, columns * 255 // width, (rows + columns) * 5 % 256]
    picture = np.stack(slopes, axis=2)
    picture[height // 3 :, : width // 2] ^= 0x60
    noise = np.random.default_rng(seed).integers(-90, 91, picture.shape)
    noise[:, width // 2 :] = 0
    return (picture + noise).clip(0, 255).astype(np.uint8)
