"""Labels of a model: names that tell equal ones apart, and those that an image gets of several.

The service, the batch scorer and descriptions share these rules. Layout legend: N rows, K classes.
"""

from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def distinct_names(labels: Sequence[str]) -> tuple[str, ...]:
    """Return a name for each label, all different: ``crane (517)`` where two labels are equal.

    A label that no other one equals is its own name.

    Args:
        labels: Label of each index, K of them.
    """
    numbered: set[int] = set()
    while True:
        names = [f"{label} ({i})" if i in numbered else label for i, label in enumerate(labels)]
        count = Counter(names)
        equal = {i for i, name in enumerate(names) if count[name] > 1}
        if not equal:
            return tuple(names)
        # Ends: two numbered names differ in their numbers, so each turn numbers one more.
        numbered |= equal


def equal_labels(labels: Sequence[str]) -> set[str]:
    """Return the labels that occur twice or more."""
    count = Counter(labels)
    return {label for label in count if count[label] > 1}


def are_given(
    probabilities_NK: NDArray[np.float32], thresholds_K: Sequence[float] | NDArray[np.float32]
) -> NDArray[np.bool_]:
    """Return which labels each row of a multi-label model gets: those at or above their threshold.

    Compared as float32, as ``abstain.is_answered`` does. NaN gets no label.

    Args:
        probabilities_NK: float32 [N, K].
        thresholds_K: Least probability of each label, 0-1.

    Returns:
        bool [N, K].
    """
    given_NK: NDArray[np.bool_] = probabilities_NK >= np.asarray(thresholds_K, np.float32)
    return given_NK
