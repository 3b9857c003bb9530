"""Pillow's resize, only where pixels are kept: by a C extension; without it, all by Pillow.

The extension (``_resample.c``) is built where a C compiler is. It gives the same bytes in a fifth
of the time: 0.37 ms where Pillow takes 1.9, for 640 x 427 pixels, bilinear, to a shorter side of
256 and a crop of 224. ``enlarge`` is the same arithmetic in NumPy, for strips.

Layout legend: H height, W width, C channels (1 grey, 3 RGB).
"""

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from models.artifact import Filter
from models.enlarge import PRECISION_BITS, Weights, nearest

try:
    from models import _resample
except ImportError:  # not built, or built for another machine
    _resample = None  # type: ignore[assignment]

RESAMPLER = "pillow" if _resample is None else _resample.INSTRUCTIONS
"""What resizes: ``avx2`` or ``plain`` C, or ``pillow``."""

# Weights are kept for sides of up to this many pixels: 100 KB an axis at most.
_MAX_KEPT_SIDE = 1 << 12
_KEPT_AXES = 64


def resample(
    image: NDArray[np.uint8],
    size: tuple[int, int],
    rows: tuple[int, int],
    columns: tuple[int, int],
    kind: Filter,
) -> NDArray[np.uint8]:
    """Return a part of a resized picture, bit-equal to Pillow's.

    Args:
        image: uint8 [H, W] or [H, W, C], contiguous.
        size: (height, width) of the whole resized picture.
        rows: First row of the part, and the one after its last.
        columns: First column of the part, and the one after its last.
        kind: Filter.

    Returns:
        uint8 [rows, columns] or with C.
    """
    if _resample is None or kind == "nearest":
        return _resize_whole(image, size, kind)[slice(*rows), slice(*columns)]
    height, width, *channels = image.shape
    down = _axis(height, size[0], *rows, kind)
    across = _axis(width, size[1], *columns, kind)
    part = np.empty((rows[1] - rows[0], columns[1] - columns[0], *channels), np.uint8)
    depth = channels[0] if channels else 1
    order = is_down_first(image.shape, size)
    _resample.resample(np.ascontiguousarray(image), down, across, depth, order, part)
    return part


def is_down_first(source: tuple[int, ...], target: tuple[int, int]) -> bool:
    """Return whether Pillow mixes rows before columns; since 13.0, where it pays.

    Between the two, pixels are rounded to 8 bits, so the order shows.

    Args:
        source: (height, width, …) of the picture.
        target: (height, width) of the resized picture.
    """
    fewer_rows, fewer_columns = source[0] - target[0], source[1] - target[1]
    return fewer_rows > max(0, 2 * fewer_columns)


class Table(NamedTuple):
    """The weights of one axis. Output i is a sum over its counts[i] inputs from first[i] on.

    Attributes:
        first: int32 [outputs]: first input of each output.
        counts: int32 [outputs], at least 1.
        weights: int32 [outputs, taps], in 1 / 2^22; 0 after the counts.
    """

    first: Weights
    counts: Weights
    weights: Weights


def has_tables() -> bool:
    """Return whether ``table`` works: only with the C extension."""
    return _resample is not None


def table(source: int, target: int, span: tuple[int, int], kind: Filter | None) -> Table:
    """Return the weights of one axis; in them, nearest and no resize are sums of one input.

    Equal axes of usual pictures are the same object.

    Args:
        source: Pixels of the picture.
        target: Pixels of the resized picture.
        span: First output, and the one after the last.
        kind: Filter; None: no resize.
    """
    make = _table if source > _MAX_KEPT_SIDE else _kept_table
    return make(source, target, span, kind)


def _table(source: int, target: int, span: tuple[int, int], kind: Filter | None) -> Table:
    outputs = span[1] - span[0]
    if kind is None or kind == "nearest":
        places = np.arange(*span) if kind is None else nearest(source, target, span)
        whole = np.full((outputs, 1), 1 << PRECISION_BITS, np.int32)
        return Table(places.astype(np.int32), np.ones(outputs, np.int32), whole)
    values = np.frombuffer(_resample.table(_axis(source, target, *span, kind)), np.int32)
    first, counts = values[: 2 * outputs].reshape(2, outputs)
    return Table(first, counts, values[2 * outputs :].reshape(outputs, -1))


_kept_table = lru_cache(_KEPT_AXES)(_table)


def _axis(source: int, target: int, first: int, last: int, kind: Filter) -> object:
    """Return the weights of one axis."""
    if source > _MAX_KEPT_SIDE:
        return _resample.axis(source, target, first, last, kind)
    return _kept_axis(source, target, first, last, kind)


@lru_cache(_KEPT_AXES)
def _kept_axis(source: int, target: int, first: int, last: int, kind: Filter) -> object:
    return _resample.axis(source, target, first, last, kind)


def _resize_whole(
    image: NDArray[np.uint8], size: tuple[int, int], kind: Filter
) -> NDArray[np.uint8]:
    grey = image[:, :, 0] if image.shape[2:] == (1,) else image
    resized = Image.fromarray(grey).resize(size[::-1], Image.Resampling[kind.upper()])
    return np.asarray(resized).reshape(*size, *image.shape[2:])
