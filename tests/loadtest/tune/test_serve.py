"""What a search for the highest rate is worth, by its trail; the words that start a service."""

import math
from pathlib import Path

import pytest

from loadtest.arrivals import Found, Offer, find_max
from loadtest.calls import Call
from loadtest.tune.cores import Cores
from loadtest.tune.points import DEFAULTS, Configuration, Served, settled
from loadtest.tune.serve import Service, _is_done
from tests.loadtest.offers import offered


def found(highest: float, tries: int, first_rate: float = 100.0) -> Found:
    """Search a service that keeps its promise up to a rate, in so many offers."""
    now = iter(range(1000))
    return find_max(
        lambda rate: offered(rate, keeps=rate <= highest),
        first_rate=first_rate,
        tries=1,
        budget_s=tries + 0.5,
        clock=lambda: float(next(now)),
    )


@pytest.mark.parametrize("highest", [30.0, 100.0, 777.0])
def test_a_search_that_ended_is_done_and_one_that_was_cut_short_is_not(highest: float) -> None:
    assert _is_done(found(highest, 100))
    assert not _is_done(found(highest, 1)), "one rate that is kept, or broken, is no bound"


def test_a_promise_that_nothing_keeps_is_done_at_the_lowest_rate_only() -> None:
    assert _is_done(found(0.0, 100))
    assert not _is_done(found(0.0, 3))


def test_a_round_that_was_cut_short_is_not_what_counts() -> None:
    whole = Served(100, 100, 1, 2, "service", ((100.0, 1.0, 2.0), (110.0, 0.5, 9.0)))
    short = Served(50, 50, 1, 2, "time", ((50.0, 1.0, 2.0),))
    assert settled([whole, short]) is whole
    assert settled([short]) is short
    assert whole.at_most_per_s == 110.0
    assert short.at_most_per_s == math.inf


def test_only_the_settings_that_are_measured_reach_the_service(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FOVEAL_MAX_WAIT_MS", "7")
    calls: list[Call] = []
    service = Service(tmp_path, calls, 20.0, Cores(2, (0,), (1,)), 2, "cpu", tmp_path)
    words = service._command(Configuration("int8", 1, 2, 8))
    start = words.index(next(word for word in words if word.endswith("foveal.py")))
    assert words[0] == "env"
    assert words[words.index("FOVEAL_MAX_WAIT_MS") - 1] == "-u"
    for setting in (
        "FOVEAL_PRECISION=int8",
        "FOVEAL_THREADS=1",
        "FOVEAL_INSTANCES=2",
        "FOVEAL_WORKERS=2",
        "FOVEAL_MAX_BATCH_SIZE=8",
        "FOVEAL_MAX_QUEUE_DELAY_MS=0",
        "FOVEAL_DEVICE=cpu",
    ):
        assert setting in words[:start]
    offer = service._offer(100.0)
    assert offer == Offer(100.0, 5.0, 20.0, timeout_ms=1000.0, cpus="1")
    assert service._offer(1e5).duration_s < offer.duration_s
    assert "FOVEAL_THREADS=0" in service._command(DEFAULTS)
