"""What is read from the files in which prometheus-client keeps the metrics of all workers."""

from pathlib import Path

import pytest
from prometheus_client.metrics import MetricWrapperBase
from prometheus_client.mmap_dict import MmapedDict, mmap_key

from models.promotion import Limits, Promotion, new_promotion
from service.metrics.families import REQUEST_SECONDS, REQUESTS
from service.rollout import evidence
from service.rollout.evidence import read_counts, slower_than
from service.rollout.shadow import SHADOW_ROWS

Sample = tuple[str, dict[str, str], float]


def promotion_of(limits: Limits) -> Promotion:
    return new_promotion(2, 1, limits, first_share=0.1, shadow=1, within_s=60, step_s=1, now_s=0)


def write(folder: Path, kind: str, pid: int, samples: list[Sample]) -> None:
    """Write a worker's file as prometheus-client does."""
    file = MmapedDict(str(folder / f"{kind}_{pid}.db"))  # type: ignore[no-untyped-call]
    for name, labels, value in samples:
        metric = name.removesuffix("_total").removesuffix("_bucket")
        key = mmap_key(metric, name, [*labels], [*labels.values()], "help")  # type: ignore[no-untyped-call]
        file.write_value(key, value, 0.0)  # type: ignore[no-untyped-call]
    file.close()  # type: ignore[no-untyped-call]


def rows(name: str, outcome: str, value: float, version: str = "2", model: str = "tiny") -> Sample:
    labels = {"model": model, "version": version, "outcome": outcome}
    return f"foveal_{name}_total", labels, value


def test_all_workers_count_and_only_for_the_candidate(tmp_path: Path) -> None:
    first = [
        *(rows("shadow_rows", o, n) for o, n in (("agreed", 10), ("differed", 2), ("dropped", 99))),
        rows("shadow_rows", "failed", 1),
        rows("feedback_rows", "right", 5),
        rows("feedback_rows", "wrong", 4),
        rows("feedback_rows", "right", 50, version="1"),
        rows("feedback_pairs", "better", 3),
        rows("feedback_pairs", "worse", 2),
        rows("feedback_pairs", "same", 1),
        rows("shadow_rows", "agreed", 1000, model="other"),
    ]
    write(tmp_path, "counter", 1, first)
    second = [rows("shadow_rows", "agreed", 7)]
    for status, count in (("200", 20.0), ("500", 3.0), ("503", 1.0)):
        labels = {"model": "tiny", "version": "2", "protocol": "predict", "status": status}
        second.append(("foveal_requests_total", labels, count))
    write(tmp_path, "counter", 2, second)
    (tmp_path / "counter_3.db").write_bytes(b"cut")
    found = read_counts(tmp_path, {"tiny": promotion_of(Limits(max_flips=0.01))})
    assert found == {
        "tiny": {
            "agreed": 17,
            "differed": 3,
            "right": 5,
            "wrong": 4,
            "better": 3,
            "worse": 2,
            "same": 1,
            "answers": 24,
            "errors": 3,
        }
    }


def test_answers_slower_than_the_limit_are_counted(tmp_path: Path) -> None:
    """Of four answers between 20 and 50 ms one is above 42.5 ms, if they are spread evenly."""
    bounds = {"0.02": 10.0, "0.05": 4.0, "0.1": 2.0, "+Inf": 1.0}
    labels = {"model": "tiny", "version": "2"}
    name = "foveal_request_seconds_bucket"
    write(tmp_path, "histogram", 1, [(name, labels | {"le": le}, n) for le, n in bounds.items()])
    found = read_counts(tmp_path, {"tiny": promotion_of(Limits(p99_ms=42.5))})
    assert found == {"tiny": {"timed": 17, "slow": pytest.approx(4)}}


@pytest.mark.parametrize(
    ("limit_s", "slower"), [(0.02, 7), (0.05, 3), (0.035, 5), (0.01, 12), (0.1, 1), (0.2, 0)]
)
def test_within_a_bucket_observations_are_spread_evenly(limit_s: float, slower: float) -> None:
    buckets = {0.02: 10.0, 0.05: 4.0, 0.1: 2.0, float("inf"): 1.0}
    assert slower_than(buckets, limit_s) == pytest.approx(slower)


def test_the_metrics_that_are_read_are_the_services_own() -> None:
    def names(metric: MetricWrapperBase) -> set[str]:
        [family] = metric.describe()
        return {f"{family.name}_total", f"{family.name}_bucket"}

    ours = names(REQUESTS) | names(REQUEST_SECONDS) | names(SHADOW_ROWS)
    assert {name for name in evidence._WANTED if "feedback" not in name} <= ours
