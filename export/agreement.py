"""When two pipelines agree on a file: the same labels, and probabilities within a tolerance.

Legend: N files, K classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from export.answers import Expected
from export.proof import same_labels

# Largest difference of a probability, end to end, and of two that are equally probable.
TOLERANCE = 1e-3
TIE = 1e-4


@dataclass(frozen=True, slots=True)
class Rule:
    """What counts as the same answer.

    Attributes:
        tolerance: Largest difference of a probability.
        tie: Two labels whose probabilities differ by no more are both the first; a probability
            this close to its threshold is on both sides of it.
        thresholds: Of a multi-label model: least probability of each label.
    """

    tolerance: float = TOLERANCE
    tie: float = TIE
    thresholds: tuple[float, ...] = ()

    def same_labels(
        self, expected_NK: NDArray[np.float32], got_NK: NDArray[np.float32]
    ) -> NDArray[np.bool_]:
        """Return which rows get the same label, or of several the same ones, bool [N]."""
        return same_labels(expected_NK, got_NK, self.tie, self.thresholds)

    def agreeing(
        self,
        expected: Expected,
        got_NK: NDArray[np.float32],
        rows: Sequence[int] | None = None,
    ) -> NDArray[np.bool_]:
        """Return which files are answered as expected, bool [N].

        Args:
            expected: The user's own answers.
            got_NK: Ours, float32 [N, K].
            rows: Those of ``expected`` that ``got_NK`` answers; None: all.
        """
        wanted_NK = expected.probabilities_NK
        if rows is not None:
            wanted_NK = wanted_NK[list(rows)]
        is_same_N = self.same_labels(wanted_NK, got_NK)
        if not expected.is_labels_only:
            is_same_N &= differences(wanted_NK, got_NK) <= self.tolerance
        return is_same_N


def differences(
    expected_NK: NDArray[np.float32], got_NK: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Return each file's largest difference of a probability, float32 [N]; NaN counts as 1."""
    differences_N: NDArray[np.float32] = np.abs(expected_NK - got_NK).max(axis=1)
    return np.nan_to_num(differences_N, nan=1.0)
