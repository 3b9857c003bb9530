"""Figures of a model on labelled images: accuracy, calibration, and the halves of a set of images.

Knows answers and targets as arrays. Legend: N rows, K classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.labels import are_given

# The number of Guo et al. 2017, and the usual one since.
_BINS = 15
# Labels whose confusions are recorded: 4,096 numbers in model.json, and as many cells on a screen.
MOST_CONFUSED = 64


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Figures of one model on one split.

    Attributes:
        images: Number of rows.
        accuracy: Share of rows whose label is right, 0-1.
        per_class: For each label the share of its own rows that are right, 0-1; None: it has none.
        calibration_error: Expected calibration error over 15 equal bins of confidence, 0-1.
    """

    images: int
    accuracy: float
    per_class: tuple[float | None, ...]
    calibration_error: float

    @property
    def balanced_accuracy(self) -> float:
        """Mean of the shares of the labels that have rows, 0-1: each class counts alike."""
        shares = [share for share in self.per_class if share is not None]
        return sum(shares) / len(shares)


def evaluate(
    probabilities_NK: NDArray[np.float32],
    targets_N: NDArray[np.int64],
    thresholds: Sequence[float] = (),
) -> Evaluation:
    """Compute the figures of a split.

    Args:
        probabilities_NK: float32 [N, K].
        targets_N: int64 [N].
        thresholds: Of a multi-label model: least probability of each label. Then a row is right if
            its target is its only label, and every probability counts for the calibration.
    """
    is_right_N = right_rows(probabilities_NK, targets_N, thresholds)
    if thresholds:
        is_target_NK = np.eye(len(thresholds), dtype=bool)[targets_N]
        has_target_N = are_given(probabilities_NK, thresholds)[is_target_NK]
        error = calibration_error(probabilities_NK.ravel(), is_target_NK.ravel())
    else:
        has_target_N = is_right_N
        error = calibration_error(probabilities_NK.max(axis=1), is_right_N)
    per_class = tuple(
        float(has_target_N[targets_N == index].mean()) if (targets_N == index).any() else None
        for index in range(probabilities_NK.shape[1])
    )
    return Evaluation(len(targets_N), float(is_right_N.mean()), per_class, error)


def count_confusions(
    predictions_N: NDArray[np.int64], targets_N: NDArray[np.int64], classes: int
) -> NDArray[np.int64]:
    """Count the predictions of each class.

    Returns:
        int64 [K, K]: rows of the class of the first index with the label of the second predicted.
    """
    pairs_N = targets_N * classes + predictions_N
    return np.bincount(pairs_N, minlength=classes**2).reshape(classes, classes)


def confusion(
    predictions_N: NDArray[np.int64], targets_N: NDArray[np.int64], classes: int
) -> tuple[tuple[int, ...], ...] | None:
    """Return the confusions as ``model.json`` has them; None of more than 64 classes."""
    if classes > MOST_CONFUSED:
        return None
    return tuple(map(tuple, count_confusions(predictions_N, targets_N, classes).tolist()))


def right_rows(
    probabilities_NK: NDArray[np.float32],
    targets_N: NDArray[np.int64],
    thresholds: Sequence[float] = (),
) -> NDArray[np.bool_]:
    """Return which rows have the target as their label, of several labels as the only one.

    Args:
        probabilities_NK: float32 [N, K].
        targets_N: int64 [N].
        thresholds: Of a multi-label model: least probability of each label.

    Returns:
        bool [N].
    """
    if not thresholds:
        is_right_N: NDArray[np.bool_] = probabilities_NK.argmax(axis=1) == targets_N
        return is_right_N
    is_target_NK = np.eye(len(thresholds), dtype=bool)[targets_N]
    is_right_N = (are_given(probabilities_NK, thresholds) == is_target_NK).all(axis=1)
    return is_right_N


@dataclass(frozen=True, slots=True)
class Reliability:
    """Confidence and accuracy in 15 equal bins of confidence; B = 15.

    Attributes:
        rows_B: Rows in each bin.
        confidence_B: Their mean confidence, 0-1; NaN for an empty bin.
        accuracy_B: Share of them that were right, 0-1; NaN for an empty bin.
    """

    rows_B: NDArray[np.int64]
    confidence_B: NDArray[np.float64]
    accuracy_B: NDArray[np.float64]

    @property
    def error(self) -> float:
        """Expected calibration error: mean gap between the two, weighted by rows, 0-1."""
        gaps = np.abs(self.accuracy_B - self.confidence_B) * self.rows_B
        return float(np.nansum(gaps) / self.rows_B.sum())


def reliability(confidence_N: NDArray[np.floating], is_right_N: NDArray[np.bool_]) -> Reliability:
    """Compare confidence with accuracy.

    Args:
        confidence_N: float [N], probability of the predicted class, 0-1.
        is_right_N: bool [N].
    """
    bins_N = np.minimum((confidence_N * _BINS).astype(np.int64), _BINS - 1)
    rows_B = np.bincount(bins_N, minlength=_BINS)
    with np.errstate(invalid="ignore"):
        return Reliability(
            rows_B,
            np.bincount(bins_N, confidence_N, minlength=_BINS) / rows_B,
            np.bincount(bins_N, is_right_N, minlength=_BINS) / rows_B,
        )


def calibration_error(confidence_N: NDArray[np.floating], is_right_N: NDArray[np.bool_]) -> float:
    """Compute the expected calibration error, the distance of confidence and accuracy.

    Args:
        confidence_N: float [N], probability of the predicted class, 0-1.
        is_right_N: bool [N].

    Returns:
        Mean over 15 equal bins of |accuracy - confidence|, weighted by rows, 0-1.
    """
    return reliability(confidence_N, is_right_N).error


def softmax(logits_NK: NDArray[np.floating]) -> NDArray[np.float32]:
    """Return the softmax of each row, computed in float64."""
    values = logits_NK.astype(np.float64)
    powers = np.exp(values - values.max(axis=1, keepdims=True))
    probabilities: NDArray[np.float32] = (powers / powers.sum(axis=1, keepdims=True)).astype(
        np.float32
    )
    return probabilities


def halves(targets_N: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Split rows in two, each class alike: what is fitted on the first is measured on the second.

    Args:
        targets_N: int64 [N]; equal ones if the classes are unknown.

    Returns:
        Row numbers of each half, int64, ascending; the first half has the odd row more.
    """
    order = np.argsort(targets_N, kind="stable")
    return np.sort(order[::2]), np.sort(order[1::2])
