"""What a small image of a known head costs, in numbers that a busy machine does not change.

Not microseconds: calls of functions, objects and system calls. Whoever adds to them sees it here,
and raises a bound only for what it is worth.
"""

import asyncio
import gc
import socket
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import psutil
import pytest

from loadtest.bench.stages import lane_factory
from models.repository import ModelRepository
from service.lane.connection import LaneProtocol
from service.rollout.catalog import Catalog, load_catalog
from service.rollout.loading import LoadOptions
from tests.server import ROOT, RunningServer
from tests.service.lane.lane_client import PREDICT
from tests.service.lane.test_heads import Sink

ROWS = 64
REQUESTS = 400
# Measured with Python 3.11: 100.5 calls and 13.3 objects.
# Another Python may differ a little; one more call for each request does not pass.
MAX_CALLS = 101
# In a process that ran other tests before it was 14.3.
MAX_WAITING_OBJECTS = 15

IMAGE = (ROOT / "models/fashion-fcnn/2/golden/0.png").read_bytes()
REQUEST = (
    b"POST /models/fashion-fcnn/predict HTTP/1.1\r\nHost: a\r\nContent-Type: image/png\r\n"
    b"Content-Length: %d\r\n\r\n%s" % (len(IMAGE), IMAGE)
)


class Crowd:
    """Connections of a lane in this process, without sockets."""

    def __init__(self, catalog: Catalog) -> None:
        self.loop = asyncio.new_event_loop()
        self._has_run = threading.Event()
        self._call_soon_threadsafe = self.loop.call_soon_threadsafe
        vars(self.loop)["call_soon_threadsafe"] = self._wake
        connect = lane_factory(catalog, self.loop)
        self.sinks = [Sink() for _ in range(ROWS)]
        self.connections: list[LaneProtocol] = [connect() for _ in self.sinks]
        for connection, sink in zip(self.connections, self.sinks, strict=True):
            connection.connection_made(sink)  # type: ignore[arg-type]
        for _ in range(3):  # the first ones are parsed, and make what is kept
            self.ask()
            self.answer()

    def ask(self) -> None:
        for connection, sink in zip(self.connections, self.sinks, strict=True):
            sink.written = b""
            connection.data_received(REQUEST)

    def answer(self) -> None:
        """Turn the loop only when a run has ended: turns in which it only waits would count."""
        self._turn()
        while not all(sink.written for sink in self.sinks):
            assert self._has_run.wait(60)
            self._has_run.clear()
            self._turn()

    def _turn(self) -> None:
        self.loop.call_soon(self.loop.stop)
        self.loop.run_forever()

    def _wake(self, *arguments: Any) -> None:
        self._call_soon_threadsafe(*arguments)
        self._has_run.set()


@pytest.fixture(scope="module")
def crowd() -> Iterator[Crowd]:
    repository = ModelRepository(ROOT / "models")
    with pytest.MonkeyPatch.context() as patch:
        # Metrics are flushed by a timer: on a busy machine within every turn.
        patch.setattr("service.metrics.meters.FLUSH_S", 3600.0)
        crowd = Crowd(load_catalog(repository, "fashion-fcnn", 1, LoadOptions()))
        yield crowd
    for connection in crowd.connections:
        connection.connection_lost(None)
    crowd.loop.close()


@contextmanager
def counted(calls: Counter[str]) -> Iterator[None]:
    def count(frame: FrameType, event: str, function: Any) -> None:
        if event == "call":
            calls[frame.f_code.co_qualname] += 1
        elif event == "c_call":
            calls[function.__qualname__] += 1

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1.0)  # or a runner takes each row alone where a turn takes long
    sys.setprofile(count)
    try:
        yield
    finally:
        sys.setprofile(None)
        sys.setswitchinterval(interval)


def test_calls_of_functions(crowd: Crowd) -> None:
    """Of several turns the cheapest: in some a runner takes rows in more runs."""
    turns: list[Counter[str]] = []
    for _ in range(4):
        calls: Counter[str] = Counter()
        with counted(calls):
            crowd.ask()
            crowd.answer()
        assert all(sink.written.startswith(b"HTTP/1.1 200 ") for sink in crowd.sinks)
        turns.append(calls)
    calls = min(turns, key=Counter.total)
    listed = ", ".join(f"{name} {count / ROWS:.2f}" for name, count in calls.most_common(60))
    assert calls.total() / ROWS <= MAX_CALLS, listed


def test_objects_of_a_waiting_request(crowd: Crowd) -> None:
    """The least of some rounds: other threads of the process make objects meanwhile, too."""
    waiting = []
    for _ in range(5):
        gc.collect()
        before = sys.getallocatedblocks()
        crowd.ask()
        waiting.append((sys.getallocatedblocks() - before) / ROWS)
        crowd.answer()
    assert min(waiting) <= MAX_WAITING_OBJECTS, waiting


def test_an_answer_leaves_nothing_to_the_collector(crowd: Crowd) -> None:
    """The least of some rounds, as above: what an answer leaves, each round leaves."""

    def tracked() -> int:
        return len(gc.get_objects())

    left = []
    gc.collect()
    gc.disable()
    try:
        crowd.ask()
        crowd.answer()
        for _ in range(4):
            before = tracked()
            for _ in range(4):
                crowd.ask()
                crowd.answer()
            left.append(tracked() - before)
        assert min(left) < ROWS / 4, left  # lists of metrics grow, not by one a request
    finally:
        gc.enable()


def system_calls(server: RunningServer) -> Callable[[], tuple[int, int]]:
    """Return what counts the reads and writes of a server's processes."""
    main = psutil.Process(server.process.pid)
    paths = [Path(f"/proc/{p.pid}/io") for p in (main, *main.children(recursive=True))]

    def count() -> tuple[int, int]:
        lines = [line.split(": ") for path in paths for line in path.read_text().splitlines()]
        reads, writes = (
            sum(int(value) for name, value in lines if name == kind) for kind in ("syscr", "syscw")
        )
        return reads, writes

    return count


def test_a_request_is_one_read_and_one_write(server: RunningServer) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as client:

        def ask() -> None:
            client.sendall(PREDICT)
            assert client.recv(1 << 16).startswith(b"HTTP/1.1 200 ")

        ask()
        count = system_calls(server)
        reads, writes = count()
        for _ in range(REQUESTS):
            ask()
        more_reads, more_writes = count()
    # A tenth for what runs beside: metrics, wake-ups of threads, the log.
    assert 1 <= (more_reads - reads) / REQUESTS <= 1.1
    assert 1 <= (more_writes - writes) / REQUESTS <= 1.1
