import math
import os
import subprocess
import sys
from pathlib import Path

import prometheus_client
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Histogram

from service.metrics import families
from service.metrics.meters import Tally
from service.rollout import shadow
from service.workers.metric_files import adopt_files
from tests.places import ROOT

VALUES = st.lists(
    st.one_of(st.sampled_from([0.0, 1.0, 2.0, 4.0, 4.000001]), st.floats(0, 10)), max_size=50
)


@given(st.lists(VALUES, max_size=4))
def test_tally_counts_as_observe_does(flushes: list[list[float]]) -> None:
    registry = CollectorRegistry()
    tallied, observed = (
        Histogram(name, "h", ["l"], buckets=(1, 2, 4), registry=registry).labels("a")
        for name in ("tallied", "observed")
    )
    tally = Tally(tallied)
    for values in flushes:
        for value in values:
            tally.observe(value)
            observed.observe(value)
        tally.flush()
        tally.flush()  # nothing is counted twice
        for sample in ("bucket", "count", "sum"):
            for bound in ("1.0", "2.0", "4.0", "+Inf") if sample == "bucket" else ("",):
                labels = {"l": "a"} | ({"le": bound} if bound else {})
                assert registry.get_sample_value(f"tallied_{sample}", labels) == pytest.approx(
                    registry.get_sample_value(f"observed_{sample}", labels)
                )


def test_every_metric_is_in_base_units_and_of_this_service() -> None:
    collectors = [
        value
        for value in (*vars(families).values(), *vars(shadow).values())
        if isinstance(value, prometheus_client.metrics.MetricWrapperBase)
    ]
    names = sorted(collector._name for collector in collectors)
    assert names == [
        "foveal_batch_rows",
        "foveal_brownout",
        "foveal_brownout_rows",
        "foveal_card_info",
        "foveal_cpu_nodes",
        "foveal_decode_seconds",
        "foveal_decoded_images",
        "foveal_device_fallback",
        "foveal_device_memory_bytes",
        "foveal_drift_class_rows",
        "foveal_drift_rows",
        "foveal_drift_sums",
        "foveal_dropped_rows",
        "foveal_feedback_bin_confidence",
        "foveal_feedback_bin_rows",
        "foveal_feedback_class_rows",
        "foveal_feedback_pairs",
        "foveal_feedback_refused",
        "foveal_feedback_rows",
        "foveal_key_requests",
        "foveal_model_info",
        "foveal_model_refused",
        "foveal_not_finite_rows",
        "foveal_padded_rows",
        "foveal_plan_info",
        "foveal_promotion_evidence",
        "foveal_promotion_share",
        "foveal_promotion_steps",
        "foveal_queue_rows",
        "foveal_queue_seconds",
        "foveal_record_bytes",
        "foveal_record_rows",
        "foveal_record_stopped",
        "foveal_refusals",
        "foveal_request_seconds",
        "foveal_requests",
        "foveal_run_seconds",
        "foveal_shadow_difference",
        "foveal_shadow_rows",
        "foveal_shadow_seconds",
        "foveal_training",
        "foveal_training_accuracy",
        "foveal_training_class_share",
    ]


def test_a_value_that_is_no_number_stays_in_no_sum() -> None:
    histogram = Histogram("finite", "Values", registry=CollectorRegistry())
    tally = Tally(histogram)
    for value in (0.5, math.nan, 1.5, math.inf):
        tally.observe(value)
    tally.flush()
    [family] = histogram.collect()
    values = {sample.name: sample.value for sample in family.samples}
    assert (values["finite_count"], values["finite_sum"]) == (2, 2.0)


# What a worker does: takes over, counts, and ends without tidying up. Prints what all counted.
WORKER = """
import os, sys
from pathlib import Path
from prometheus_client import CollectorRegistry, generate_latest, multiprocess
from service.metrics.families import QUEUE_ROWS, REQUEST_SECONDS, REQUESTS
from service.workers.metric_files import adopt_files
adopt_files(Path(os.environ["PROMETHEUS_MULTIPROC_DIR"]))
REQUESTS.labels("m", "1", "predict", "200").inc(2)
REQUEST_SECONDS.labels("m", "1").observe(1)
QUEUE_ROWS.labels("m", "1").set(3)
registry = CollectorRegistry()
multiprocess.MultiProcessCollector(registry)
sys.stdout.buffer.write(generate_latest(registry))
sys.stdout.flush()
os._exit(1)
"""


def run_worker(folder: Path) -> str:
    environment = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(folder)}
    words = [sys.executable, "-c", WORKER]
    done = subprocess.run(
        words, cwd=ROOT, env=environment, check=False, capture_output=True, text=True
    )
    assert done.returncode == 1 and not done.stderr, done.stderr
    return done.stdout


def test_files_of_workers_that_ended_are_taken_over(tmp_path: Path) -> None:
    for count in (1, 2, 3):
        text = run_worker(tmp_path)
        label = 'model="m",protocol="predict",status="200",version="1"'
        assert f"foveal_requests_total{{{label}}} {2.0 * count}" in text
        assert f'foveal_request_seconds_count{{model="m",version="1"}} {float(count)}' in text
        assert 'foveal_queue_rows{model="m",version="1"} 3.0' in text  # of no dead one
        assert len(list(tmp_path.iterdir())) == 3


def test_a_cut_file_is_dropped_and_that_of_the_living_stays(tmp_path: Path) -> None:
    run_worker(tmp_path)
    (dead,) = tmp_path.glob("counter_*.db")
    dead.write_bytes(b"\xff" * 100)
    ours = tmp_path / f"counter_{os.getppid()}.db"
    ours.write_bytes(b"ours")
    other = tmp_path / "other.db"
    other.write_bytes(b"other")
    adopt_files(tmp_path)
    assert not dead.exists()
    assert (ours.read_bytes(), other.read_bytes()) == (b"ours", b"other")
    assert {path.name.rpartition("_")[0] for path in tmp_path.iterdir()} == {
        "counter",
        "histogram",
        "",
    }
