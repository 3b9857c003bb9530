"""The extension of `_resample.c`: a part of a resized picture. `resample` is its only user."""

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]

INSTRUCTIONS: str
"""``avx2`` or ``plain``: what `resample` is compiled for that this machine has."""

def axis(source: int, target: int, begin: int, end: int, kind: str, /) -> object:
    """Return the weights of outputs ``begin`` to ``end`` of one axis.

    Raises:
        ValueError: No such filter, or not 0 <= begin < end <= target.
        MemoryError: The weights do not fit.
    """

def table(axis: object, /) -> bytes:
    """Return an axis as int32: the first input of each output, their counts, their weights.

    Weights are in 1 / 2^22, [outputs, taps]; those after an output's count are 0.
    """

def resample(
    image: Pixels, rows: object, columns: object, channels: int, is_down_first: bool, out: Pixels, /
) -> None:
    """Write a part of a resized picture into a buffer; holds no lock meanwhile.

    Args:
        image: uint8 [H, W, C], contiguous.
        rows: Axis of the rows, of source H.
        columns: Axis of the columns, of source W.
        channels: C, 1 or 3.
        is_down_first: Whether rows are mixed before columns.
        out: uint8 [outputs of rows, outputs of columns, C], contiguous, writable.

    Raises:
        ValueError: A buffer has another size, or C is another.
        MemoryError: No memory for rows between the two.
    """

def resample_plain(
    image: Pixels, rows: object, columns: object, channels: int, is_down_first: bool, out: Pixels, /
) -> None:
    """As `resample`, by the code for every machine."""
