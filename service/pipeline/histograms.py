"""Watch what comes in and goes out, to be compared with what a model was trained on.

A few rows of a few batches a second are looked at, so that the cost has a bound whatever the load.
Plain sums; ``metrics`` hands them to Prometheus. Knows no HTTP.
"""

from collections import Counter

import numpy as np
from numpy.typing import NDArray

from models.histograms import entropy, pixel_statistics
from service.pipeline.job import Batch

# Seconds between two batches that are looked at, and rows of each: at most 160 rows/s.
INTERVAL_S = 0.1
MAX_ROWS = 16


class Drift:
    """Sums over the rows that were looked at since the last ``clear``.

    Attributes:
        rows: How many.
        pixel_mean: Sum of the rows' mean pixels, 0-255 each.
        pixel_spread: Sum of the rows' standard deviations.
        entropy: Sum of the rows' entropies, nats.
        abstained: How many rows the model had rather say nothing to.
        classes: Index to how many rows it came first in.

    Args:
        threshold: Below this probability of the first label it abstains.
    """

    __slots__ = (
        "_next_at",
        "_threshold",
        "abstained",
        "classes",
        "entropy",
        "pixel_mean",
        "pixel_spread",
        "rows",
    )

    def __init__(self, threshold: float = 0.0) -> None:
        self._threshold = np.float32(threshold)
        self._next_at = -float("inf")
        self.clear()

    def clear(self) -> None:
        """Begin anew."""
        self.rows = self.abstained = 0
        self.pixel_mean = self.pixel_spread = self.entropy = 0.0
        self.classes: Counter[int] = Counter()

    def observe(self, batch: Batch) -> None:
        """Look at a finished run, unless one was looked at a moment ago."""
        if batch.started_at < self._next_at or batch.outputs is None:
            return
        self._next_at = batch.started_at + INTERVAL_S
        images = first_rows(batch, MAX_ROWS)
        probabilities_NK = batch.outputs.probabilities[: len(images)]
        for image_HWC in images:
            mean, spread = pixel_statistics(image_HWC)
            self.pixel_mean += mean
            self.pixel_spread += spread
        self.entropy += float(entropy(probabilities_NK).sum())
        self.classes.update(probabilities_NK.argmax(axis=1).tolist())
        self.abstained += int((probabilities_NK.max(axis=1) < self._threshold).sum())
        self.rows += len(images)


def first_rows(batch: Batch, count: int) -> list[NDArray[np.uint8]]:
    """Return the first rows of a batch, at most so many, each uint8 [H, W, C]."""
    images: list[NDArray[np.uint8]] = []
    for job, first, rows in batch.jobs:
        images.extend(job.rows[first : first + min(rows, count - len(images))])
        if len(images) == count:
            break
    return images
