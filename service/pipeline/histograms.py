"""Sample images and answers, to be compared with the statistics of the training images.

A few rows of a few batches a second are sampled: the cost is bounded whatever the load. Plain sums;
``metrics`` exports them. Knows no HTTP.
"""

from collections import Counter

import numpy as np
from numpy.typing import NDArray

from models.abstain import is_answered
from models.histograms import entropy, entropy_of_labels, pixel_statistics
from models.labels import are_given
from service.pipeline.job import Batch

# Seconds between two sampled batches, and rows of each: at most 160 rows/s.
INTERVAL_S = 0.1
MAX_ROWS = 16


class Histograms:
    """Sums over the rows that were sampled since the last ``clear``.

    Args:
        threshold: Least probability of the first label that is answered; None: all are.
        thresholds: Of a multi-label model: least probability of each label that a row gets.

    Attributes:
        rows: Number of rows.
        pixel_mean: Sum of the rows' mean pixels, 0-255 each.
        pixel_spread: Sum of the rows' standard deviations.
        entropy: Sum of the rows' entropies, nats.
        abstained: Number of rows that the model abstains on.
        classes: Number of rows by the index of their first label; of a multi-label model, by each
            label that they get.
    """

    __slots__ = (
        "_next_at",
        "_threshold",
        "_thresholds",
        "abstained",
        "classes",
        "entropy",
        "pixel_mean",
        "pixel_spread",
        "rows",
    )

    def __init__(self, threshold: float | None = None, thresholds: tuple[float, ...] = ()) -> None:
        self._threshold = threshold
        self._thresholds = thresholds
        self._next_at = -float("inf")
        self.clear()

    def clear(self) -> None:
        """Reset all sums."""
        self.rows = self.abstained = 0
        self.pixel_mean = self.pixel_spread = self.entropy = 0.0
        self.classes: Counter[int] = Counter()

    def observe(self, batch: Batch) -> None:
        """Sample a finished run, unless one was sampled less than ``INTERVAL_S`` ago."""
        if batch.started_at < self._next_at or batch.outputs is None:
            return
        self._next_at = batch.started_at + INTERVAL_S
        images = first_rows(batch, MAX_ROWS)
        probabilities_NK = batch.outputs.probabilities[: len(images)]
        if batch.not_finite:  # one of them would make every later sum NaN
            finite = [row for row in range(len(images)) if row not in batch.not_finite]
            images, probabilities_NK = [images[row] for row in finite], probabilities_NK[finite]
        for image_HWC in images:
            mean, spread = pixel_statistics(image_HWC)
            self.pixel_mean += mean
            self.pixel_spread += spread
        if self._thresholds:
            self.entropy += float(entropy_of_labels(probabilities_NK).sum())
            given_NK = are_given(probabilities_NK, self._thresholds)
            self.classes.update(np.nonzero(given_NK)[1].tolist())
        else:
            self.entropy += float(entropy(probabilities_NK).sum())
            self.classes.update(probabilities_NK.argmax(axis=1).tolist())
        if self._threshold is not None:
            answered_N = is_answered(probabilities_NK.max(axis=1), self._threshold)
            self.abstained += len(images) - int(answered_N.sum())
        self.rows += len(images)


def first_rows(batch: Batch, count: int) -> list[NDArray[np.uint8]]:
    """Return at most ``count`` rows of a batch, its first, each uint8 [H, W, C]."""
    images: list[NDArray[np.uint8]] = []
    for job, first, rows in batch.jobs:
        images.extend(job.rows[first : first + min(rows, count - len(images))])
        if len(images) == count:
            break
    return images
