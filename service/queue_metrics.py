"""The metrics of a queue: what waits, what it drops and refuses, and brownout."""

from prometheus_client import Counter, Gauge

from service.pipeline.admission import REASONS
from service.pipeline.batcher import Batcher

_MODEL = ("model", "version")

QUEUE_ROWS = Gauge("foveal_queue_rows", "Rows waiting now", _MODEL, multiprocess_mode="livesum")
DROPPED_ROWS = Counter(
    "foveal_dropped_rows", "Rows not run: their client left or their deadline passed", _MODEL
)
REFUSALS = Counter(
    "foveal_refusals",
    "Requests refused by a queue: their wait or deadline would be missed, or memory is used up",
    (*_MODEL, "reason"),
)
BROWNOUT = Gauge(
    "foveal_brownout",
    "1 while rows run at the precision of FOVEAL_BROWNOUT; only of versions that have one",
    _MODEL,
    multiprocess_mode="livemax",
)
BROWNOUT_ROWS = Counter(
    "foveal_brownout_rows", "Rows run at the precision of FOVEAL_BROWNOUT", _MODEL
)


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

    def close(self) -> None:
        """Report that nothing runs at a lower precision."""
        if self._has_brownout:
            BROWNOUT.labels(*self._labels).set(0)
