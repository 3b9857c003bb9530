"""A stop ends in time, whatever a worker does, and leaves no new client hanging."""

import contextlib
import signal
import socket
import time
from pathlib import Path

import psutil  # type: ignore[import-untyped]
import pytest

from models.image import encode_png
from tests.faults.stalling import harmless_images, publish_stalling, stalling_image
from tests.faults.test_workers import start_two, wait_until
from tests.server import RunningServer, Wire, post, running_server

pytestmark = pytest.mark.e2e

PNG = encode_png(harmless_images(1)[0])
# What a stop may take beyond the drain time on a busy machine.
MARGIN_S = 6.0


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("stalling") / "repository"
    publish_stalling(root)
    return root


def outcome(server: RunningServer) -> str:
    """Open a connection and ask: what a client of a stopping service sees."""
    try:
        with Wire(server, timeout_s=3) as wire:
            return str(wire.send(post("/predict", PNG)).answer().status)
    except ConnectionRefusedError:
        return "refused"


def refuses(server: RunningServer, count: int) -> bool:
    """Whether new connections, one after the other, are refused or get 503."""
    return {outcome(server) for _ in range(count)} <= {"refused", "503"}


@pytest.mark.parametrize("instances", [1, 2], ids=["on the loop", "on a thread"])
def test_run_that_does_not_end(repository: Path, tmp_path: Path, instances: int) -> None:
    """New connections are refused at once, and the drain time is kept.

    A worker whose loop hangs accepts nothing: who waits in the kernel's queue is answered, too.
    """
    with (
        running_server(
            repository, tmp_path, drain_timeout_s=1, instances=instances, threads=1
        ) as server,
        Wire(server) as wire,
        contextlib.ExitStack() as stack,
    ):
        wire.send(post("/predict", encode_png(stalling_image())))
        time.sleep(0.3)
        count = 5 if instances == 1 else 0
        waiting = [stack.enter_context(Wire(server, timeout_s=5)) for _ in range(count)]
        for each in waiting:
            each.send(post("/predict", PNG))
        time.sleep(0.1)
        started = time.monotonic()
        server.signal_stop()
        # At first the supervisor refuses while the worker, not yet told, answers what it accepts.
        wait_until(lambda: refuses(server, 10), 1, "a stop that is seen")
        assert refuses(server, 10)
        for each in waiting:
            answer = each.answer()
            assert answer.status == 503
            assert answer.json() == {"error": "not ready: the service is stopping; retry elsewhere"}
            assert each.is_closed()
        server.process.wait(1 + MARGIN_S)
        assert time.monotonic() - started < 1 + MARGIN_S
    assert "Traceback" not in server.log


def test_stopped_worker(repository: Path, tmp_path: Path) -> None:
    """SIGSTOP: it runs no line of ours; the supervisor ends it after the drain time."""
    with running_server(repository, tmp_path, drain_timeout_s=1, workers=2) as server:
        victim = psutil.Process(server.process.pid).children()[0]
        victim.send_signal(signal.SIGSTOP)
        server.signal_stop()
        server.process.wait(1 + MARGIN_S)
        assert not victim.is_running()
    assert f"worker {victim.pid} ended by SIGKILL during the stop" in server.log


@pytest.mark.parametrize("wait_s", [0.2, 1.0, 1.6, 2.2, 3.0])
def test_stop_while_it_starts(repository: Path, tmp_path: Path, wait_s: float) -> None:
    process = start_two(repository, tmp_path)
    time.sleep(wait_s)
    children = psutil.Process(process.pid).children()
    process.send_signal(signal.SIGTERM)
    assert process.wait(10) in (0, -signal.SIGTERM)
    wait_until(lambda: not any(child.is_running() for child in children), 2, "no worker is left")


@pytest.mark.thorough
def test_stop_while_models_load(tmp_path: Path) -> None:
    """A large model may load for minutes; nothing was accepted yet, so the stop is immediate."""
    for _ in range(150):
        publish_stalling(tmp_path / "repository")
    process = start_two(tmp_path / "repository", tmp_path, FOVEAL_LOADED_VERSIONS="150")
    log = tmp_path / "server.log"
    wait_until(lambda: log.read_text().count("tiny:") >= 4, 60, "models that load")
    process.send_signal(signal.SIGTERM)
    assert process.wait(5) == 0, log.read_text()
    assert "ready after" not in log.read_text()


def test_refused_port_is_free(repository: Path, tmp_path: Path) -> None:
    """A new service may listen on the port while the old one still answers."""
    with running_server(repository, tmp_path, drain_timeout_s=3) as server, Wire(server) as wire:
        wire.send(post("/predict", PNG)[:-5])
        time.sleep(0.2)
        server.signal_stop()
        wait_until(lambda: outcome(server) == "refused", 2, "a closed port")
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", server.port))
        wire.send(post("/predict", PNG)[-5:])
        assert wire.answer().status == 200
