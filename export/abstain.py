"""Choose when a model abstains: the lowest probability of its first label that is an answer.

Chosen on the validation split, measured on the test split. Legend: N rows, K classes.
"""

import numpy as np
from numpy.typing import NDArray

from export.errors import ExportError
from models.abstain import is_answered
from models.evidence import Abstain, Selective


def check_share(target_precision: float) -> None:
    """Refuse a wanted share of right labels that is no share.

    Raises:
        ExportError: It is not above 0 and at most 1.
    """
    if not 0 < target_precision <= 1:
        raise ExportError(f"abstain-precision: expected above 0, at most 1, got {target_precision}")


def choose_threshold(
    probabilities_NK: NDArray[np.float32], targets_N: NDArray[np.int64], target_precision: float
) -> float:
    """Return the lowest threshold at which enough of the answers are right.

    Args:
        probabilities_NK: float32 [N, K], of the validation split.
        targets_N: int64 [N].
        target_precision: Wanted share of right labels among the answered, 0 < share <= 1.

    Returns:
        A probability that occurs in the split; rows that reach it are answered.

    Raises:
        ExportError: The share is out of range, or no threshold reaches it.
    """
    check_share(target_precision)
    confidence_N = probabilities_NK.max(axis=1)
    is_right_N = probabilities_NK.argmax(axis=1) == targets_N
    order = np.argsort(-confidence_N, kind="stable")
    sorted_N = confidence_N[order]
    precision_N = np.cumsum(is_right_N[order]) / np.arange(1, len(order) + 1)
    # A threshold answers all rows of one confidence or none, so only the last row of each counts.
    is_last_N = np.append(sorted_N[1:] != sorted_N[:-1], True)
    good = np.flatnonzero(is_last_N & (precision_N >= target_precision))
    if not len(good):
        best = float(precision_N[is_last_N].max())
        raise ExportError(
            f"abstain-precision: expected a share that is reached, got "
            f"{target_precision:.2%}; the highest is {best:.2%}"
        )
    return float(sorted_N[good[-1]])


def measure_threshold(
    split: str,
    probabilities_NK: NDArray[np.float32],
    targets_N: NDArray[np.int64],
    threshold: float,
) -> Selective:
    """Measure the share of rows that are answered, and the share of right labels among them."""
    is_answered_N = is_answered(probabilities_NK.max(axis=1), threshold)
    is_right_N = probabilities_NK.argmax(axis=1) == targets_N
    answered = int(is_answered_N.sum())
    right = int((is_answered_N & is_right_N).sum())
    return Selective(
        split, len(targets_N), answered / len(targets_N), right / answered if answered else 0.0
    )


def choose_abstain(
    validation_NK: NDArray[np.float32],
    validation_targets_N: NDArray[np.int64],
    test_NK: NDArray[np.float32],
    test_targets_N: NDArray[np.int64],
    target_precision: float,
    *,
    splits: tuple[str, str] = ("validation", "test"),
) -> Abstain:
    """Choose the threshold on the validation split and measure it on both splits.

    Args:
        validation_NK: Probabilities on the validation split, float32 [N, K].
        validation_targets_N: Its targets, int64 [N].
        test_NK: Probabilities on the test split.
        test_targets_N: Its targets.
        target_precision: Wanted share of right labels among the answered, 0 < share <= 1.
        splits: Names of the two splits.

    Raises:
        ExportError: See ``choose_threshold``.
    """
    threshold = choose_threshold(validation_NK, validation_targets_N, target_precision)
    return Abstain(
        threshold,
        target_precision,
        measure_threshold(splits[0], validation_NK, validation_targets_N, threshold),
        measure_threshold(splits[1], test_NK, test_targets_N, threshold),
    )
