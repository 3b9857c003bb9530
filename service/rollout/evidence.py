"""What this service has counted about a candidate: read from the metrics of all its workers.

prometheus-client keeps the metrics of every worker in a file that all can read; those of a worker
that ended stay. Reading them costs a request nothing.
"""

import contextlib
import json
import struct
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path

from prometheus_client.mmap_dict import MmapedDict

from models.promotion import Promotion

_SECONDS = "foveal_request_seconds_bucket"
# By the name of a sample, and the value of a label where one is named: what it counts as.
_KEYS: dict[str, tuple[str, dict[str, str]]] = {
    # A row that the candidate cannot answer is not answered as the served version does.
    "foveal_shadow_rows_total": (
        "outcome",
        {"agreed": "agreed", "differed": "differed", "failed": "differed"},
    ),
    "foveal_feedback_rows_total": ("outcome", {"right": "right", "wrong": "wrong"}),
    "foveal_feedback_pairs_total": (
        "outcome",
        {"better": "better", "worse": "worse", "same": "same"},
    ),
}
_REQUESTS = "foveal_requests_total"
_FAILED = "500"  # other 5xx are those of the whole service: draining, overloaded
_WANTED = (*_KEYS, _REQUESTS, _SECONDS)


def read_counts(folder: Path, promotions: Mapping[str, Promotion]) -> dict[str, dict[str, float]]:
    """Return what all workers counted about the candidates since the service started.

    Args:
        folder: What PROMETHEUS_MULTIPROC_DIR names.
        promotions: The promotion of each model.

    Returns:
        By model, counts by the names of ``promotion.COUNTS``; those that are 0 are left out.
    """
    counts: dict[str, defaultdict[str, float]] = {name: defaultdict(float) for name in promotions}
    buckets: dict[str, defaultdict[float, float]] = {
        name: defaultdict(float) for name in promotions
    }
    for sample, labels, value in _samples(folder):
        promotion = promotions.get(labels.get("model", ""))
        if promotion is None or labels.get("version") != str(promotion.version):
            continue
        own = counts[labels["model"]]
        if sample == _SECONDS:
            buckets[labels["model"]][float(labels["le"])] += value
        elif sample == _REQUESTS:
            own["answers"] += value
            own["errors"] += value if labels.get("status") == _FAILED else 0.0
        else:
            label, keys = _KEYS[sample]
            if key := keys.get(labels.get(label, "")):
                own[key] += value
    for name, promotion in promotions.items():
        if promotion.limits.p99_ms is not None:
            counts[name]["timed"] = sum(buckets[name].values())
            counts[name]["slow"] = slower_than(buckets[name], promotion.limits.p99_ms / 1000)
    return {
        name: {key: value for key, value in own.items() if value} for name, own in counts.items()
    }


def slower_than(buckets: Mapping[float, float], limit_s: float) -> float:
    """Return how many observations of a histogram are above a limit.

    Within the bucket of the limit they are taken as spread evenly, as ``histogram_quantile`` does.

    Args:
        buckets: Observations of each bucket alone, by its upper bound in seconds; all bounds are
            there once anything was observed.
        limit_s: Limit, seconds; below the largest finite bound.
    """
    slower, lower = 0.0, 0.0
    for upper in sorted(buckets):
        if lower >= limit_s:
            slower += buckets[upper]
        elif upper > limit_s:
            slower += buckets[upper] * (upper - limit_s) / (upper - lower) if upper < 1e9 else 0.0
        lower = upper
    return slower


def _samples(folder: Path) -> Iterator[tuple[str, dict[str, str], float]]:
    for kind in ("counter", "histogram"):
        for path in folder.glob(f"{kind}_*.db"):
            # Of a file that a full disk has cut, those before the cut.
            with contextlib.suppress(OSError, RuntimeError, ValueError, struct.error):
                for text, value, _, _ in MmapedDict.read_all_values_from_file(str(path)):  # type: ignore[no-untyped-call]
                    if any(name in text for name in _WANTED):
                        _, sample, labels, _ = json.loads(text)
                        if sample in _WANTED:
                            yield sample, labels, value
