import math

import numpy as np
import pytest

from loadtest.samples import Samples
from loadtest.scrape import difference, look, read
from loadtest.windows import p99_growth, windows_of, windows_of_steps
from tests.server import RunningServer, free_port

BEFORE = """\
# TYPE foveal_requests counter
foveal_requests_total{model="a",version="1",protocol="predict",status="200"} 5
# TYPE foveal_batch_rows histogram
foveal_batch_rows_bucket{model="a",version="1",le="1.0"} 5
foveal_batch_rows_bucket{model="a",version="1",le="2.0"} 5
foveal_batch_rows_bucket{model="a",version="1",le="+Inf"} 5
foveal_batch_rows_count{model="a",version="1"} 5
foveal_batch_rows_sum{model="a",version="1"} 5
"""
AFTER = """\
# TYPE foveal_requests counter
foveal_requests_total{model="a",version="1",protocol="predict",status="200"} 11
foveal_requests_total{model="a",version="1",protocol="predict",status="429"} 2
foveal_requests_total{model="b",version="1",protocol="v2_http",status="200"} 4
# TYPE foveal_batch_rows histogram
foveal_batch_rows_bucket{model="a",version="1",le="1.0"} 6
foveal_batch_rows_bucket{model="a",version="1",le="2.0"} 8
foveal_batch_rows_bucket{model="a",version="1",le="+Inf"} 9
foveal_batch_rows_count{model="a",version="1"} 9
foveal_batch_rows_sum{model="a",version="1"} 15
# TYPE foveal_run_seconds histogram
foveal_run_seconds_bucket{model="a",version="1",le="0.001"} 1
foveal_run_seconds_bucket{model="a",version="1",le="0.002"} 4
foveal_run_seconds_bucket{model="a",version="1",le="+Inf"} 4
foveal_run_seconds_count{model="a",version="1"} 4
foveal_run_seconds_sum{model="a",version="1"} 0.006
# TYPE foveal_dropped_rows counter
foveal_dropped_rows_total{model="a",version="1"} 3
"""
PADDED = AFTER + '# TYPE foveal_padded_rows counter\nfoveal_padded_rows_total{model="a"} 7\n'


def test_only_what_grew_between_two_looks_counts() -> None:
    figures = difference(read(BEFORE), read(AFTER))
    assert figures is not None
    assert figures.statuses == {"200": 10, "429": 2}
    assert (figures.rows, figures.batches, figures.mean_batch_rows) == (10, 4, 2.5)
    assert figures.batch_rows == ((1.0, 1), (2.0, 2), (math.inf, 1))
    run = figures.stages["run"]
    assert (run.count, run.mean_ms, run.p99_below_ms) == (4, 1.5, 2.0)
    assert figures.stages["queue"].count == 0
    assert (figures.dropped_rows, figures.padded_rows) == (3, None)


def test_padding_is_told_where_it_is_counted() -> None:
    figures = difference(read(BEFORE), read(PADDED))
    assert figures is not None and figures.padded_rows == 7


def test_metrics_of_another_service_are_none_of_ours() -> None:
    assert difference({}, read("# TYPE up gauge\nup 1\n")) is None
    assert difference(None, read(AFTER)) is None
    assert look(f"http://127.0.0.1:{free_port()}") is None


@pytest.mark.e2e
def test_a_real_services_metrics_are_read(server: RunningServer) -> None:
    samples = look(server.url)
    assert samples is not None
    figures = difference(samples, samples)
    assert figures is not None and figures.rows == 0 and figures.statuses == {}


def test_slices_hold_every_request_once() -> None:
    times = np.arange(0, 10, 0.01)
    outcomes = np.zeros(1000, np.uint8)
    outcomes[500:] = 2
    samples = Samples(
        times,
        np.zeros(1000),
        np.full(1000, 0.02),
        outcomes,
        np.ones(1000, np.uint16),
        ("raw",),
        np.zeros(1000, np.uint8),
        {},
        {},
        (0.1,),
    )
    windows = windows_of(samples, 10)
    assert sum(sum(window.outcomes) for window in windows) == 1000
    assert windows[0].p99_ms == pytest.approx(20) and math.isnan(windows[-1].p99_ms)
    first, second = windows_of_steps(samples, ((0.0, 1.0), (5.0, 2.0)), 10)
    assert first.answered_per_s == pytest.approx(100) and second.outcomes[2] == 500
    assert second.answered_per_s == 0
    assert p99_growth(windows[:20]) == pytest.approx(1)
