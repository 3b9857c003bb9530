"""What there is to choose from, and which of it survives the session's own sweep."""

import os

import pytest

from loadtest.tune.points import (
    BATCH_SIZES,
    DEFAULTS,
    Configuration,
    SessionFigure,
    SessionPoint,
    frontier,
    grid,
    survivors,
)
from service.settings import Settings


def figure(rows_per_s: float, run_ms: float) -> SessionFigure:
    return SessionFigure(rows_per_s, run_ms, run_ms, 10)


@pytest.mark.parametrize("cores", [1, 2, 3, 4, 6, 16])
def test_threads_and_instances_never_exceed_the_cores(cores: int) -> None:
    points = grid(("fp32", "int8"), cores)
    shapes = {(point.threads, point.instances) for point in points}
    assert all(threads * instances <= cores for threads, instances in shapes)
    assert {(1, 1), (cores, 1), (1, cores)} <= shapes
    assert len(points) == len(set(points)) == 2 * len(shapes) * len(BATCH_SIZES)
    assert (points[0].threads, points[0].instances) == (1, 1)


def test_one_core_leaves_one_shape() -> None:
    assert {(p.threads, p.instances) for p in grid(("fp32",), 1)} == {(1, 1)}


def test_a_gpu_is_one_runner() -> None:
    assert {(p.threads, p.instances) for p in grid(("fp32",), 16, is_gpu=True)} == {(1, 1)}


def test_the_frontier_is_what_nothing_beats_in_both() -> None:
    fast, wide, beaten = (SessionPoint("fp32", 1, 1, rows) for rows in (1, 8, 4))
    figures = {fast: figure(100, 1), beaten: figure(150, 5), wide: figure(300, 4)}
    assert frontier(figures) == [fast, wide]


def test_survivors_keep_the_promise_and_are_the_widest() -> None:
    figures = {
        SessionPoint("fp32", 1, 1, 8): figure(1000, 8),
        SessionPoint("fp32", 1, 1, 16): figure(1010, 9.9),  # not worth twice the wait
        SessionPoint("fp32", 1, 1, 32): figure(5000, 11),  # two of these break it
        SessionPoint("fp32", 2, 1, 8): figure(1500, 5),
        SessionPoint("int8", 1, 1, 16): figure(3000, 5),
        SessionPoint("int8", 1, 2, 32): figure(6000, 30),
    }
    assert survivors(figures, 20) == [
        Configuration("int8", 1, 1, 16),
        Configuration("fp32", 2, 1, 8),
        Configuration("fp32", 1, 1, 8),
    ]
    assert survivors(figures, 1) == []


def test_one_run_alone_survives_whatever_is_wider() -> None:
    """Only it runs on the event loop, of which the session alone knows nothing."""
    figures = {
        SessionPoint("fp32", threads, instances, 8): figure(1000 * threads + instances, 2)
        for threads in (1, 2, 4)
        for instances in (1, 2, 4)
    }
    kept = survivors(figures, 20, most=3)
    assert len(kept) == 3
    assert Configuration("fp32", 1, 1, 8) in kept
    assert Configuration("fp32", 4, 4, 8) in kept


def test_the_defaults_are_the_services_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every one of them is set, so that no plan counts, and set to what it is without a plan."""
    for name in [name for name in os.environ if name.startswith("FOVEAL_")]:
        monkeypatch.delenv(name)  # other tests' commands leave some
    plain = Settings()
    for name, value in DEFAULTS.variables.items():
        monkeypatch.setenv(name, value)
    given = Settings()
    assert given == plain
    assert given.model_fields_set == {
        "precision",
        "threads",
        "instances",
        "max_batch_size",
        "max_queue_delay_ms",
        "buckets",
    }
