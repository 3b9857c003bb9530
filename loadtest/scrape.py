"""The service's own metrics of a load: the difference of /metrics before and after it."""

import math
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field

from prometheus_client.parser import text_string_to_metric_families

from loadtest.calls import authorization

STAGES = ("decode", "queue", "run", "request")
# Longer than the 0.2 s for which a worker keeps its counts to itself.
_SETTLE_S = 0.4
_TIMEOUT_S = 5.0

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


@dataclass(frozen=True, slots=True)
class Stage:
    """Times of one stage.

    Attributes:
        count: How often.
        mean_ms: Mean.
        p99_below_ms: Upper bound of the bucket that holds the 99th percentile.
    """

    count: int
    mean_ms: float
    p99_below_ms: float


@dataclass(frozen=True, slots=True)
class ServerFigures:
    """What the service counted between two reads, all models and versions together.

    Attributes:
        statuses: Answers by status.
        rows: Rows run.
        batches: Runs.
        mean_batch_rows: Rows a run; NaN without one.
        batch_rows: (largest rows of the bucket, runs in it); the last bound may be infinite.
        stages: By name: decode, queue, run, request.
        dropped_rows: Not run: the client had left, or the deadline had passed.
        padded_rows: Run for nothing, to fill a batch up to its bucket; None where none are counted.
        brownout_rows: Run at the lower precision of a brownout.
    """

    statuses: Mapping[str, int]
    rows: int
    batches: int
    mean_batch_rows: float
    batch_rows: tuple[tuple[float, int], ...]
    stages: Mapping[str, Stage] = field(default_factory=dict)
    dropped_rows: int = 0
    padded_rows: int | None = None
    brownout_rows: int = 0


def look(url: str) -> Samples | None:
    """Return all samples of a service's ``/metrics``; None if it has none."""
    time.sleep(_SETTLE_S)
    try:
        request = urllib.request.Request(
            f"{url.rstrip('/')}/metrics", headers=dict(authorization())
        )
        with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as answer:
            return read(answer.read().decode())
    except (urllib.error.URLError, OSError, ValueError):
        return None


def read(text: str) -> Samples:
    """Return the samples of Prometheus' text by name and labels.

    Raises:
        ValueError: It is no such text.
    """
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def difference(before: Samples | None, after: Samples | None) -> ServerFigures | None:
    """Return what the service counted between two reads; None if it is not Foveal."""
    if before is None or after is None or not any(n.startswith("foveal_") for n, _ in after):
        return None
    grown = {key: value - before.get(key, 0.0) for key, value in after.items()}
    statuses: dict[str, int] = {}
    for (name, labels), value in grown.items():
        if name == "foveal_requests_total" and value:
            status = dict(labels)["status"]
            statuses[status] = statuses.get(status, 0) + round(value)
    rows, batches = (_sum(grown, f"foveal_batch_rows_{part}") for part in ("sum", "count"))
    has_padding = any(name == "foveal_padded_rows_total" for name, _ in after)
    return ServerFigures(
        statuses=dict(sorted(statuses.items())),
        rows=round(rows),
        batches=round(batches),
        mean_batch_rows=rows / batches if batches else math.nan,
        batch_rows=tuple(_buckets(grown, "foveal_batch_rows")),
        stages={stage: _stage(grown, f"foveal_{stage}_seconds") for stage in STAGES},
        dropped_rows=round(_sum(grown, "foveal_dropped_rows_total")),
        padded_rows=round(_sum(grown, "foveal_padded_rows_total")) if has_padding else None,
        brownout_rows=round(_sum(grown, "foveal_brownout_rows_total")),
    )


def _sum(samples: Samples, name: str) -> float:
    return sum(value for (found, _), value in samples.items() if found == name)


def _buckets(samples: Samples, name: str) -> list[tuple[float, int]]:
    """Return (upper bound, count in the bucket alone); Prometheus' own counts are cumulative."""
    totals: dict[float, float] = {}
    for (found, labels), value in samples.items():
        if found == f"{name}_bucket":
            bound = float(dict(labels)["le"])
            totals[bound] = totals.get(bound, 0.0) + value
    bounds = sorted(totals)
    below = [0.0, *(totals[bound] for bound in bounds)]
    return [
        (bound, round(count - less))
        for bound, count, less in zip(bounds, below[1:], below, strict=False)
    ]


def _stage(samples: Samples, name: str) -> Stage:
    total_s, count = _sum(samples, f"{name}_sum"), _sum(samples, f"{name}_count")
    if not count:
        return Stage(0, math.nan, math.nan)
    seen, bound_s = 0, math.inf
    for bound_s, number in _buckets(samples, name):  # noqa: B007 - the last one is the answer
        seen += number
        if seen >= 0.99 * count:
            break
    return Stage(round(count), 1e3 * total_s / count, 1e3 * bound_s)
