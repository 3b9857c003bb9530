import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from loadtest.arrivals import Offer, offer
from loadtest.calls import DO_NOTHING, KINDS, Call, Kind
from loadtest.engines import USERS, Traffic, send
from loadtest.errors import LoadTestError
from loadtest.payloads import make_calls
from loadtest.samples import RIGHT, WRONG, Samples
from loadtest.shapes import level_at, steps_of
from models.repository import ModelRepository
from tests.loadtest.slow_service import slow_service
from tests.server import RunningServer, free_port, running_server
from tests.tiny import publish_tiny

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def two_wires(
    tiny_repository: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningServer]:
    """Also of a model of several labels."""
    folder = tmp_path_factory.mktemp("two-wires")
    shutil.copytree(tiny_repository, folder / "models")
    publish_tiny(folder / "models", "several", task="multi-label")
    with running_server(folder / "models", folder, grpc_port=free_port()) as server:
        yield server


def calls_of(repository: Path, *kinds: Kind, version: int = 1) -> list[Call]:
    store = ModelRepository(repository)
    artifact = store.load("tiny", version)
    return [
        call
        for kind in kinds
        for call in make_calls(store, artifact, kind, 1 if kind == "raw" else 3)
    ]


def users(level: float, duration_s: float, **options: object) -> Traffic:
    return Traffic(((0.0, level),), False, duration_s, engine="locust", **options)  # type: ignore[arg-type]


def assert_all_right(samples: Samples, at_least: int) -> None:
    assert samples.count(RIGHT) == len(samples) >= at_least, (len(samples), samples.causes)


@pytest.mark.parametrize(
    "kind", [KINDS[0], *(pytest.param(kind, marks=pytest.mark.thorough) for kind in KINDS[1:])]
)
def test_every_users_answers_have_the_recorded_labels(
    kind: Kind, two_wires: RunningServer, tiny_repository: Path
) -> None:
    before = two_wires.metric("foveal_requests_total", status="200")
    traffic = users(3, 0.8, grpc_address=two_wires.grpc_address)
    samples = send(two_wires.url, calls_of(tiny_repository, kind), traffic)
    assert_all_right(samples, at_least=30)
    assert samples.kinds == (kind,)
    # Nobody's answers are made up: the service counted them, too.
    assert two_wires.metric("foveal_requests_total", status="200") - before >= len(samples)


def fewer(call: Call) -> Call:
    """Expect one label where there are several."""
    first, *_ = (row for row in call.expected if isinstance(row, tuple) and len(row) > 1)
    return replace(
        call, expected=tuple(row if row != first else first[:1] for row in call.expected)
    )


@pytest.mark.thorough
def test_of_several_labels_all_are_judged(two_wires: RunningServer) -> None:
    store = ModelRepository(two_wires.log_path.parent / "models")
    artifact = store.load("several", 1)
    several = {kind: make_calls(store, artifact, kind, 1 if kind == "raw" else 3) for kind in KINDS}
    rows = [row for call in several["grpc"] for row in call.expected]
    assert {len(row) for row in rows if isinstance(row, tuple)} >= {1, 2}
    http = [call for kind, calls in several.items() if kind != "grpc" for call in calls]
    outcome = offer(two_wires.url, http, Offer(80, 1, 5000))
    assert outcome.keeps and outcome.answered_per_s > 20, outcome
    wrong = [
        fewer(call)
        for call in http
        if any(isinstance(row, tuple) and len(row) > 1 for row in call.expected)
    ]
    assert {call.kind for call in wrong} == set(KINDS) - {"grpc"}
    outcome = offer(two_wires.url, wrong, Offer(80, 1, 5000))
    assert outcome.wrong > 0 == outcome.answered_per_s, outcome
    traffic = users(2, 0.8, grpc_address=two_wires.grpc_address)
    assert_all_right(send(two_wires.url, several["grpc"], traffic), at_least=10)


@pytest.mark.thorough
def test_mixed_traffic_asks_every_model_in_every_form(
    two_wires: RunningServer, tiny_repository: Path
) -> None:
    http = tuple(kind for kind in KINDS if kind != "grpc")
    calls = [
        *calls_of(tiny_repository, *http),
        *calls_of(tiny_repository, *http, version=2),
    ]
    before = two_wires.metric("foveal_request_seconds_count", version="2")
    samples = send(two_wires.url, calls, users(4, 1.0, user="MixedUser", processes=2))
    assert_all_right(samples, at_least=60)
    assert set(samples.kinds) == set(http)
    assert len(samples.cpu_shares) == 2
    assert two_wires.metric("foveal_request_seconds_count", version="2") > before


@pytest.mark.parametrize("kind", ["raw", pytest.param("grpc", marks=pytest.mark.thorough)])
def test_users_arrivals_are_open(
    kind: Kind, two_wires: RunningServer, tiny_repository: Path
) -> None:
    traffic = Traffic(
        ((0.0, 20.0), (1.0, 80.0)), True, 2.0, engine="locust", grpc_address=two_wires.grpc_address
    )
    samples = send(two_wires.url, calls_of(tiny_repository, kind), traffic)
    assert_all_right(samples, at_least=60)
    assert len(samples.between(1, 2)) > 2 * len(samples.between(0, 1))


@pytest.mark.thorough
def test_users_arrivals_count_from_the_intended_start() -> None:
    # 50 a second is all it can do of 100: the last wait for all before them, and it shows.
    with slow_service(0.02) as (url, _):
        call = Call("raw", "/", (), b"1", (1,), "index")
        traffic = Traffic(((0.0, 100.0),), True, 2.0, engine="locust")
        samples = send(url, [call], traffic)
    assert len(samples) == pytest.approx(200, rel=0.3)
    assert samples.latency_ms(0.99) > 600


def test_users_tell_wrong_labels(two_wires: RunningServer, tiny_repository: Path) -> None:
    call = calls_of(tiny_repository, "raw")[0]
    bad = Call(call.kind, call.path, call.headers, call.body, (5,), call.answer)
    samples = send(two_wires.url, [bad], users(1, 0.5))
    assert samples.count(WRONG) == len(samples) > 0
    assert all("expected labels (5,)" in cause for cause in samples.causes)


@pytest.mark.thorough
def test_a_route_that_does_nothing_can_be_asked(two_wires: RunningServer) -> None:
    assert_all_right(send(two_wires.url, [DO_NOTHING], users(2, 0.5)), at_least=20)


def test_the_sender_refuses_grpc(tiny_repository: Path) -> None:
    with pytest.raises(LoadTestError, match="over HTTP"):
        send("http://127.0.0.1:1", calls_of(tiny_repository, "grpc"), Traffic(((0, 1),), True, 1))


def test_every_kind_has_a_user() -> None:
    assert {*KINDS, "nothing"} == set(USERS)


def test_shapes_reach_their_level_and_no_more() -> None:
    for shape in ("steady", "steps", "spike", "soak"):
        steps = steps_of(shape, 50, 100)
        levels = [level_at(steps, second) for second in range(100)]
        assert max(levels) == 50, shape
        assert levels[0] == {"steady": 50, "steps": 10, "spike": 10, "soak": 50}[shape]
    assert [level_at(steps_of("steps", 50, 100), s) for s in (0, 25, 45, 65, 99)] == [
        10,
        20,
        30,
        40,
        50,
    ]
    spike = steps_of("spike", 50, 100)
    assert [level_at(spike, s) for s in (39, 40, 59, 60, 99)] == [10, 50, 50, 10, 10]


@pytest.mark.thorough
def test_users_follow_the_shape() -> None:
    # Answers are given in turns: with six users each waits for those of all others.
    with slow_service(0.02) as (url, _):
        call = Call("raw", "/", (), b"1", (1,), "index")
        traffic = Traffic(((0.0, 1.0), (2.0, 6.0)), False, 4.0, engine="locust")
        samples = send(url, [call], traffic)
    assert_all_right(samples, at_least=50)
    # Locust looks once a second: both levels are there, the second more than the first.
    assert samples.intended_s_N[-1] == pytest.approx(4, abs=1.2)
    alone_ms, six_ms = (samples.between(*part).latency_ms(0.5) for part in ((0, 1), (3, 4)))
    assert six_ms > 100 and six_ms > 2 * alone_ms
