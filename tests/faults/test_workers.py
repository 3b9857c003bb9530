"""Workers and their supervisor are killed, hang, and share the connections."""

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import psutil  # type: ignore[import-untyped]
import pytest

from models.image import encode_png
from tests.faults.stalling import harmless_images, publish_stalling, stalling_image
from tests.places import Start
from tests.server import RunningServer, Wire, free_port, post, running_server
from tests.tiny import assert_own_result

pytestmark = pytest.mark.e2e

IMAGES = harmless_images(8)
PNGS = [encode_png(image) for image in IMAGES]


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("stalling") / "repository"
    publish_stalling(root)
    return root


def workers(server: RunningServer) -> list[psutil.Process]:
    return [p for p in psutil.Process(server.process.pid).children() if p.is_running()]


def wait_until(condition: Callable[[], bool], seconds: float, what: str) -> float:
    """Wait for a condition; return the seconds that it took."""
    started = time.monotonic()
    while not condition():
        assert time.monotonic() - started < seconds, f"not within {seconds} s: {what}"
        time.sleep(0.02)
    return time.monotonic() - started


def owners(server: RunningServer, sockets: list[socket.socket]) -> Counter[int]:
    """Count the connections of each worker; a worker without any counts as 0."""
    ports = {one.getsockname()[1] for one in sockets}
    counted: Counter[int] = Counter()
    for worker in workers(server):
        held = (c for c in worker.net_connections("tcp") if c.raddr and c.raddr.port in ports)
        counted[worker.pid] = len(list(held))
    return counted


def start_two(repository: Path, folder: Path, **variables: str) -> subprocess.Popen[bytes]:
    """Start two workers and wait for nothing."""
    start = Start(repository, folder, free_port(), 0, {"FOVEAL_WORKERS": "2", **variables})
    return start.open(folder / "server.log")


def count_started(server: RunningServer) -> int:
    """Return how many workers have come up so far."""
    return server.log.count("ready after")


@pytest.fixture(scope="module")
def server(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """Two workers; a test that ends one waits for its successor, and one test ends them all."""
    with running_server(repository, tmp_path_factory.mktemp("two"), workers=2) as running:
        wait_until(lambda: count_started(running) == 2, 30, "two workers")
        time.sleep(0.2)  # from there to listening
        yield running


def test_connections_opened_together_are_spread(server: RunningServer) -> None:
    with contextlib.ExitStack() as stack:
        best = 0
        for _ in range(3):  # on a busy machine one worker may not wake up in time
            opened = [
                stack.enter_context(socket.create_connection(("127.0.0.1", server.port)))
                for _ in range(32)
            ]
            wait_until(lambda: owners(server, opened).total() == 32, 5, "all accepted")  # noqa: B023
            best = max(best, min(owners(server, opened).values()))
        assert best >= 8


def test_connections_opened_one_by_one_are_spread(server: RunningServer) -> None:
    with contextlib.ExitStack() as stack:
        wires = []
        for png, image in zip(PNGS, IMAGES, strict=True):
            wires.append(stack.enter_context(Wire(server)))
            said = wires[-1].send(post("/predict", png)).answer().json()
            assert_own_result(said["results"][0], image)
        assert min(owners(server, [wire.socket for wire in wires]).values()) >= 2


def test_killed_worker_loses_its_own_requests_only(server: RunningServer) -> None:
    started = count_started(server)
    with contextlib.ExitStack() as stack:
        victim, other = workers(server)
        survivors: list[Wire] = []
        wires: list[Wire] = []
        while not 1 <= len(survivors) < len(wires):  # a worker may not wake up in time
            assert len(wires) <= 40
            wires += [stack.enter_context(Wire(server)) for _ in range(8)]
            for wire in wires:
                assert wire.send(post("/predict", PNGS[0])).answer().status == 200
            survivors = [w for w in wires if owners(server, [w.socket])[other.pid]]
        victim.kill()
        wait_until(lambda: not victim.is_running(), 5, "it is gone")
        for wire in survivors:
            assert wire.send(post("/predict", PNGS[0])).answer().status == 200
        for _ in range(20):  # new connections, while one worker starts
            assert httpx.post(f"{server.url}/predict", content=PNGS[1]).status_code == 200
        took = wait_until(lambda: count_started(server) == started + 1, 30, "another worker")
        print(f"two workers again after {took:.1f} s")
        assert f"worker {victim.pid} ended by SIGKILL; another one starts" in server.log
        assert "[cli] ready after" not in server.log, "a worker's lines name the worker"
        assert other.is_running() and len(workers(server)) == 2


@pytest.mark.thorough
def test_hanging_worker_is_replaced(server: RunningServer) -> None:
    """A run that never ends, on the loop: the other worker answers meanwhile."""
    count = count_started(server)
    failures: list[str] = []
    with Wire(server) as wire, httpx.Client() as client:
        wire.send(post("/predict", encode_png(stalling_image())))
        time.sleep(0.2)
        (hanging,) = (pid for pid, n in owners(server, [wire.socket]).items() if n)
        started = time.monotonic()
        while psutil.pid_exists(hanging) and time.monotonic() - started < 25:
            answer = client.post(
                f"{server.url}/predict",
                content=PNGS[0],
                headers={"Connection": "close"},  # each over a connection of its own
                timeout=5,
            )
            if answer.status_code != 200:
                failures.append(answer.text)
            time.sleep(0.05)
        assert 8 < time.monotonic() - started < 20
        wire.socket.settimeout(5)
        with contextlib.suppress(ConnectionResetError):
            assert wire.is_closed()
    assert not failures
    assert f"worker {hanging} hangs: no turn of its loop for 1" in server.log
    wait_until(lambda: count_started(server) == count + 1, 30, "another one")


def test_killed_supervisor_ends_its_workers(
    server: RunningServer, repository: Path, tmp_path: Path
) -> None:
    """A restart on the same ports works at once; the last test of this server."""
    wait_until(lambda: len(workers(server)) == 2, 30, "two workers")
    orphans = workers(server)
    server.process.kill()
    wait_until(lambda: not any(p.is_running() for p in orphans), 5, "no worker is left")
    server.process.wait()
    with running_server(repository, tmp_path, port=server.port, grpc_port=free_port()) as again:
        assert httpx.post(f"{again.url}/predict", content=PNGS[0]).status_code == 200


@pytest.mark.thorough
def test_killed_supervisor_ends_workers_that_load(repository: Path, tmp_path: Path) -> None:
    """At any moment of their start: also between the fork and the call that ties them."""
    for i, wait_s in enumerate((0.0, 0.3, 0.8)):
        folder = tmp_path / str(i)
        folder.mkdir()
        process = start_two(repository, folder)
        main = psutil.Process(process.pid)
        wait_until(lambda: len(main.children()) == 2, 30, "two workers")  # noqa: B023
        orphans = main.children()
        time.sleep(wait_s)
        process.kill()
        process.wait()
        wait_until(lambda: not any(p.is_running() for p in orphans), 10, "no worker is left")  # noqa: B023


@pytest.mark.thorough
def test_signals_of_an_operator_are_harmless(repository: Path, tmp_path: Path) -> None:
    """SIGHUP to anybody, from the first moment on and in storms: nobody ends."""
    process = start_two(repository, tmp_path)
    try:
        main = psutil.Process(process.pid)
        wait_until(lambda: len(main.children()) == 2, 30, "two workers")
        first = {p.pid for p in main.children()}
        log = tmp_path / "server.log"
        deadline = time.monotonic() + 40
        while log.read_text().count("ready after") < 2:
            assert time.monotonic() < deadline, log.read_text()
            for pid in (main.pid, *first):
                os.kill(pid, signal.SIGHUP)
            time.sleep(0.01)
        for _ in range(300):
            for pid in (main.pid, *first):
                os.kill(pid, signal.SIGHUP)
        time.sleep(0.5)
        assert {p.pid for p in main.children()} == first, log.read_text()
        assert "Traceback" not in log.read_text()
        process.send_signal(signal.SIGTERM)
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0, log.read_text()
    finally:
        process.kill()
        process.wait()
