"""The one rule by which a model answers or abstains.

Training chooses a threshold with it; the service and the batch scorer apply it. Layout legend: N
rows.
"""

import numpy as np
from numpy.typing import NDArray


def is_answered(
    confidence_N: NDArray[np.float32], threshold: float | np.float32
) -> NDArray[np.bool_]:
    """Return which rows a model answers; it abstains on the others.

    Compared as float32, in which probabilities are computed: a threshold that is read from JSON
    must not fall between a probability and its own decimal. NaN is no answer.

    Args:
        confidence_N: Probability of the first label, float32 [N], or one number.
        threshold: Least probability that is answered, 0-1.
    """
    answered_N: NDArray[np.bool_] = confidence_N >= np.float32(threshold)
    return answered_N
