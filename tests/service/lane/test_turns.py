"""Nothing that a client sends keeps the loop from other connections for long."""

import time
from collections.abc import Callable

import pytest

from service.workers import memory
from tests.loop_watch import LONGEST_S, shortest_of
from tests.service.lane.test_heads import Sink, Wire

READ = 256_000  # uvloop's
HEAD = b"POST /lane HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"


class Counter(Sink):
    """A transport that keeps nothing: to join what is written would take longer than to make it."""

    def write(self, data: bytes) -> None:
        self.written = data[:8]


def longest_turn_s(data: bytes) -> float:
    """The longest of the turns that the loop spends on this, as read after read brings it.

    In seconds of this thread's processor time: tests may share the machine.
    """
    wire = Wire(remembers=True)
    wire.protocol.transport = wire.transport = Counter()  # type: ignore[assignment]
    wire.lane.max_body_bytes = 32 << 20
    longest = 0.0
    timed = wire.loop.call_soon

    def run(callback: object, *arguments: object) -> None:
        nonlocal longest
        started = time.thread_time()
        callback(*arguments)  # type: ignore[operator]
        longest = max(longest, time.thread_time() - started)

    def call_soon(callback: object, *arguments: object, **options: object) -> object:
        return timed(run, callback, *arguments, **options)  # type: ignore[arg-type]

    wire.loop.call_soon = call_soon  # type: ignore[method-assign,assignment]
    for start in range(0, len(data), READ):
        run(wire.protocol.data_received, data[start : start + READ])
        while wire.protocol._unread:
            wire.loop.call_soon(wire.loop.stop)
            wire.loop.run_forever()
    assert wire.transport.written or wire.seen or wire.protocol.reception.is_receiving
    wire.close()
    return longest


@pytest.mark.parametrize(
    "make",
    [
        lambda: b"GET /lane HTTP/1.1\r\nHost: a\r\n\r\n" * 20_000,
        lambda: HEAD + b"1\r\nx\r\n" * 100_000,
        lambda: HEAD + b"1;%s\r\nx\r\n" % (b"e" * 200) * 5_000,
        lambda: b"GET /lane HTTP/1.1\r\nHost: a\r\n" + b"a:\r\n" * 60_000,
        lambda: b"GET /lane%s HTTP/1.1\r\nHost: a\r\n\r\n" % (b"%41" * 20_000),
        lambda: (
            b"POST /lane HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % (32 << 20)
            + bytes(32 << 20)
        ),
        lambda: HEAD + b"%x\r\n" % (32 << 20) + bytes(32 << 20) + b"\r\n0\r\n\r\n",
    ],
    ids=["pipeline", "tiny-chunks", "extensions", "headers", "target", "body", "one-chunk"],
)
def test_no_input_holds_the_loop(make: Callable[[], bytes]) -> None:
    data = make()
    memory.return_large_blocks()  # as a worker does: a large body then grows without a copy
    assert shortest_of(8, lambda: longest_turn_s(data)) <= LONGEST_S


def test_a_read_in_turns_loses_nothing() -> None:
    wire = Wire(remembers=True)
    wire.send(b"GET /lane HTTP/1.1\r\nHost: a\r\n\r\n" * 8000)
    while wire.protocol._unread:
        wire.send(b"GET /lane HTTP/1.1\r\nHost: a\r\n\r\n")
    assert len(wire.seen) >= 8000
    assert wire.transport.written.count(b"HTTP/1.1 200 OK") == len(wire.seen)
    assert wire.transport.written.endswith(b"%d" % len(wire.seen))
    wire.close()
