"""The costly part of the corpus from several clients at once, where 512 MiB are all there is."""

import itertools
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from tests.hostile.corpus import bombs, polyglots
from tests.places import ROOT, chosen
from tests.server import RunningServer, free_port, post, running_server

pytest.importorskip("grpc")

from tests.hostile import requests as made
from tests.hostile.fuzz_requests import Answers, Calls, Connections, is_failure

pytestmark = [
    pytest.mark.slow,
    pytest.mark.e2e,
    pytest.mark.skipif(chosen()[0] != "image", reason="asked of a container by tests/deploy"),
    pytest.mark.timeout(1200),
]
CLIENTS, ROUNDS = 8, 3


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RunningServer]:
    with running_server(ROOT / "models", tmp_path, grpc_port=free_port()) as running:
        yield running


def over_http() -> Iterator[bytes]:
    """Every image that costs more than its bytes, and every request that does."""
    for _, image in itertools.chain(bombs(8), polyglots()):
        yield post("/predict", image)
    yield from (whole for _, whole in made.costly_heads())
    yield from (made.form(body) for _, body in made.costly_forms())
    yield from (whole for _, whole in made.costly_binaries())
    yield from (whole for _, whole in made.costly_documents())


def test_nothing_costly_ends_a_worker(server: RunningServer) -> None:
    def http(number: int) -> list[str]:
        requests = list(over_http())
        turned = requests[number * 7 % len(requests) :] + requests[: number * 7 % len(requests)]
        asked = Connections(server)
        return [told(asked.ask([request])) for _ in range(ROUNDS) for request in turned]

    def grpc(_number: int) -> list[str]:
        calls = Calls(server)
        messages = [whole for _, whole in made.costly_messages()]
        try:
            return [told(calls.ask([message])) for _ in range(ROUNDS) for message in messages]
        finally:
            calls.close()

    with ThreadPoolExecutor(CLIENTS + 2) as pool:
        answers = [*pool.map(http, range(CLIENTS)), *pool.map(grpc, range(2))]
    seen = set(itertools.chain.from_iterable(answers))
    assert {answer for answer in seen if is_failure(answer)} == set()
    assert {"400", "413"} <= seen
    assert "another one starts" not in server.log
    golden = (ROOT / "models/fashion-cnn/2/golden/0.png").read_bytes()
    assert httpx.post(f"{server.url}/predict", content=golden).status_code == 200


def told(answers: Answers) -> str:
    """Return the one answer."""
    [(answer, _)] = answers
    return answer
