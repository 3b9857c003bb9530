"""The pass over all images: each is decoded once, measured, and kept as a small picture.

Knows nothing about labels. Legend: N rows, S side of the small pictures, H height, W width,
C channels.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

from models.artifact import ImageSpec
from models.exif import read_orientation
from models.geometry import Pixels, fit
from models.image import ImageError, decode_pixels, read_size, work
from models.pixels import Decoding
from training.datasets.ahead import map_ahead
from training.datasets.encoded import image_spec
from training.datasets.listing import Content, Listing

# Largest side of the small pictures: duplicates are searched in them, and the classifier of the
# cross-validation learns from them.
_SIDE = 32
# A JPEG's shorter side is not decoded below this: photographs take milliseconds, and what two
# pictures differ in still shows.
_DECODING = Decoding("RGB", background=(255, 255, 255), least=256)
# The readable images whose sizes choose the side of the small pictures.
_SAMPLE = 100
_EXIF = b"Exif\0\0"
# EXIF stands in the first segments of a JPEG, each of at most 64 KiB.
_EXIF_BYTES = 1 << 17

Report = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known about one image.

    Attributes:
        width: As shown, in pixels.
        height: As shown, in pixels.
        orientation: In EXIF, 1 to 8; 1: stored as shown.
        digest: Of the decoded pixels and their shape.
        spread: Largest standard deviation of a channel, 0-127.5.
    """

    width: int
    height: int
    orientation: int
    digest: bytes
    spread: float


@dataclass(frozen=True, slots=True)
class Scan:
    """All images of a dataset.

    Attributes:
        facts: N of them; None where an image cannot be read.
        errors: Index of each unreadable image to the reason.
        small_NSSC: uint8 [N, S, S, C], each picture stretched to a square; C is 1 if all are grey.
            Zeros where an image cannot be read.
    """

    facts: list[Facts | None]
    errors: dict[int, str]
    small_NSSC: NDArray[np.uint8]

    @property
    def readable(self) -> NDArray[np.int64]:
        """Return the rows whose images can be read, int64 [n]."""
        return np.array([row for row, each in enumerate(self.facts) if each is not None], np.int64)


def scan(listing: Listing, on_progress: Report = lambda *_: None) -> Scan:
    """Decode and measure every image of a dataset, on all available cores.

    Args:
        listing: The dataset.
        on_progress: Called with the number of images that are done, and N.
    """
    side = _choose_side(listing)
    spec = image_spec("RGB", side, side)
    total = len(listing.rows)
    small_NSSC = np.zeros((total, side, side, 3), np.uint8)
    facts: list[Facts | None] = []
    errors: dict[int, str] = {}
    contents = (content for _, content in listing.read(None))
    for index, found in enumerate(map_ahead(partial(_study, spec=spec), contents)):
        if isinstance(found, ImageError):
            errors[index] = str(found).removeprefix("image: ")
            facts.append(None)
        else:
            fact, small_NSSC[index] = found
            facts.append(fact)
        if index % 256 == 0:
            on_progress(index, total)
    on_progress(total, total)
    if all((small_NSSC[..., 0] == small_NSSC[..., other]).all() for other in (1, 2)):
        small_NSSC = np.ascontiguousarray(small_NSSC[..., :1])
    return Scan(facts, errors, small_NSSC)


def shown(content: Content, side: int) -> Pixels:
    """Decode a picture for people: at most a side of that many pixels, its proportions kept.

    Raises:
        ImageError: It cannot be decoded.
    """
    pixels = _decode(content)
    height, width = pixels.shape[:2]
    scale = min(1.0, side / max(height, width))
    size = max(1, round(height * scale)), max(1, round(width * scale))
    return fit(pixels, image_spec("RGB", *size))


def _choose_side(listing: Listing) -> int:
    """Return the middle of the shorter sides of the first images, at most 32."""
    sides: list[int] = []
    for _, content in listing.read(None):
        if isinstance(content, bytes):
            try:
                sides.append(min(read_size(content)))
            except ImageError:
                continue
        elif not isinstance(content, ImageError):
            sides.append(min(content.shape[:2]))
        if len(sides) == _SAMPLE:
            break
    return min(_SIDE, sorted(sides)[len(sides) // 2]) if sides else _SIDE


def _study(content: Content, spec: ImageSpec) -> tuple[Facts, Pixels] | ImageError:
    try:
        pixels = _decode(content)
        width, height, orientation = pixels.shape[1], pixels.shape[0], 1
        if isinstance(content, bytes):
            width, height = read_size(content)
            orientation = _orientation(content)
            if orientation >= 5:
                width, height = height, width
    except ImageError as error:
        return error
    digest = blake2b(repr(pixels.shape).encode(), digest_size=16)
    digest.update(pixels.data)
    spread = float(pixels.reshape(-1, 3).std(axis=0, dtype=np.float32).max())
    return Facts(width, height, orientation, digest.digest(), spread), fit(pixels, spec)


def _decode(content: Content) -> Pixels:
    """Return uint8 [H, W, 3], contiguous; a large JPEG at a scale."""
    if isinstance(content, ImageError):
        raise content
    if isinstance(content, bytes):
        work(content, _DECODING)
        return decode_pixels(content, _DECODING)
    return np.ascontiguousarray(np.broadcast_to(content, (*content.shape[:2], 3)))


def _orientation(encoded: bytes) -> int:
    """Return the orientation in the EXIF of a JPEG, 1 to 8; 1 for other formats."""
    if encoded[:2] != b"\xff\xd8":
        return 1
    start = encoded.find(_EXIF, 0, _EXIF_BYTES)
    return 1 if start < 0 else read_orientation(encoded[start : start + _EXIF_BYTES])
