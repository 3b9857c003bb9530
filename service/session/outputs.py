"""What one run of a graph gives, and which of its rows are no answers; imports no runtime.

Layout legend: N rows, K classes.
"""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Outputs(NamedTuple):
    """The outputs of one run: logits_NK and probabilities_NK, both float32 [N, K]."""

    logits: NDArray[np.float32]
    probabilities: NDArray[np.float32]


def not_finite(values_NK: NDArray[np.float32]) -> dict[int, str]:
    """Return the error of each row that is not all numbers; such a row has no answer.

    Args:
        values_NK: float32 [N, K], probabilities or logits.
    """
    # One pass without an array of its own: a NaN or an infinity makes the sum of squares one.
    if math.isfinite(np.vdot(values_NK, values_NK)):
        return {}
    bad_NK = ~np.isfinite(values_NK)
    return {
        int(row): f"probability: expected a number, got {values_NK[row][bad_NK[row]][0]}"
        for row in np.flatnonzero(bad_NK.any(axis=1))
    }
