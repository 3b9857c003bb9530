"""A known head skips the parser; handlers see what the parser would have shown them."""

import asyncio
from typing import Any

import pytest
import uvicorn
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.types import Receive, Scope, Send
from uvicorn.server import ServerState

from service.lane.connection import LaneProtocol
from service.lane.exchange import Exchange
from service.lane.heads import MAX_HEADS, Heads, frame
from service.lane.lane import Lane

MAX_BODY_BYTES = 64


class Sink:
    """A transport that keeps what is written."""

    def __init__(self) -> None:
        self.written = b""
        self.is_closed = False

    def get_extra_info(self, _name: str, default: Any = None) -> Any:
        return default

    def write(self, data: bytes) -> None:
        self.written += data

    def close(self) -> None:
        self.is_closed = True

    def is_closing(self) -> bool:
        return self.is_closed

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...


async def application(_scope: Scope, _receive: Receive, _send: Send) -> None:
    """Answer nothing: BentoML's side is not looked at here."""


CONFIG = uvicorn.Config(application, log_config=None)
CONFIG.load()


class Wire:
    """One connection to a lane whose handler writes down what it sees and answers with a count."""

    def __init__(self, *, remembers: bool) -> None:
        self.loop = asyncio.new_event_loop()
        self.seen: list[tuple[Any, ...]] = []
        self.lane = Lane(
            max_body_bytes=MAX_BODY_BYTES, receive_timeout_s=9, keep_alive_s=9, drain_timeout_s=9
        )
        self.lane.ids.prefix = b"id-"  # two lanes write the same bytes
        self.lane.route(lambda path: self.handle if path.startswith(b"/lane") else None)
        if not remembers:
            self.lane.heads.find = lambda _key: None  # type: ignore[method-assign,assignment]
        self.transport = Sink()
        self.protocol = LaneProtocol(self.lane, CONFIG, ServerState(), {}, self.loop)
        self.protocol.connection_made(self.transport)  # type: ignore[arg-type]

    def handle(self, exchange: Exchange) -> None:
        self.seen.append(
            (
                exchange.method,
                exchange.path,
                exchange.query,
                # A known head stands for requests of any length: that is the body's.
                [header for header in exchange.headers if header[0] != b"content-length"],
                exchange.body,
                exchange.content_type,
                exchange.deadline_ms,
                exchange.request_id,
                exchange.keep_alive,
            )
        )
        exchange.respond(200, b"%d" % len(self.seen))

    def send(self, data: bytes) -> None:
        if not self.transport.is_closed:
            self.protocol.data_received(data)
        self.loop.call_soon(self.loop.stop)
        self.loop.run_forever()

    def close(self) -> None:
        for task in asyncio.all_tasks(self.loop):
            task.cancel()
        self.loop.call_soon(self.loop.stop)
        self.loop.run_forever()
        self.loop.close()


LINES = st.sampled_from(
    [
        b"Host: b",
        b"Host:",
        b"hosT : a",
        b"Transfer-Encoding: gzip, chunked",
        b"Content-Type: image/png",
        b"content-type: text/plain",
        b"X-Request-Timeout-Ms: 5",
        b"Connection: close",
        b"Connection: keep-alive",
        b"Content-Encoding: gzip",
        b"Expect: 100-continue",
        b"X-Request-Id: 7",
        b"Upgrade: h2c",
        b"Connection: upgrade",
        b"Transfer-Encoding: chunked",
        b"Trailer: x",
        b"Content-Length: 3",
        b"X-Content-Length: 3",
        b"X: Content-Length: 3",
        b"content-length: 3",
        b"Accept: */*",
        b"Content-Length: +3",
        b"Content-Length: 0003",
        b"Content-Length: 3, 3",
        b"Content-Length:3",
    ]
)
LENGTHS = st.sampled_from(
    [b"0", b"1", b"3", b"5", b"64", b"65", b"-1", b"", b"1_0", b"007", b"9" * 10]
)


@st.composite
def requests(draw: st.DrawFn) -> bytes:
    method = draw(st.sampled_from([b"POST", b"POST", b"POST", b"GET", b"HEAD", b"PUT"]))
    target = draw(st.sampled_from([b"/lane", b"/lane?top=2", b"http://a/lane", b"/lane%20"]))
    version = draw(st.sampled_from([*[b"HTTP/1.1"] * 6, b"HTTP/1.0", b"HTTP/0.9", b"HTTP/2.0"]))
    lines = draw(st.lists(LINES, max_size=3))
    if draw(st.integers(0, 7)):
        lines.insert(draw(st.integers(0, len(lines))), b"Host: a")
    name = draw(st.sampled_from([b"Content-Length: ", b"content-length: ", b"Content-length: "]))
    if draw(st.integers(0, 4)):
        lines.insert(draw(st.integers(0, len(lines))), name + draw(LENGTHS))
    head = b"\r\n".join([b" ".join([method, target, version]), *lines, b"", b""])
    return head + b"b" * draw(st.sampled_from([0, 1, 3, 5, 64, 65]))


def assert_same(sent: list[bytes], times: int) -> None:
    """Send requests several times to a lane that remembers heads and to one that does not."""
    fast, slow = Wire(remembers=True), Wire(remembers=False)
    try:
        for data in sent * times:
            fast.send(data)
            slow.send(data)
            assert fast.seen == slow.seen
            assert fast.transport.written == slow.transport.written
            assert fast.transport.is_closed == slow.transport.is_closed
    finally:
        fast.close()
        slow.close()


SENT = st.lists(requests(), min_size=1, max_size=3)


@settings(max_examples=300, deadline=None)
@given(SENT, st.integers(2, 4))
def test_a_known_head_means_what_the_parser_says(sent: list[bytes], times: int) -> None:
    assert_same(sent, times)


@pytest.mark.thorough
@settings(max_examples=1500, deadline=None)
@given(SENT, st.integers(2, 4))
def test_known_heads_mean_what_the_parser_says(sent: list[bytes], times: int) -> None:
    assert_same(sent, times)


def test_a_known_head_tells_no_length_of_another_request() -> None:
    wire = Wire(remembers=True)
    for body in (b"", b"b", b"bb"):
        wire.send(
            b"POST /lane HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
        )
    assert len(wire.lane.heads) == 1
    assert [seen[4] for seen in wire.seen] == [b"", b"b", b"bb"]
    (head,) = wire.lane.heads._known.values()
    assert head.headers == [(b"host", b"a")]
    wire.close()


@pytest.mark.parametrize("decoy", [b"X: Content-Length: %d", b"X-Content-Length: %d"])
def test_only_the_header_itself_gives_the_length(decoy: bytes) -> None:
    fast, slow = Wire(remembers=True), Wire(remembers=False)
    lines = b"POST /lane HTTP/1.1\r\nHost: a\r\n" + decoy + b"\r\nContent-Length: 3\r\n\r\n%s"
    for data in (
        lines % (3, b"abc"),
        lines % (5, b"abcGE"),
        b"T /lane HTTP/1.1\r\nHost: a\r\n\r\n",
    ):
        fast.send(data)
        slow.send(data)
    assert [seen[4] for seen in fast.seen] == [b"abc", b"abc", b""]
    assert fast.seen == slow.seen
    assert fast.transport.written == slow.transport.written
    fast.close()
    slow.close()


def test_an_equal_head_is_not_parsed_again() -> None:
    wire = Wire(remembers=True)
    request = b"POST /lane HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n%s"
    wire.send(request % (3, b"abc"))

    def fail(_data: bytes) -> None:
        raise AssertionError("parsed")

    class Parser:
        feed_data = staticmethod(fail)

    wire.protocol.parser = Parser()  # type: ignore[assignment]
    wire.send(request % (5, b"12345"))
    assert [seen[4] for seen in wire.seen] == [b"abc", b"12345"]
    wire.close()


def test_a_known_head_with_too_large_a_body_is_refused() -> None:
    wire = Wire(remembers=True)
    request = b"POST /lane HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n%s"
    wire.send(request % (3, b"abc"))
    wire.send(request % (MAX_BODY_BYTES + 1, b"a" * (MAX_BODY_BYTES + 1)))
    assert len(wire.seen) == 1
    assert b"HTTP/1.1 413" in wire.transport.written
    wire.close()


def test_varied_heads_do_not_fill_the_memory() -> None:
    heads = Heads()
    headers = [(b"content-length", b"1")]
    for i in range(3 * MAX_HEADS):
        framed = frame(b"POST /%d HTTP/1.1\r\nContent-Length: 1\r\n\r\n1" % i)
        assert framed is not None
        heads.learn(framed[0], Exchange("POST", b"/", b"", headers, lambda *_: None))
    assert 0 < len(heads) <= MAX_HEADS
