"""The ``vertical-line`` dataset: does a binary image contain exactly one full vertical line?

Generated, not read. ``vertical-line`` has all 512 patterns of 3x3 pixels; ``vertical-line:5`` a
balanced sample of the 33,554,432 patterns of 5x5, no pattern twice. A pattern is a number whose
bits are its pixels, row by row.
"""

import numpy as np
from numpy.typing import NDArray

from training.datasets.splits import Source, Split, split_off_test
from training.errors import DatasetError

LABELS = ("no line", "one line")

# Enough for a small network; the seed is fixed: every run has the same images.
_SAMPLE_A_CLASS = 4000
_SAMPLE_SEED = 0


def make_vertical_line(side: int = 3) -> Source:
    """Generate the dataset; a fifth of each class is the test part.

    Args:
        side: Height and width, 3 or 5.

    Raises:
        DatasetError: Another side.
    """
    if side == 3:
        patterns = np.arange(2**9)
        images_NHW = _draw(patterns, side)
        return _source(images_NHW, has_one_line(images_NHW))
    if side != 5:
        raise DatasetError(f"vertical-line: expected a side of 3 or 5, got {side}")
    generator = np.random.default_rng(_SAMPLE_SEED)
    # One pattern in seven has exactly one line: 5 / 32 * (31 / 32) ** 4 = 0.138.
    patterns = np.unique(generator.integers(0, 2**25, 16 * _SAMPLE_A_CLASS))
    images_NHW = _draw(generator.permutation(patterns), side)
    is_line_N = has_one_line(images_NHW)
    chosen = np.sort(
        np.concatenate(
            [np.flatnonzero(is_line_N == wanted)[:_SAMPLE_A_CLASS] for wanted in (True, False)]
        )
    )
    return _source(images_NHW[chosen], is_line_N[chosen])


def has_one_line(images_NHW: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Return whether exactly one column of each image is white from top to bottom.

    Args:
        images_NHW: uint8 [N, H, W], 0 or 255.

    Returns:
        bool [N].
    """
    is_line_N: NDArray[np.bool_] = (images_NHW == 255).all(axis=1).sum(axis=1) == 1
    return is_line_N


def _draw(patterns: NDArray[np.int64], side: int) -> NDArray[np.uint8]:
    bits = patterns[:, None] >> np.arange(side * side) & 1
    return (bits * 255).astype(np.uint8).reshape(-1, side, side)


def _source(images_NHW: NDArray[np.uint8], is_line_N: NDArray[np.bool_]) -> Source:
    return split_off_test(LABELS, Split(images_NHW[..., None], is_line_N.astype(np.int64)))
