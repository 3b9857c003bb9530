"""Cheap observation of the metrics, the hot ones above all.

The lane answers tens of thousands of requests a second, and one observation in prometheus-client's
multi-process mode costs a lock and a write to a mapped file. Observations are therefore kept as
plain numbers and flushed a few times a second, and before this process answers ``/metrics``. The
numbers of other workers are then at most ``FLUSH_S`` old.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from service.metrics.families import (
    BATCH_ROWS,
    BROWNOUT,
    BROWNOUT_ROWS,
    CARD_INFO,
    CPU_NODES,
    DECODE_SECONDS,
    DECODED_IMAGES,
    DEVICE_FALLBACK,
    DEVICE_MEMORY_BYTES,
    DRIFT,
    DRIFT_CLASS_ROWS,
    DRIFT_ROWS,
    DRIFT_SUMS,
    DROPPED_ROWS,
    KEY_REQUESTS,
    MODEL_INFO,
    NOT_FINITE_ROWS,
    PADDED_ROWS,
    PLAN_INFO,
    QUEUE_ROWS,
    QUEUE_SECONDS,
    REFUSALS,
    REQUEST_SECONDS,
    REQUESTS,
    RUN_SECONDS,
    TRAINING,
    TRAINING_ACCURACY,
    TRAINING_CLASS_SHARE,
)
from service.pipeline.admission import REASONS
from service.pipeline.alarm import Loop
from service.pipeline.batcher import Batcher
from service.pipeline.classifier import Classifier
from service.pipeline.histograms import Histograms
from service.pipeline.job import Batch

FLUSH_S = 0.2


class Tally:
    """Observations of one child of a histogram, kept until ``flush``.

    Leans on ``_upper_bounds``, ``_buckets`` and ``_sum`` of prometheus-client's Histogram; a test
    names them.

    Attributes:
        observe: Keeps one value. A list's own ``append``, the cheapest call there is.
    """

    __slots__ = ("_bounds", "_child", "_values", "observe")

    def __init__(self, child: Any) -> None:
        self._child = child
        self._bounds = np.asarray(child._upper_bounds)
        self._values: list[float] = []
        self.observe = self._values.append

    def flush(self) -> None:
        """Pass everything to prometheus-client, in the buckets that ``Histogram.observe`` uses."""
        if not self._values:
            return
        values = np.asarray(self._values)
        self._values.clear()
        values = values[np.isfinite(values)]  # one NaN would stay in the sum for good
        counts = np.bincount(np.searchsorted(self._bounds, values))  # upper bounds inclusive
        for i in np.flatnonzero(counts).tolist():
            self._child._buckets[i].inc(int(counts[i]))
        self._child._sum.inc(float(values.sum()))


class QueueMetrics:
    """The metrics of the queue of one classifier; read at each flush, a request costs nothing.

    Args:
        labels: Model and version.
        has_brownout: Whether rows may run at a lower precision.
    """

    def __init__(self, labels: tuple[str, str], *, has_brownout: bool) -> None:
        self._labels = labels
        self._has_brownout = has_brownout
        self._dropped = 0
        self._dimmed = 0
        self._refused = dict.fromkeys(REASONS, 0)
        # Series from the start: a rate needs the zero before the first count.
        for reason in REASONS:
            REFUSALS.labels(*labels, reason)
        if has_brownout:
            BROWNOUT_ROWS.labels(*labels)

    def flush(self, batcher: Batcher) -> None:
        """Pass on what was counted since the last flush."""
        labels = self._labels
        QUEUE_ROWS.labels(*labels).set(batcher.queued_rows + batcher.reserved_rows)
        DROPPED_ROWS.labels(*labels).inc(batcher.dropped_rows - self._dropped)
        self._dropped = batcher.dropped_rows
        for reason, count in batcher.admission.refused.items():
            REFUSALS.labels(*labels, reason).inc(count - self._refused[reason])
            self._refused[reason] = count
        if self._has_brownout:
            BROWNOUT.labels(*labels).set(batcher.is_brownout)
            BROWNOUT_ROWS.labels(*labels).inc(batcher.brownout_rows - self._dimmed)
            self._dimmed = batcher.brownout_rows


class ModelMetrics:
    """All metrics of one classifier."""

    __slots__ = (
        "_decoded",
        "_drift",
        "_gauges",
        "_info",
        "_labels",
        "_names",
        "_not_finite",
        "_padded",
        "_queue_state",
        "_statuses",
        "batch_rows",
        "classifier",
        "decode",
        "queue",
        "request",
        "run",
    )

    def __init__(self, classifier: Classifier) -> None:
        self.classifier = classifier
        self._labels = (classifier.artifact.name, str(classifier.artifact.version))
        self.decode = Tally(DECODE_SECONDS.labels(*self._labels))
        self.queue = Tally(QUEUE_SECONDS.labels(*self._labels))
        self.run = Tally(RUN_SECONDS.labels(*self._labels))
        self.batch_rows = Tally(BATCH_ROWS.labels(*self._labels))
        self.request = Tally(REQUEST_SECONDS.labels(*self._labels))
        self._statuses: dict[tuple[str, int], int] = {}
        self._decoded: dict[str, int] = {}
        self._queue_state = QueueMetrics(self._labels, has_brownout=classifier.brownout is not None)
        self._not_finite = NOT_FINITE_ROWS.labels(*self._labels)
        abstain = classifier.artifact.abstain
        self._drift = Histograms(
            abstain.threshold if abstain else None, classifier.artifact.thresholds
        )
        self._names = classifier.names
        self._expose_training()
        plan = classifier.session.plan
        where = "loop" if classifier.is_inline else "thread"
        self._info = MODEL_INFO.labels(
            *self._labels, plan.device, plan.precision, str(plan.threads), where
        )
        self._padded = 0
        asked = classifier.session.asked
        buckets = ",".join(map(str, plan.buckets))
        self._gauges = {
            self._info: 1,
            PLAN_INFO.labels(
                *self._labels,
                asked,
                plan.device,
                str(plan.index),
                plan.format,
                plan.layout,
                plan.binding,
                buckets,
                classifier.resampler,
            ): 1,
            CPU_NODES.labels(*self._labels): len(classifier.session.cpu_nodes),
            DEVICE_MEMORY_BYTES.labels(*self._labels): classifier.session.memory_bytes,
            DEVICE_FALLBACK.labels(*self._labels): bool(classifier.fallback),
        }
        if classifier.card is not None:
            kinds = ", ".join(sorted(classifier.card.kinds))
            self._gauges[CARD_INFO.labels(*self._labels, kinds)] = 1
            DECODED_IMAGES.labels(*self._labels, "card", "")  # a rate needs the zero
        self.reopen()

    def observe_batch(self, batch: Batch) -> None:
        """Count one finished run."""
        self.run.observe(batch.run_s)
        self.batch_rows.observe(batch.rows)
        self._drift.observe(batch)
        if batch.not_finite:
            self._not_finite.inc(len(batch.not_finite))
        started_at = batch.started_at
        observe = self.queue.observe
        for job, _, _ in batch.jobs:
            observe(started_at - job.accepted_at)

    def count_request(self, protocol: str, status: int, seconds: float) -> None:
        """Count one answered request."""
        key = protocol, status
        self._statuses[key] = self._statuses.get(key, 0) + 1
        self.request.observe(seconds)

    def count_decoded(self, reason: str) -> None:
        """Count an image that was decoded where a card is: by it, or by the CPU for a reason."""
        self._decoded[reason] = self._decoded.get(reason, 0) + 1

    def close(self) -> None:
        """Flush what is left and report this version as not served."""
        self.flush()
        for gauge in self._gauges:
            gauge.set(0)

    def reopen(self) -> None:
        """Report this version as served."""
        for gauge, value in self._gauges.items():
            gauge.set(value)

    def flush(self) -> None:
        """Pass everything to prometheus-client."""
        for tally in (self.decode, self.queue, self.run, self.batch_rows, self.request):
            tally.flush()
        for (protocol, status), count in self._statuses.items():
            REQUESTS.labels(*self._labels, protocol, str(status)).inc(count)
        self._statuses.clear()
        for reason, count in self._decoded.items():
            by = "cpu" if reason else "card"
            DECODED_IMAGES.labels(*self._labels, by, reason).inc(count)
        self._decoded.clear()
        self._queue_state.flush(self.classifier.batcher)
        padded = self.classifier.session.padded_rows
        PADDED_ROWS.labels(*self._labels).inc(padded - self._padded)
        self._padded = padded
        self._flush_drift()

    def _expose_training(self) -> None:
        artifact = self.classifier.artifact
        if artifact.metrics is not None:
            TRAINING_ACCURACY.labels(*self._labels).set(artifact.metrics.accuracy)
        if artifact.statistics is None:
            return
        for quantity in DRIFT:
            value = getattr(artifact.statistics, quantity)
            TRAINING.labels(*self._labels, quantity).set(value)
        for name, share in zip(self._names, artifact.statistics.class_shares, strict=True):
            TRAINING_CLASS_SHARE.labels(*self._labels, name).set(share)

    def _flush_drift(self) -> None:
        drift = self._drift
        if not drift.rows:
            return
        DRIFT_ROWS.labels(*self._labels).inc(drift.rows)
        for quantity in (*DRIFT, "abstained"):
            total = getattr(drift, quantity)
            if math.isfinite(total):
                DRIFT_SUMS.labels(*self._labels, quantity).inc(total)
        for index, rows in drift.classes.items():
            DRIFT_CLASS_ROWS.labels(*self._labels, self._names[index]).inc(rows)
        drift.clear()


class Meters:
    """The metrics of all classifiers of this process, flushed by one timer while requests arrive.

    Args:
        loop: Scheduler.

    Attributes:
        on_flush: Called at each flush, for what else is kept beside the metrics.
    """

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self.on_flush: Callable[[], None] = lambda: None
        self._by_classifier: dict[Classifier, ModelMetrics] = {}
        self._is_armed = False
        self._refused: dict[tuple[str, int], int] = {}

    def of(self, classifier: Classifier) -> ModelMetrics:
        """Return the metrics of one classifier, created on first use."""
        metrics = self._by_classifier.get(classifier)
        if metrics is None:
            metrics = self._by_classifier[classifier] = ModelMetrics(classifier)
        return metrics

    def forget(self, classifier: Classifier) -> None:
        """Stop counting a classifier that is unloaded and idle."""
        metrics = self._by_classifier.pop(classifier, None)
        if metrics is not None:
            metrics.close()
        for other in self._by_classifier.values():  # a reloaded version has the same labels
            other.reopen()

    def observe_batch(self, classifier: Classifier, batch: Batch) -> None:
        """Count one finished run, and start the timer of the flush."""
        self.of(classifier).observe_batch(batch)
        self.touch()

    def count_refusal(self, protocol: str, status: int) -> None:
        """Count a request whose model was not found."""
        key = protocol, status
        self._refused[key] = self._refused.get(key, 0) + 1
        self.touch()

    def touch(self) -> None:
        """Start the timer of the flush unless it runs."""
        if not self._is_armed:
            self._is_armed = True
            self._loop.call_later(FLUSH_S, self._flush_later)

    def _flush_later(self) -> None:
        self._is_armed = False
        self.flush()

    def flush(self) -> None:
        """Pass everything to prometheus-client now."""
        for metrics in self._by_classifier.values():
            metrics.flush()
        for (protocol, status), count in self._refused.items():
            REQUESTS.labels("", "", protocol, str(status)).inc(count)
        self._refused.clear()
        self.on_flush()


def count_key(name: str, outcome: str, requests: int) -> None:
    """Count requests of an API key."""
    KEY_REQUESTS.labels(name, outcome).inc(requests)
