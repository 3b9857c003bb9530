"""The sender: requests at moments that are fixed beforehand, whatever the answers do.

    python -m loadtest.sender ASSIGNMENT.json

Prints a line when it is ready and reads the moment to start from its standard input, seconds of
``time.monotonic``, so that several begin together.

Open arrivals: a request is sent when its time has come, on a connection of its own, so a slow
service is not asked less. Latency counts from the intended start: what a request waits in the
client because the service let others pile up is part of it. A closed loop, too: then so many
requests as the first step says are always out.

One process is one core. asyncio on uvloop with httptools, the service's own parts; locust's user
takes 5 to 10 times as long for a request (README.md has the measurement), too long for a model that
answers thousands a second. HTTP/1.1 only.
"""

import asyncio
import resource
import ssl
import sys
import threading
import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import httptools
import numpy as np
import uvloop
from numpy.typing import NDArray

from loadtest.assignment import Assignment, arrival_times
from loadtest.calls import Call, judge, read_calls
from loadtest.samples import FAILED, TIMEOUT, Recorder

# Arrivals closer together than this are sent in one go: each wake-up costs a hand-over of the
# interpreter. It is the most that this alone makes a request late.
_TICK_S = 0.0002
_SWEEP_S = 0.05


@dataclass(slots=True)
class _Shot:
    call: int
    intended_at: float
    late_s: float


class _Connection(asyncio.Protocol):
    """One keep-alive connection; one request is out on it at a time."""

    def __init__(self, sender: "Sender") -> None:
        self._sender = sender
        self._parser = httptools.HttpResponseParser(self)
        self._headers: dict[str, str] = {}
        self._body: list[bytes] = []
        self.keeps = True
        self.shot: _Shot | None = None
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]
        self._sender.idle(self)

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._sender.give_up(self, FAILED, f"no HTTP: {error}")

    def connection_lost(self, exc: Exception | None) -> None:
        why = f"connection closed: {exc}" if exc else "connection closed"
        self._sender.give_up(self, FAILED, why)
        self._sender.lost(self)

    def send(self, shot: _Shot, request: bytes) -> None:
        self.shot = shot
        assert self.transport is not None, "sent before it was connected; this is a bug"
        self.transport.write(request)

    def on_headers_complete(self) -> None:
        self.keeps = self._parser.should_keep_alive()

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_body(self, body: bytes) -> None:
        self._body.append(body)

    def on_message_complete(self) -> None:
        status = self._parser.get_status_code()
        headers, self._headers = self._headers, {}
        body, self._body = b"".join(self._body), []
        self._sender.answered(self, status, headers, body)


class Sender:
    """Sends what an assignment says and records what comes back.

    Args:
        assignment: What to send.
        calls: Requests, sent in random order, or at the assignment's moments.
        start_at: Start of the load, seconds of ``time.monotonic``.
    """

    def __init__(self, assignment: Assignment, calls: list[Call], start_at: float) -> None:
        self._assignment = assignment
        self._start_at = start_at
        self._calls = calls
        parts = urlsplit(assignment.url)
        self._tls = ssl.create_default_context() if parts.scheme == "https" else None
        self._host, self._port = parts.hostname or "", parts.port or (443 if self._tls else 80)
        self._requests = [_request(call, parts.netloc, parts.path) for call in calls]
        self._recorder = Recorder()
        self._idle: list[_Connection] = []
        self._waiting: deque[_Shot] = deque()
        self._out: set[_Connection] = set()
        self._opened = 0
        self._unfinished = 0
        self._is_sending = True
        self._done = asyncio.Event()
        self._random = np.random.default_rng(assignment.seed + 1)
        self._loop: asyncio.AbstractEventLoop = asyncio.get_running_loop()
        self._connecting: set[asyncio.Task[None]] = set()
        self._due: NDArray[np.float64] = np.empty(0)
        self._next = 0

    async def run(self) -> None:
        """Send everything, wait for the last answers, write the samples."""
        assignment = self._assignment
        is_open = assignment.is_open
        if is_open:
            times = np.array([at_s for at_s, _ in assignment.moments])
            if not assignment.moments:
                times = arrival_times(assignment.steps, assignment.duration_s, assignment.seed)
            self._due = self._start_at + times
        users = int(assignment.steps[0][1])
        for _ in range(min(assignment.connections, 32) if is_open else users):
            self._connect()
        await asyncio.sleep(max(0.0, self._start_at - time.monotonic()))
        used_s = _cpu_s()
        sweeper = self._loop.create_task(self._sweep())
        if is_open:
            threading.Thread(target=self._pace, daemon=True).start()
        else:
            for _ in range(users):
                self._begin(time.monotonic(), 0.0)
            self._loop.call_later(assignment.duration_s, self._stop)
        await asyncio.sleep(max(0.0, self._start_at + assignment.duration_s - time.monotonic()))
        share = (_cpu_s() - used_s) / assignment.duration_s
        await self._done.wait()
        sweeper.cancel()
        self._recorder.write(Path(assignment.out), share)

    def _pace(self) -> None:
        """Wake the loop when arrivals are due; in a thread, as its own timers tick in whole ms."""
        due, position = self._due, 0
        while position < len(due):
            delay_s = due[position] - time.monotonic()
            time.sleep(max(delay_s, _TICK_S))
            position = int(np.searchsorted(due, time.monotonic(), "right"))
            self._loop.call_soon_threadsafe(self._send_due)
        self._loop.call_soon_threadsafe(self._stop)

    def _send_due(self) -> None:
        due, now = self._due, time.monotonic()
        while self._next < len(due) and due[self._next] <= now:
            intended_at, moments = float(due[self._next]), self._assignment.moments
            call = moments[self._next][1] if moments else None
            self._next += 1
            now = time.monotonic()
            self._begin(intended_at, now - intended_at, call)

    def _begin(self, intended_at: float, late_s: float, call: int | None = None) -> None:
        if call is None:
            call = int(self._random.integers(len(self._calls)))
        shot = _Shot(call, intended_at, late_s)
        self._unfinished += 1
        if self._idle:
            self._send(self._idle.pop(), shot)
            return
        self._waiting.append(shot)
        if self._opened < self._assignment.connections:
            self._connect()

    def _send(self, connection: _Connection, shot: _Shot) -> None:
        self._out.add(connection)
        connection.send(shot, self._requests[shot.call])

    def _connect(self) -> None:
        self._opened += 1
        task = self._loop.create_task(self._open())
        self._connecting.add(task)
        task.add_done_callback(self._connecting.discard)

    async def _open(self) -> None:
        try:
            await self._loop.create_connection(
                lambda: _Connection(self), self._host, self._port, ssl=self._tls
            )
        except OSError as error:
            self._opened -= 1
            if self._waiting:
                why = error.strerror or str(error)
                self._finish(self._waiting.popleft(), FAILED, f"no connection: {why}")

    def idle(self, connection: _Connection) -> None:
        """Use a connection on which nothing is out."""
        if self._waiting:
            self._send(connection, self._waiting.popleft())
        else:
            self._idle.append(connection)

    def answered(
        self, connection: _Connection, status: int, headers: dict[str, str], body: bytes
    ) -> None:
        """Record a whole answer."""
        shot, connection.shot = connection.shot, None
        self._out.discard(connection)
        if not connection.keeps and connection.transport is not None:
            connection.transport.close()
        elif shot is not None:
            self.idle(connection)
        if shot is None:
            return
        self._recorder.note_wait(headers)
        self._finish(shot, *judge(self._calls[shot.call], status, headers, body))

    def give_up(self, connection: _Connection, outcome: int, why: str) -> None:
        """Record that what is out on a connection gets no answer; the connection is cut."""
        shot, connection.shot = connection.shot, None
        self._out.discard(connection)
        if connection.transport is not None:
            connection.transport.abort()
        if shot is not None:
            self._finish(shot, outcome, why)

    def lost(self, connection: _Connection) -> None:
        """Note that a connection is closed; open another if one is needed."""
        if connection in self._idle:
            self._idle.remove(connection)
        self._opened -= 1
        if self._waiting and self._opened < self._assignment.connections:
            self._connect()

    def _finish(self, shot: _Shot, outcome: int, why: str = "") -> None:
        latency_s = time.monotonic() - shot.intended_at
        call = self._calls[shot.call]
        self._recorder.add(
            call.kind, call.rows, shot.intended_at - self._start_at, shot.late_s, latency_s, outcome
        )
        if why:
            self._recorder.causes[why] += 1
        self._unfinished -= 1
        if not self._is_sending:
            self._check_done()
        elif not self._assignment.is_open:
            self._begin(time.monotonic(), 0.0)

    def _stop(self) -> None:
        self._is_sending = False
        self._check_done()

    def _check_done(self) -> None:
        if not self._unfinished:
            self._done.set()

    async def _sweep(self) -> None:
        """Give up what takes too long: one look at all now and then, no timer a request."""
        while True:
            await asyncio.sleep(_SWEEP_S)
            oldest = time.monotonic() - self._assignment.timeout_s
            late = [c for c in self._out if c.shot is not None and c.shot.intended_at < oldest]
            for connection in late:
                self.give_up(connection, TIMEOUT, f"no answer in {self._assignment.timeout_s:g} s")
            while self._waiting and self._waiting[0].intended_at < oldest:
                shot = self._waiting.popleft()
                self._finish(shot, TIMEOUT, f"no connection in {self._assignment.timeout_s:g} s")


def _request(call: Call, host: str, prefix: str) -> bytes:
    """Return the bytes of a call, made once."""
    lines = [f"{call.method} {prefix.rstrip('/')}{call.path} HTTP/1.1", f"Host: {host}"]
    lines += [f"{name}: {value}" for name, value in call.headers]
    if call.body or call.method == "POST":
        lines.append(f"Content-Length: {len(call.body)}")
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + call.body


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


async def _main(assignment: Assignment) -> None:
    calls = read_calls(Path(assignment.calls))
    print("ready", flush=True)
    await Sender(assignment, calls, float(sys.stdin.readline())).run()


if __name__ == "__main__":
    sys.setswitchinterval(_TICK_S)
    uvloop.run(_main(Assignment.read(Path(sys.argv[1]))))
