"""Confident learning: which labels are probably wrong, from probabilities that did not see them.

Northcutt, Jiang and Chuang 2021, "Confident Learning: Estimating Uncertainty in Dataset Labels",
Journal of Artificial Intelligence Research 70: the confident joint (section 3.1), pruning by noise
rate (3.2), and the normalized margin as the order. Legend: N rows, K classes.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Suspects:
    """Rows whose labels are probably wrong, the surest first.

    Attributes:
        rows: int64 [n].
        suggestions: int64 [n], the most probable other label.
        scores: float64 [n], how much more probable it is than the given one, -1 to 1.
    """

    rows: NDArray[np.int64]
    suggestions: NDArray[np.int64]
    scores: NDArray[np.float64]


def find_suspects(probabilities_NK: NDArray[np.floating], targets_N: NDArray[np.int64]) -> Suspects:
    """Find the labels that are probably wrong.

    Args:
        probabilities_NK: float [N, K], of a classifier that has not seen the row's label.
        targets_N: int64 [N], the given labels.
    """
    joint_KK = estimate_joint(probabilities_NK, targets_N)
    is_wrong_N = np.zeros(len(targets_N), np.bool_)
    for given, true in zip(*np.nonzero(joint_KK), strict=True):
        if given == true:
            continue
        rows = np.flatnonzero(targets_N == given)
        count = min(round(joint_KK[given, true] * len(targets_N)), len(rows))
        margins = probabilities_NK[rows, true] - probabilities_NK[rows, given]
        worst = rows[np.argsort(-margins, kind="stable")[:count]]
        # A label that is the most probable one is no suspect, whatever the estimated number.
        is_wrong_N[worst[probabilities_NK[worst].argmax(axis=1) != given]] = True
    rows = np.flatnonzero(is_wrong_N)
    others = probabilities_NK[rows].astype(np.float64)
    own = others[np.arange(len(rows)), targets_N[rows]].copy()
    others[np.arange(len(rows)), targets_N[rows]] = -1
    margins = others.max(axis=1, initial=-1) - own
    order = np.argsort(-margins, kind="stable")
    return Suspects(rows[order], others.argmax(axis=1)[order], margins[order])


def estimate_joint(
    probabilities_NK: NDArray[np.floating], targets_N: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Estimate the joint distribution of given and true labels.

    A row counts as one of a true class if its probability is at least the mean probability of the
    rows that are labelled so; of several such classes, the most probable one.

    Returns:
        float64 [K, K], given by true; sums to 1.
    """
    classes = probabilities_NK.shape[1]
    labelled_K = np.bincount(targets_N, minlength=classes)
    threshold_K = np.full(classes, np.inf)
    for label in np.flatnonzero(labelled_K):
        threshold_K[label] = probabilities_NK[targets_N == label, label].mean()
    passing_NK = np.where(probabilities_NK >= threshold_K, probabilities_NK, -1.0)
    is_confident_N = passing_NK.max(axis=1) >= 0
    counts_KK = np.zeros((classes, classes))
    np.add.at(
        counts_KK, (targets_N[is_confident_N], passing_NK.argmax(axis=1)[is_confident_N]), 1.0
    )
    # Rows that are confident of no class share the distribution of those of their label.
    empty = counts_KK.sum(axis=1) == 0
    counts_KK[empty, empty.nonzero()[0]] = 1
    joint_KK = counts_KK * (labelled_K / counts_KK.sum(axis=1))[:, None]
    return joint_KK / joint_KK.sum()
