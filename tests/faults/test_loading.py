"""A model that takes long to load: probes are answered, a stop is obeyed, all else is 503."""

import signal
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil  # type: ignore[import-untyped]
import pytest

from tests.faults.stalling import publish_endless
from tests.faults.test_workers import wait_until
from tests.places import Start
from tests.server import RunningServer, assert_error, free_port

pytestmark = pytest.mark.e2e

LIVE_S = 60.0
# A stop takes 2 s; more on a busy machine.
STOP_S = 5.0


@pytest.fixture
def loading(tmp_path: Path) -> Iterator[RunningServer]:
    """Two workers that never end to load: a run of the model takes minutes."""
    publish_endless(tmp_path / "repository")
    log, port = tmp_path / "server.log", free_port()
    start = Start(tmp_path / "repository", tmp_path, port, 0, {"FOVEAL_WORKERS": "2"})
    server = RunningServer(port, start.fork(log), log)
    try:
        yield server
    finally:
        server.process.kill()
        server.process.wait()


def status(server: RunningServer, path: str) -> int:
    try:
        return server.get(path).status_code
    except httpx.TransportError:
        return 0


def test_probes_and_a_stop_while_a_model_loads(loading: RunningServer) -> None:
    wait_until(lambda: status(loading, "/livez") == 200, LIVE_S, "an answer from /livez")
    step = "loading endless:1, self-test, "
    wait_until(lambda: step in loading.get("/readyz").text, LIVE_S, "the run that does not end")
    for path in ("/livez", "/healthz", "/v2/health/live", "/metrics"):
        assert [status(loading, path) for _ in range(5)] == [200] * 5, path
    for path in (
        "/readyz",
        "/v2/health/ready",
        "/v2",
        "/v2/models/endless",
        "/docs.json",
        "/models",
    ):
        answer = loading.get(path)
        assert_error(answer, 503, f"^not ready: {step}\\d+ s so far; retry$")
        assert answer.headers["retry-after"] == "1"
    assert [status(loading, path) for path in ("/", "/docs", "/page/app.js")] == [200] * 3
    for path in ("/predict", "/classify", "/models/endless/predict", "/v2/models/endless/infer"):
        answer = httpx.post(loading.url + path, content=b"x")
        assert_error(answer, 503, step)
        assert answer.headers["retry-after"] == "1"
    wait_until(lambda: loading.log.count(step) >= 2, LIVE_S, "its progress in the log")
    children = psutil.Process(loading.process.pid).children()
    assert len(children) == 2
    loading.process.send_signal(signal.SIGTERM)
    assert loading.process.wait(STOP_S) == 0, loading.log
    assert not any(child.is_running() for child in children)
    assert "ready after" not in loading.log
    assert "Traceback" not in loading.log
