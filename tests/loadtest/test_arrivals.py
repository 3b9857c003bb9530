import math
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import numpy as np
import pytest

from loadtest.arrivals import Offer, Offered, client_limit, find_max, offer, summarise
from loadtest.assignment import arrival_times
from loadtest.calls import KINDS, Call, Kind
from loadtest.engines import Engine, Traffic, send
from loadtest.errors import LoadTestError
from loadtest.payloads import make_calls
from loadtest.samples import REFUSED, RIGHT, WRONG, Recorder, read_samples, wait_s
from models.repository import ModelRepository
from tests.loadtest.offers import offered
from tests.loadtest.slow_service import slow_service
from tests.server import RunningServer, free_port

HTTP_KINDS = [kind for kind in KINDS if kind != "grpc"]


def label_call(sent: int, expected: int) -> Call:
    return Call("raw", "/", (), str(sent).encode(), (expected,), "index")


def test_latency_counts_from_the_intended_start() -> None:
    # 50 a second is all it can do: of 100 a second the last wait for the queue of all before them.
    with slow_service(0.02) as (url, _):
        load = Offer(100, 2.0, p99_ms=50, warm_up_s=0)
        open_loop = offer(url, [label_call(3, 3)], load)
        assert open_loop.offered_per_s == pytest.approx(100, rel=0.3)
        assert open_loop.p99_ms > 600, "queueing does not show"
        assert open_loop.goodput_per_s < 50 and not open_loop.keeps
        # The same service, asked only when it has answered: never a queue, however slow it is.
        closed = send(url, [label_call(3, 3)], Traffic(((0.0, 2.0),), False, 1.0))
        assert closed.count(RIGHT) == len(closed)
        assert closed.latency_ms(0.99) < open_loop.p99_ms / 3


def test_every_outcome_is_told_apart() -> None:
    with slow_service(0.01, room=4) as (url, service):
        load = Offer(400, 1.0, p99_ms=1000, warm_up_s=0, deadline_ms=700)
        outcome = offer(url, [label_call(1, 1), label_call(1, 2)], load)
    assert outcome.refused > 50 and outcome.retry_after_s == {2: outcome.refused}
    assert outcome.wrong > 5 and outcome.answered_per_s > 5
    assert not outcome.keeps
    total = outcome.refused + outcome.wrong + round(outcome.answered_per_s) + outcome.failed
    assert total == round(outcome.offered_per_s)
    assert any("expected labels (2,), got (1,)" in cause for cause in outcome.causes)
    assert all("x-request-timeout-ms: 700" in head for head in service.headers)


@pytest.mark.parametrize("is_open", [True, False])
@pytest.mark.parametrize(
    ("said", "seconds"),
    [
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0),
        pytest.param("Wed Oct 21 07:28:00 2015", 0, marks=pytest.mark.thorough),
        ("soon", -1),
        pytest.param("1.5", -1, marks=pytest.mark.thorough),
    ],
)
def test_refusals_may_say_when_in_any_way(said: str, seconds: int, is_open: bool) -> None:
    engine: Engine = "sender" if is_open else "locust"
    with slow_service(0.01, room=0) as (url, service):
        service.retry_after = said
        traffic = Traffic(((0.0, 40.0 if is_open else 1.0),), is_open, 0.5, engine, timeout_s=1)
        samples = send(url, [label_call(1, 1)], traffic)
    assert samples.count(REFUSED) == len(samples) > 5, samples.causes
    assert samples.retry_after_s == {seconds: len(samples)}


def test_wait_until_a_date_is_counted_from_now() -> None:
    at = datetime.now(UTC) + timedelta(seconds=90)
    assert 88 <= wait_s(format_datetime(at, usegmt=True)) <= 91
    assert 88 <= wait_s(at.strftime("%a %b %d %H:%M:%S %Y")) <= 91


def test_answers_that_never_come_are_errors() -> None:
    with slow_service(30.0) as (url, _):
        load = Offer(40, 0.5, p99_ms=100, warm_up_s=0, timeout_ms=300)
        outcome = offer(url, [label_call(1, 1)], load)
    assert outcome.failed == round(outcome.offered_per_s * 0.5) > 0
    assert list(outcome.causes) == ["no answer in 0.3 s"]
    assert math.isnan(outcome.p99_ms)


def test_a_service_that_is_not_there_is_errors() -> None:
    load = Offer(40, 0.5, p99_ms=100, warm_up_s=0)
    outcome = offer(f"http://127.0.0.1:{free_port()}", [label_call(1, 1)], load)
    assert outcome.failed == round(outcome.offered_per_s * 0.5) > 0
    assert all("no connection" in cause for cause in outcome.causes)


def test_a_sender_that_breaks_is_one_line() -> None:
    with pytest.raises(LoadTestError, match=r"^load: expected samples of every process, got: "):
        offer("http://127.0.0.1:port", [label_call(1, 1)], Offer(1, 0.1, 1, warm_up_s=0))


@pytest.mark.e2e
@pytest.mark.parametrize("kind", HTTP_KINDS)
def test_every_protocol_is_answered_with_the_recorded_labels(
    kind: Kind, server: RunningServer, tiny_repository: Path
) -> None:
    repository = ModelRepository(tiny_repository)
    rows = 1 if kind == "raw" else 3
    calls = make_calls(repository, repository.load("tiny", 1), kind, rows)
    assert {call.rows for call in calls} == {rows}
    outcome = offer(server.url, calls, Offer(60, 0.5, 5000, processes=2))
    assert outcome.keeps and outcome.answered_per_s > 20, outcome


@pytest.mark.e2e
def test_another_label_than_the_recorded_one_is_wrong(
    server: RunningServer, tiny_repository: Path
) -> None:
    repository = ModelRepository(tiny_repository)
    (call, *_) = make_calls(repository, repository.load("tiny", 1))
    (expected,) = call.expected
    assert isinstance(expected, int)
    bad = replace(call, expected=((expected + 1) % 4,))
    outcome = offer(server.url, [bad], Offer(30, 0.5, 5000))
    assert outcome.wrong > 0 == outcome.answered_per_s and not outcome.keeps


@pytest.mark.e2e
def test_the_clients_limit_is_a_rate_and_nan_without_such_a_route(server: RunningServer) -> None:
    assert client_limit(server.url, Offer(0, 0, 0), duration_s=0.5) > 100
    with slow_service(0.001, room=0) as (url, _):
        assert math.isnan(client_limit(url, Offer(0, 0, 0), duration_s=0.2))


def test_arrivals_are_a_poisson_process_of_each_steps_rate() -> None:
    times = arrival_times(((0.0, 1000.0), (10.0, 100.0)), 20.0, seed=1)
    assert (np.diff(times) >= 0).all() and times[0] >= 0 and times[-1] < 20
    first, second = times[times < 10], times[times >= 10]
    assert len(first) == pytest.approx(10_000, rel=0.05)
    assert len(second) == pytest.approx(1000, rel=0.15)
    gaps = np.diff(first)
    assert gaps.std() == pytest.approx(gaps.mean(), rel=0.05)  # exponential
    assert (arrival_times(((0.0, 50.0),), 5.0, 7) == arrival_times(((0.0, 50.0),), 5.0, 7)).all()


def test_samples_of_several_processes_are_joined(tmp_path: Path) -> None:
    for number, (kind, outcome) in enumerate([("raw", RIGHT), ("v2-json", REFUSED)]):
        recorder = Recorder()
        recorder.add("grpc", 2, 5.0 + number, 0.0, 0.25, WRONG)
        recorder.add(kind, 1, 1.0 + number, 0.001, 0.5, outcome)
        recorder.causes["why"] += 1
        recorder.retry_after_s[number] += 1
        recorder.write(tmp_path / f"{number}.npz", 0.25 * number)
    samples = read_samples([tmp_path / "0.npz", tmp_path / "1.npz"])
    assert samples.intended_s_N.tolist() == [1, 2, 5, 6]
    assert [samples.kinds[i] for i in samples.kind_N] == ["raw", "v2-json", "grpc", "grpc"]
    assert samples.outcome_N.tolist() == [RIGHT, REFUSED, WRONG, WRONG]
    assert (samples.causes, samples.retry_after_s) == ({"why": 2}, {0: 1, 1: 1})
    assert samples.cpu_shares == (0.0, 0.25)
    inner = samples.between(2, 6)
    assert (len(inner), inner.count(WRONG)) == (2, 1)
    assert inner.latency_ms(0.5) == 250


class System:
    """A service that keeps its promise up to a rate; ``measure`` says what came of another."""

    def __init__(self, capacity: float, client: float = math.inf, stumbles: int = 0) -> None:
        self.capacity = capacity
        self.client = client
        self.stumbles = stumbles
        self.now = 0.0

    def measure(self, rate: float) -> Offered:
        self.now += 1
        stumbles, self.stumbles = self.stumbles > 0, self.stumbles - 1
        is_good = rate <= min(self.capacity, self.client) and not stumbles
        plain = offered(rate, keeps=True)
        return replace(
            plain,
            kept_share=1.0 if is_good else 0.5,
            is_client_saturated=rate > self.client,
        )


@pytest.mark.parametrize("capacity", [3, 480, 500, 7000, 123_456])
def test_find_max_ends_within_its_tolerance(capacity: float) -> None:
    system = System(capacity)
    found = find_max(system.measure, first_rate=500, tolerance=0.05)
    assert capacity / 1.05 <= found.rate_per_s <= capacity
    assert found.best is not None and found.best.rate_per_s == found.rate_per_s
    assert found.bound == "service" and len(found.trail) == system.now


def test_find_max_forgives_one_stumble_in_a_row() -> None:
    found = find_max(System(1000, stumbles=1).measure, first_rate=900, tries=2)
    assert found.rate_per_s > 900
    assert find_max(System(1000, stumbles=1).measure, first_rate=900, tries=1).rate_per_s < 900


def test_find_max_says_that_the_client_was_the_bound() -> None:
    assert find_max(System(9000, client=700).measure, first_rate=500).bound == "client"


def test_find_max_tries_no_rate_above_the_highest() -> None:
    found = find_max(System(9000).measure, first_rate=500, highest=1700)
    assert (found.rate_per_s, found.bound) == (1700, "highest rate")


def test_find_max_ends_where_nothing_is_kept() -> None:
    found = find_max(System(0).measure, first_rate=500)
    assert (found.rate_per_s, found.best, found.bound) == (0, None, "service")


def test_find_max_begins_nothing_after_its_budget() -> None:
    system = System(7000)
    found = find_max(system.measure, first_rate=10, budget_s=4, clock=lambda: system.now)
    assert len(found.trail) == 4
    assert (found.rate_per_s, found.bound) == (80, "budget")


def test_a_late_client_is_said_to_be_saturated(tmp_path: Path) -> None:
    recorder = Recorder()
    for number in range(100):
        recorder.add("raw", 1, number / 100, 0.03, 0.04, RIGHT)
    recorder.write(tmp_path / "0.npz", 0.5)
    samples = read_samples([tmp_path / "0.npz"])
    assert summarise(samples, Offer(100, 1, p99_ms=20)).is_client_saturated
    patient = summarise(samples, Offer(100, 1, p99_ms=400))
    assert not patient.is_client_saturated and patient.keeps
    (tmp_path / "0.npz").unlink()
    recorder.write(tmp_path / "0.npz", 0.95)
    busy = summarise(read_samples([tmp_path / "0.npz"]), Offer(100, 1, p99_ms=400))
    assert busy.is_client_saturated
