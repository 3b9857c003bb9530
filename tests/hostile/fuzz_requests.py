"""Fuzz a running service: mutated heads, forms, V2 over HTTP and over gRPC.

Run ``make fuzz``, or ``python -m tests.hostile.fuzz_requests --count 1000000``. It starts the
service itself. A failure is a status that blames the server, an answer later than ``DEADLINE_S``,
a connection that neither answers nor ends, a worker that ends, or memory that grows.

Requests are sent in windows: bodies are pipelined on one connection, mutated heads have a
connection each, gRPC's are calls at once on one channel.
"""

import argparse
import contextlib
import random
import re
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc

from tests.hostile.fuzz_report import Tally, report, row
from tests.hostile.mutate import mutate, mutate_json
from tests.hostile.requests import (
    binaries,
    binary,
    document,
    documents,
    form,
    forms,
    heads,
    messages,
)
from tests.server import RunningServer, free_port, running_server

ROOT = Path(__file__).resolve().parents[2]
DEADLINE_S = 30.0
WARM_UP = 5000  # requests before memory is read for the first time
CHECK_EVERY = 10_000
WINDOW = 30  # requests on their way; a connection reads 32 ahead
# 501 and 505 answer what a client asks of the protocol, RFC 9110, 15.6.2 and 15.6.6.
CLIENT_ERRORS = {501, 505}
SERVER_CODES = {"UNKNOWN", "INTERNAL", "UNAVAILABLE", "DATA_LOSS", "ABORTED", "CANCELLED"}
_LINES = rb"(?:[^\r]+\r\n)*"
ANSWER = re.compile(
    rb"HTTP/1\.1 (\d{3}) [^\r]*\r\n" + _LINES + rb"content-length: (\d+)\r\n" + _LINES + rb"\r\n"
)
STATUS_LINE = re.compile(rb"HTTP/1\.1 (\d{3}) [A-Z][A-Za-z -]+\r\n")
# What may come back: statuses, "closed" without one, or a code of gRPC.
ANSWERED = re.compile(r"closed|\d{3}(,\d{3})*|[A-Z_]+")

Answers = Iterator[tuple[str, float]]
"""For each request of a window, in order: what was answered, and after how many seconds."""


class Pipeline:
    """Sends whole requests ahead on one connection; a new one when the server closes it."""

    def __init__(self, server: RunningServer) -> None:
        self._address = ("127.0.0.1", server.port)
        self._stream: socket.socket | None = None
        self._unread = b""

    def ask(self, requests: list[bytes]) -> Answers:
        """Send some requests and read their answers."""
        rest = requests
        while rest:
            if self._stream is None:
                self._stream, self._unread = (
                    socket.create_connection(self._address, DEADLINE_S),
                    b"",
                )
            started = time.monotonic()
            with contextlib.suppress(
                ConnectionError
            ):  # closed meanwhile: its answers are read below
                self._stream.sendall(b"".join(rest))
            position = 0
            while self._stream is not None and position < len(rest):
                answer = self._answer()
                position += 1
                yield answer, time.monotonic() - started
            rest = rest[position:]

    def _answer(self) -> str:
        assert self._stream is not None
        while (found := ANSWER.match(self._unread)) is None:
            if (problem := self._read()) is not None:
                return problem
        end = found.end() + int(found[2])
        while len(self._unread) < end:
            if (problem := self._read()) is not None:
                return problem
        self._unread = self._unread[end:]
        if b"\r\nconnection: close\r\n" in found[0]:
            self.close()
        return found[1].decode()

    def _read(self) -> str | None:
        """Read on; return what went wrong."""
        assert self._stream is not None
        try:
            received = self._stream.recv(1 << 18)
        except OSError as error:
            received, problem = b"", repr(error)
        else:
            problem = f"no answer, but {self._unread[:80]!r}"
        self._unread += received
        if received:
            return None
        self.close()
        return problem

    def close(self) -> None:
        """Close the connection, if there is one."""
        if self._stream is not None:
            self._stream.close()
            self._stream = None


class Connections:
    """Sends each request over a connection of its own: what its head says may be anything."""

    def __init__(self, server: RunningServer) -> None:
        self._address = ("127.0.0.1", server.port)

    def ask(self, requests: list[bytes]) -> Answers:
        """Send some requests at once, and end what is sent; return the statuses of all answers."""
        streams = []
        started = time.monotonic()
        for request in requests:
            stream = socket.create_connection(self._address, DEADLINE_S)
            streams.append(stream)
            try:
                stream.sendall(request)
                stream.shutdown(socket.SHUT_WR)
            except OSError:  # refused and closed before it was sent
                pass
        for stream in streams:
            yield self._statuses(stream), time.monotonic() - started

    def _statuses(self, stream: socket.socket) -> str:
        received = b""
        with stream:
            try:
                while data := stream.recv(1 << 16):
                    received += data
            except ConnectionResetError:
                pass
            except TimeoutError as error:
                return repr(error)
        statuses = {found.decode() for found in STATUS_LINE.findall(received)}
        return ",".join(sorted(statuses)) or "closed"


class Calls:
    """Sends serialized messages, whatever they hold, as calls of ModelInfer."""

    def __init__(self, server: RunningServer) -> None:
        self._channel = grpc.insecure_channel(server.grpc_address)
        self._infer = self._channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")

    def ask(self, requests: list[bytes]) -> Answers:
        """Call with some messages at once."""
        started = time.monotonic()
        calls = [self._infer.future(request, timeout=DEADLINE_S) for request in requests]
        for call in calls:
            name: str = call.code().name  # waits
            yield name, time.monotonic() - started

    def close(self) -> None:
        """Close the channel."""
        self._channel.close()


def is_failure(answer: str) -> bool:
    """Return whether an answer blames the server, or is none."""
    if answer in SERVER_CODES or ANSWERED.fullmatch(answer) is None:
        return True
    statuses = [int(word) for word in answer.split(",") if word.isdigit()]
    return any(status >= 500 and status not in CLIENT_ERRORS for status in statuses)


class Kind:
    """One kind of requests.

    Args:
        seeds: What is mutated.
        ask: Sends a window of requests.
        request: Makes a request of a mutant.
    """

    def __init__(
        self,
        seeds: list[bytes],
        ask: Callable[[list[bytes]], Answers],
        request: Callable[[bytes], bytes] = bytes,
    ) -> None:
        self.seeds = seeds
        self.ask = ask
        self.request = request


def mutant(chance: random.Random, name: str, seeds: list[bytes]) -> bytes:
    """Return one mutant of a kind's seeds; half of JSON stays JSON."""
    seed, other = chance.choice(seeds), chance.choice(seeds)
    if name == "json" and chance.random() < 0.5:
        return mutate_json(chance, seed)
    return mutate(chance, seed, other)


def fuzz(name: str, kind: Kind, server: RunningServer, count: int, seed: int) -> Tally:
    """Send ``count`` mutated requests of one kind."""
    tally, began = Tally(name, len(kind.seeds)), time.monotonic()
    workers, check = server.workers(), Pipeline(server)
    warm_up, last = min(WARM_UP, count // 2), 0
    for start in range(0, count, WINDOW):
        numbers = range(start, min(start + WINDOW, count))
        chances = [random.Random(f"{seed}/{name}/{number}") for number in numbers]
        window = [kind.request(mutant(chance, name, kind.seeds)) for chance in chances]
        for number, (answer, spent_s) in zip(numbers, kind.ask(window), strict=True):
            tally.count += 1
            tally.answers[answer] += 1
            tally.slowest_ms = max(tally.slowest_ms, spent_s * 1e3)
            if is_failure(answer):
                tally.failures.append(f"{number}: {answer}")
            elif spent_s > DEADLINE_S:
                tally.failures.append(f"{number}: {answer} after {spent_s:.0f} s")
        if not tally.rss_before and tally.count >= warm_up:
            tally.rss_before = server.rss_mib()
        if tally.count - last >= CHECK_EVERY or tally.count == count:
            last = tally.count
            answers = [answer for answer, _ in check.ask([document(documents()[0])])]
            if answers != ["200"] or server.workers() != workers:
                tally.failures.append(f"{last}: a good request: {answers}, or a worker ended")
            if tally.has_failed_often:
                break
    tally.rss_after = server.rss_mib()
    tally.seconds = time.monotonic() - began
    tally.check_memory()
    return tally


def main() -> None:
    """Run the command line; the exit code is 1 after a failure."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--count", type=int, default=1_000_000, help="requests of each kind")
    parser.add_argument("--seed", type=int, default=0, help="first number of every request's seed")
    parser.add_argument("--kinds", default="head,form,json,binary,grpc", help="with commas")
    parser.add_argument("--json", type=Path, help="file for all figures and failures")
    given = parser.parse_args()
    tallies = []
    with (
        tempfile.TemporaryDirectory() as folder,
        running_server(
            ROOT / "models", Path(folder), grpc_port=free_port(), receive_timeout_s=5
        ) as server,
    ):
        pipeline = Pipeline(server)
        kinds = {
            "head": Kind(heads(), Connections(server).ask),
            "form": Kind(forms(), pipeline.ask, form),
            "json": Kind(documents(), pipeline.ask, document),
            "binary": Kind(binaries(), pipeline.ask, binary),
            "grpc": Kind(messages(), Calls(server).ask),
        }
        for name in given.kinds.split(","):
            tally = fuzz(name, kinds[name], server, given.count, given.seed)
            print("\n".join([*tally.failures[:20], row(tally)]), flush=True)
            tallies.append(tally)
    sys.exit(report("Requests through the real server", tallies, given.json))


if __name__ == "__main__":
    main()
