"""Compare a candidate version with the version that serves, on a share of its rows.

Rows are taken from batches that have run; the candidate runs them on a thread of its own, one batch
at a time. Rows that arrive while it is busy are dropped, not queued: no client waits for a shadow,
and none sees its outputs.
"""

import logging
import random
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby
from operator import itemgetter

import numpy as np
from numpy.typing import NDArray
from prometheus_client import Counter, Histogram

from models.artifact import ModelArtifact
from models.labels import are_given
from service.metrics.families import MODEL, SECONDS
from service.pipeline.alarm import Loop
from service.pipeline.classifier import Classifier
from service.pipeline.job import Batch, Job
from service.pipeline.postprocess import not_finite
from service.rollout.catalog import Candidate, Catalog

logger = logging.getLogger("foveal.shadow")

SHADOW_ROWS = Counter(
    "foveal_shadow_rows",
    "Rows of a shadow by outcome: agreed or differed in their label or labels, dropped, failed",
    (*MODEL, "outcome"),
)
SHADOW_SECONDS = Histogram(
    "foveal_shadow_seconds", "One onnxruntime call of a shadow", MODEL, buckets=SECONDS
)
SHADOW_DIFFERENCE = Histogram(
    "foveal_shadow_difference",
    "Largest difference of a row's probabilities from those served",
    MODEL,
    buckets=(0.0001, 0.001, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1),
)


Owners = list[tuple[Job, int]]
Keep = Callable[[ModelArtifact, Owners, NDArray[np.float32]], None]


class Shadows:
    """Runs the candidates of all models.

    Args:
        catalog: Returns the catalog that is served now.
        loop: Event loop that batches are observed on.
        on_differ: Called on the loop with a job, the shadow's version, and the job's rows that it
            answers differently.

    Attributes:
        keep: Called on the loop with a candidate, job and row in it of each row that it ran, and
            its probabilities; None: nobody asks for them.
    """

    def __init__(
        self,
        catalog: Callable[[], Catalog],
        loop: Loop,
        on_differ: Callable[[Job, int, frozenset[int]], None] | None = None,
    ) -> None:
        self._catalog = catalog
        self._on_differ = on_differ
        self._loop = loop
        self._thread = ThreadPoolExecutor(1, "shadow")
        self._is_busy = False
        self.keep: Keep | None = None

    def observe_batch(self, classifier: Classifier, batch: Batch) -> None:
        """Take a share of the requests of a batch, after they are answered.

        None in a brownout: the cores are busy, and the answers are not those to compare with.
        """
        if batch.precision:
            return
        shadow = self._catalog().shadows.get(classifier)
        if shadow is not None:
            self._loop.call_soon(self._take, classifier.artifact, shadow, batch, batch.jobs)

    def close(self) -> None:
        """Stop taking rows."""
        self._is_busy = True
        self._thread.shutdown(wait=False)

    def _take(
        self,
        served: ModelArtifact,
        shadow: Candidate,
        batch: Batch,
        jobs: list[tuple[Job, int, int]],
    ) -> None:
        rows: list[NDArray[np.uint8]] = []
        positions: list[int] = []
        owners: Owners = []
        position = 0
        for job, first, count in jobs:
            if random.random() < shadow.fraction:
                good = [i for i in range(count) if position + i not in batch.not_finite]
                rows.extend(job.rows[first + i] for i in good)
                positions.extend(position + i for i in good)
                owners.extend((job, first + i) for i in good)
            position += count
        if not rows:
            return
        if self._is_busy:
            _count(shadow.classifier, "dropped", len(rows))
            return
        assert batch.outputs is not None, "only finished batches are observed; this is a bug"
        self._is_busy = True
        served_NK = batch.outputs.probabilities[positions]
        self._thread.submit(self._run, shadow.classifier, rows, owners, served, served_NK)

    def _run(
        self,
        candidate: Classifier,
        rows: list[NDArray[np.uint8]],
        owners: Owners,
        served: ModelArtifact,
        served_NK: NDArray[np.float32],
    ) -> None:
        """Run the candidate and compare; on the thread."""
        try:
            started = time.monotonic()
            candidate_NK = candidate.session.run(np.stack(rows)).probabilities
            seconds = time.monotonic() - started
            # The difference of what is no number is none, and would make the metric's sum NaN.
            without = not_finite(candidate_NK)
            _count(candidate, "failed", len(without))
            compared = [row for row in range(len(rows)) if row not in without]
            candidate_NK, served_NK = candidate_NK[compared], served_NK[compared]
            if self.keep is not None and owners:
                kept = [owners[row] for row in compared]
                self._loop.call_soon_threadsafe(
                    self.keep, candidate.artifact, kept, candidate_NK.copy()
                )
            is_same_NK = _chosen(candidate.artifact, candidate_NK) == _chosen(served, served_NK)
            is_same_N = is_same_NK.all(axis=1)
            self._tell(candidate, [owners[compared[i]] for i in np.flatnonzero(~is_same_N)])
            agreed = int(is_same_N.sum())
            _count(candidate, "agreed", agreed)
            _count(candidate, "differed", len(compared) - agreed)
            labels = _labels(candidate)
            SHADOW_SECONDS.labels(*labels).observe(seconds)
            difference = SHADOW_DIFFERENCE.labels(*labels)
            for value in np.abs(candidate_NK - served_NK).max(axis=1).tolist():
                difference.observe(value)
        except Exception:
            logger.exception("%s: a shadow's run failed", candidate.artifact.reference)
            _count(candidate, "failed", len(rows))
        finally:
            self._loop.call_soon_threadsafe(self._done)

    def _tell(self, candidate: Classifier, differing: list[tuple[Job, int]]) -> None:
        """Tell on the loop which rows the candidate answers differently, job by job."""
        on_differ = self._on_differ
        if on_differ is None:
            return
        for job, rows in groupby(differing, key=itemgetter(0)):
            of_job = frozenset(row for _, row in rows)
            self._loop.call_soon_threadsafe(on_differ, job, candidate.artifact.version, of_job)

    def _done(self) -> None:
        self._is_busy = False


def _chosen(artifact: ModelArtifact, probabilities_NK: NDArray[np.float32]) -> NDArray[np.int64]:
    """Return what is compared: a row's first label [N, 1], or which of several it gets [N, K]."""
    if artifact.thresholds:
        return are_given(probabilities_NK, artifact.thresholds).astype(np.int64)
    first_N1: NDArray[np.int64] = probabilities_NK.argmax(axis=1, keepdims=True)
    return first_N1


def _labels(candidate: Classifier) -> tuple[str, str]:
    return candidate.artifact.name, str(candidate.artifact.version)


def _count(candidate: Classifier, outcome: str, rows: int) -> None:
    if rows:
        SHADOW_ROWS.labels(*_labels(candidate), outcome).inc(rows)
