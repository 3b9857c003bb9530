"""Pillow's enlargement, computed only where pixels are kept: for strips, whose whole would not fit.

The same arithmetic as Pillow's ``libImaging/Resample.c`` for 8-bit channels: weights in double
precision, rounded to 22 bits after the point, rows before columns, 8 bits between the two. Pillow's
own ``resize(box=…)`` starts at single-precision places, so its pixels differ.

Layout legend: H height, W width, C channels (1 grey, 3 RGB).
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from models.artifact import Filter

Floats = NDArray[np.float64]
Places = NDArray[np.int64]
Weights = NDArray[np.int32]

# 32 bits less 8 of the result and 2 for sums outside 0 to 1.
PRECISION_BITS = 22
# Pillow finds the nearest pixels by adding up; so far it is followed, beyond they are computed.
_MAX_ADDED = 1 << 20


def enlarge(
    image: NDArray[np.uint8],
    size: tuple[int, int],
    rows: tuple[int, int],
    columns: tuple[int, int],
    kind: Filter,
) -> NDArray[np.uint8]:
    """Return a part of an enlarged picture.

    Args:
        image: uint8 [H, W] or [H, W, C].
        size: (height, width) of the whole enlarged picture, at least H and W.
        rows: First row of the part, and the one after its last.
        columns: First column of the part, and the one after its last.
        kind: Filter.

    Returns:
        uint8 [rows, columns] or with C.
    """
    height, width = image.shape[:2]
    if kind == "nearest":
        places = nearest(height, size[0], rows), nearest(width, size[1], columns)
        return image[np.ix_(*places)]
    down, down_weights = _weights(height, size[0], rows, kind)
    across, across_weights = _weights(width, size[1], columns, kind)
    top, bottom = int(down.min()), int(down.max()) + 1
    widened = _mix(across, across_weights, image[top:bottom].swapaxes(0, 1)).swapaxes(0, 1)
    return _mix(down - top, down_weights, widened)


def nearest(source: int, target: int, span: tuple[int, int]) -> Places:
    """Return the nearest pixel of each output of a span of an axis, as Pillow finds it."""
    first, last = span
    scale = source / target
    if last <= _MAX_ADDED:
        places = np.cumsum(np.concatenate([[scale * 0.5], np.full(last - 1, scale)]))[first:]
    else:
        places = (np.arange(first, last) + 0.5) * scale
    return places.astype(np.int64).clip(0, source - 1)


def _mix(places: Places, weights: Weights, values: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Weigh values along their first axis: [outputs, taps] twice and [H, …] give [outputs, …]."""
    shape = (-1, *[1] * (values.ndim - 1))
    sums = np.full((len(places), *values.shape[1:]), 1 << (PRECISION_BITS - 1), np.int32)
    for tap in range(places.shape[1]):
        sums += values[places[:, tap]] * weights[:, tap].reshape(shape)
    return (sums >> PRECISION_BITS).clip(0, 255).astype(np.uint8)


def _weights(
    source: int, target: int, span: tuple[int, int], kind: Filter
) -> tuple[Places, Weights]:
    """Return the inputs of each output of an axis and their weights, both [outputs, taps].

    Args:
        source: Pixels of the picture.
        target: Pixels of the enlarged picture, at least ``source``.
        span: Outputs that are wanted.
        kind: Filter.
    """
    function, reach = _FILTERS[kind]
    centres = ((np.arange(*span) + 0.5) * (source / target))[:, None]
    starts = (centres - reach + 0.5).astype(np.int64).clip(0)
    ends = (centres + reach + 0.5).astype(np.int64).clip(max=source)
    places = starts + np.arange((ends - starts).max())
    weights = function(places - centres + 0.5)
    weights[places >= ends] = 0
    weights /= weights.sum(axis=1, keepdims=True)
    scaled = weights * (1 << PRECISION_BITS)
    rounded = np.trunc(scaled + np.where(scaled < 0, -0.5, 0.5)).astype(np.int32)
    return places.clip(max=source - 1), rounded


def _box(x: Floats) -> Floats:
    return ((x > -0.5) & (x <= 0.5)).astype(np.float64)


def _bilinear(x: Floats) -> Floats:
    return (1.0 - np.abs(x)).clip(0)


def _hamming(x: Floats) -> Floats:
    # Pillow's two constants are single precision.
    window = float(np.float32(0.54)) + float(np.float32(0.46)) * np.cos(np.pi * x)
    return np.where(np.abs(x) < 1, np.sinc(x) * window, 0.0)


def _bicubic(x: Floats) -> Floats:
    x = np.abs(x)
    near = (1.5 * x - 2.5) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * -0.5
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))


def _lanczos(x: Floats) -> Floats:
    return np.where((x >= -3) & (x < 3), np.sinc(x) * np.sinc(x / 3), 0.0)


# The filter, and how far it reaches from its centre, in pixels.
_FILTERS: dict[str, tuple[Callable[[Floats], Floats], float]] = {
    "box": (_box, 0.5),
    "bilinear": (_bilinear, 1.0),
    "hamming": (_hamming, 1.0),
    "bicubic": (_bicubic, 2.0),
    "lanczos": (_lanczos, 3.0),
}
