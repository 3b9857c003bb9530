"""Probabilities of every row by a classifier that has not seen its label: cross-validation.

The classifier is ridge regression on ``features``: solved, not trained, so five of them cost little
more than one, a hundred rows are enough to start, and the same data gives the same answer.
Legend: N rows, S side of the pictures, C channels, K classes, D features and a constant.
"""

from collections.abc import Callable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from export.calibrate import fit_temperature
from export.figures import softmax
from training.quality.features import PatchFeatures

FOLDS = 5
# Penalties that are tried; features have unit variance, so they are shares of it.
_PENALTIES = (0.001, 0.01, 0.1, 1.0)
# Rows whose features are computed at once.
_ROWS = 256
# Rows that choose the penalty and the temperature.
_SAMPLE = 20_000
# Regression answers 0 to 1, and a temperature is 0.05 to 20.
_GAIN = 20.0

Report = Callable[[int, int], None]


class CrossValidation:
    """The classifiers of a set of pictures, one for each fold, and what they answer.

    Args:
        small_NSSC: uint8 [N, S, S, C].
        targets_N: int64 [N], the given labels, 0 to K - 1.
        groups_N: int64 [N]; rows of one group, such as copies, are in the same fold.
        classes: K.
        seed: Chooses folds and filters.
        on_progress: Called with the rows that are done, and the rows that there are to do.

    Attributes:
        probabilities_NK: float32 [N, K], of the classifier that has not seen the row.
    """

    def __init__(
        self,
        small_NSSC: NDArray[np.uint8],
        targets_N: NDArray[np.int64],
        groups_N: NDArray[np.int64],
        classes: int,
        *,
        seed: int = 0,
        on_progress: Report = lambda *_: None,
    ):
        self._small_NSSC = small_NSSC
        self._folds_N = assign_folds(targets_N, groups_N, seed)
        self._features = PatchFeatures(small_NSSC, seed)
        everything, total = np.arange(len(targets_N)), 2 * len(targets_N)
        sample = np.random.default_rng(seed).permutation(everything)[:_SAMPLE]
        features = self._features(small_NSSC[sample[: 8 * _ROWS]])
        self._mean, self._scale = features.mean(0), 1 / features.std(0).clamp(min=1e-4)
        wanted_NK = torch.eye(classes)[torch.from_numpy(targets_N)]
        solve = self._prepare(wanted_NK, lambda done: on_progress(done, total))
        # One fold chooses for all.
        sample = sample[self._folds_N[sample] == 0]
        tried = [self._answer([solve(0, each)], sample) for each in _PENALTIES]
        losses = [_loss(logits_NK, targets_N[sample]) for logits_NK in tried]
        _, self._temperature, best = min((*loss, at) for at, loss in enumerate(losses))
        self._weights = [solve(fold, _PENALTIES[best]) for fold in range(FOLDS)]
        logits_NK = self._answer(
            self._weights, everything, lambda done: on_progress(total // 2 + done, total)
        )
        self.probabilities_NK = softmax(logits_NK / self._temperature)

    def answer_turned(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Classify pictures turned by 90 and 270 degrees, each by its row's classifier.

        Cameras and scanners turn by a quarter; digits and garments turned by half look like others.

        Args:
            rows: int64 [n].

        Returns:
            float32 [n, 2, K], probabilities.
        """
        answers = np.empty((len(rows), 2, self.probabilities_NK.shape[1]), np.float32)
        for start in range(0, len(rows), _ROWS):
            part = rows[start : start + _ROWS]
            for turn, quarters in enumerate((1, 3)):
                pictures = np.rot90(self._small_NSSC[part], quarters, axes=(1, 2)).copy()
                values = self._compute(pictures)
                for fold in range(FOLDS):
                    is_own = self._folds_N[part] == fold
                    logits = (values[torch.from_numpy(is_own)] @ self._weights[fold]).numpy()
                    scaled = logits * (_GAIN / self._temperature)
                    answers[start : start + len(part)][is_own, turn] = softmax(scaled)
        return answers

    def _prepare(
        self, wanted_NK: Tensor, report: Callable[[int], None]
    ) -> Callable[[int, float], Tensor]:
        """Return a function that gives a fold's weights [D, K] for a penalty."""
        size, classes = len(self._mean) + 1, wanted_NK.shape[1]
        squares = torch.zeros(FOLDS, size, size)
        products = torch.zeros(FOLDS, size, classes)
        for fold, rows, values in self._chunks(np.arange(len(wanted_NK)), report):
            squares[fold].addmm_(values.T, values)
            products[fold].addmm_(values.T, wanted_NK[torch.from_numpy(rows)])

        def solve(fold: int, penalty: float) -> Tensor:
            left_DD = (squares.sum(0) - squares[fold]).double()
            right_DK = (products.sum(0) - products[fold]).double()
            # In proportion to the rows, whose number is the square of the constant.
            ridge_D = left_DD[-1, -1].repeat(size) * penalty
            ridge_D[-1] = 1e-3
            lower_DD = torch.linalg.cholesky(left_DD + torch.diag(ridge_D))
            return torch.cholesky_solve(right_DK, lower_DD).float()

        return solve

    def _answer(
        self,
        weights: list[Tensor],
        rows: NDArray[np.int64],
        report: Callable[[int], None] = lambda _: None,
    ) -> NDArray[np.float32]:
        """Return the logits of some rows, float32 [n, K], each by the weights of its fold."""
        logits = np.empty((len(self._folds_N), weights[0].shape[1]), np.float32)
        for fold, part, values in self._chunks(rows, report):
            logits[part] = (values @ weights[fold]).numpy() * _GAIN
        return logits[rows]

    def _chunks(
        self, rows: NDArray[np.int64], report: Callable[[int], None]
    ) -> Iterator[tuple[int, NDArray[np.int64], Tensor]]:
        """Yield (fold, rows, features) of some rows, fold by fold; report how many are done."""
        done = 0
        for fold in range(FOLDS):
            members = rows[self._folds_N[rows] == fold]
            for start in range(0, len(members), _ROWS):
                part = members[start : start + _ROWS]
                yield fold, part, self._compute(self._small_NSSC[part])
                done += len(part)
                report(done)

    def _compute(self, small_nSSC: NDArray[np.uint8]) -> Tensor:
        """Return standardized features and a constant, float32 [n, D]."""
        values = (self._features(small_nSSC) - self._mean) * self._scale
        return torch.cat([values, torch.ones(len(values), 1)], dim=1)


def assign_folds(
    targets_N: NDArray[np.int64], groups_N: NDArray[np.int64], seed: int
) -> NDArray[np.int64]:
    """Divide rows into folds, class by class; rows of one group stay together.

    Returns:
        int64 [N], 0 to ``FOLDS`` - 1.
    """
    _, first, group_N = np.unique(groups_N, return_index=True, return_inverse=True)
    order = np.random.default_rng(seed).permutation(len(first))
    order = order[np.argsort(targets_N[first][order], kind="stable")]
    folds = np.empty(len(first), np.int64)
    folds[order] = np.arange(len(first)) % FOLDS
    return folds[group_N]


def _loss(logits_NK: NDArray[np.float32], targets_N: NDArray[np.int64]) -> tuple[float, float]:
    """Return the negative log-likelihood at the best temperature, and that temperature."""
    temperature = fit_temperature(logits_NK, targets_N)
    own_N = softmax(logits_NK / temperature)[np.arange(len(targets_N)), targets_N]
    return float(-np.log(np.maximum(own_N, 1e-12)).mean()), temperature
