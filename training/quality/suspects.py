"""Labels that are probably wrong, and images that are probably turned.

Asks a judge, a cross-validation or a model, for the probabilities of every row.
Legend: N rows that are judged, K classes.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from training.datasets.listing import Listing
from training.quality.confident import find_suspects
from training.quality.findings import Finding

# An image is turned if, turned back, the probability of its label is this at least and that of
# the usual image of the class, and as it is only _UNLIKE. Of clean images, cross-validated, 24 of
# 58,000 of CIFAR-10 and 3 of 70,000 of Fashion-MNIST are named so; 0.9 alone, with half turns,
# named 6 of 1,000 in both.
_SURE = 0.95
_UNLIKE = 0.05


class Judge(Protocol):
    """Gives probabilities that do not follow from the given label of the row.

    Attributes:
        probabilities_NK: float32 [N, K].
    """

    probabilities_NK: NDArray[np.float32]

    def answer_turned(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return float32 [n, 2, K] of pictures turned to the left by 90 and 270 degrees."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a judge says about the labels of a dataset.

    Attributes:
        findings: Of the kinds ``label`` and ``rotated``.
        agreement: Share of the rows whose given label is the most probable one, 0-1.
        balanced: Mean of that share over the classes, 0-1.
        estimate: How many labels are wrong, as confident learning estimates.
    """

    findings: list[Finding]
    agreement: float
    balanced: float
    estimate: int


def find_wrong_labels(listing: Listing, judged: NDArray[np.int64], judge: Judge) -> Verdict:
    """Find labels that are probably wrong, and images that have their label once they are turned.

    Args:
        listing: The dataset.
        judged: int64 [N], rows of the dataset that the judge answered, in rising order.
        judge: Its answers.

    Returns:
        What was found.
    """
    targets_N = listing.targets_N[judged]
    probabilities_NK = judge.probabilities_NK
    suspects = find_suspects(probabilities_NK, targets_N)
    findings = [
        Finding("label", int(judged[row]), listing.labels[label], float(score))
        for row, label, score in zip(
            suspects.rows, suspects.suggestions, suspects.scores, strict=True
        )
    ]
    rows = np.sort(suspects.rows)
    if len(rows):
        turned = judge.answer_turned(rows)[np.arange(len(rows)), :, targets_N[rows]]
        turned = np.nan_to_num(turned)
        usual_K = _usual(probabilities_NK, targets_N)
        for row, given in zip(rows, turned, strict=True):
            is_unlike = probabilities_NK[row, targets_N[row]] <= _UNLIKE
            if is_unlike and given.max() >= max(_SURE, usual_K[targets_N[row]]):
                # The judge saw it turned further to the left; the mend is the same turn.
                degrees = 270 if given.argmax() else 90
                said = f"turn it by {degrees} degrees to the left"
                findings.append(Finding("rotated", int(judged[row]), said, float(given.max())))
    is_agreed_N = probabilities_NK.argmax(axis=1) == targets_N
    shares = [is_agreed_N[targets_N == label].mean() for label in np.unique(targets_N)]
    return Verdict(findings, float(is_agreed_N.mean()), float(np.mean(shares)), suspects.estimate)


def _usual(
    probabilities_NK: NDArray[np.float32], targets_N: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Return for each class the median probability of its label on its own rows, float64 [K]."""
    own_N = probabilities_NK[np.arange(len(targets_N)), targets_N]
    usual_K = np.ones(probabilities_NK.shape[1])
    for label in np.unique(targets_N):
        usual_K[label] = np.median(own_N[targets_N == label])
    return usual_K
