import prometheus_client
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Histogram

from service import metrics
from service.metrics import Tally

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
        for value in vars(metrics).values()
        if isinstance(value, prometheus_client.metrics.MetricWrapperBase)
    ]
    names = sorted(collector._name for collector in collectors)
    assert names == [
        "foveal_batch_rows",
        "foveal_cpu_nodes",
        "foveal_decode_seconds",
        "foveal_device_fallback",
        "foveal_device_memory_bytes",
        "foveal_drift_class_rows",
        "foveal_drift_rows",
        "foveal_drift_sums",
        "foveal_dropped_rows",
        "foveal_key_requests",
        "foveal_model_info",
        "foveal_model_refused",
        "foveal_padded_rows",
        "foveal_plan_info",
        "foveal_queue_rows",
        "foveal_queue_seconds",
        "foveal_request_seconds",
        "foveal_requests",
        "foveal_run_seconds",
        "foveal_shadow_difference",
        "foveal_shadow_rows",
        "foveal_shadow_seconds",
        "foveal_training",
        "foveal_training_class_share",
    ]
