"""What a connection may cost, where a real client would take too long to show it."""

import asyncio
import time
from collections.abc import Iterator

import pytest
import uvicorn
from starlette.types import Receive, Scope, Send
from uvicorn.server import ServerState

from service.lane.connection import LaneProtocol
from service.lane.exchange import Exchange
from service.lane.intake import MAX_PIPELINE
from service.lane.lane import Lane


class Unread(asyncio.Transport):
    """A transport to a client that reads nothing: what is written stays, so a close never ends."""

    def __init__(self) -> None:
        super().__init__({"peername": ("127.0.0.1", 1), "sockname": ("127.0.0.1", 2)})
        self.calls: list[str] = []

    def get_write_buffer_size(self) -> int:
        return 5000

    def write(self, data: object) -> None:  # noqa: ARG002 - asyncio's signature
        self.calls.append("write")

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass

    def is_closing(self) -> bool:
        return "close" in self.calls

    def close(self) -> None:
        self.calls.append("close")

    def abort(self) -> None:
        self.calls.append("abort")


async def application(_scope: Scope, _receive: Receive, _send: Send) -> None:
    raise AssertionError("no request is sent")


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    loop = asyncio.new_event_loop()
    yield loop
    loop.close()


def connect(
    lane: Lane, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop
) -> LaneProtocol:
    config = uvicorn.Config(application, log_config=None)
    protocol = LaneProtocol(lane, config, ServerState(), {}, loop)
    protocol.connection_made(transport)
    return protocol


def test_closed_connection_that_cannot_be_flushed_is_cut(loop: asyncio.AbstractEventLoop) -> None:
    """Fewer unsent bytes than pause the writing, so nothing but the sweep notices."""
    lane = Lane(max_body_bytes=1, receive_timeout_s=1, keep_alive_s=5, drain_timeout_s=1)
    transport = Unread()
    protocol = connect(lane, transport, loop)
    now = time.monotonic()
    protocol.sweep(now + 4)
    assert transport.calls == []
    protocol.sweep(now + 6)
    assert transport.calls == ["close"]
    protocol.sweep(now + 7)
    assert transport.calls == ["close", "abort"]


@pytest.mark.parametrize("ahead", [0, MAX_PIPELINE + 1], ids=["answers-unread", "enough-ahead"])
def test_request_that_is_not_read_is_not_late(loop: asyncio.AbstractEventLoop, ahead: int) -> None:
    """The service stopped reading, so its time begins again when that goes on."""
    lane = Lane(max_body_bytes=9, receive_timeout_s=2, keep_alive_s=9, drain_timeout_s=1)
    held: list[Exchange] = []
    lane.route(lambda _path: held.append)
    protocol = connect(lane, Unread(), loop)
    whole = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\n1"
    for _ in range(ahead):
        protocol.data_received(whole)
    protocol.data_received(whole[:-1])
    now = time.monotonic()
    if not ahead:
        protocol.pause_writing()
    protocol.reception.since = now - 2  # it began long before the writing was paused
    protocol.sweep(now + 1)
    assert not protocol.reception.is_deaf
    if ahead:
        for i in range(2):
            held[i].respond(200, b"")
            loop.run_until_complete(asyncio.sleep(0))
    else:
        protocol.resume_writing()
    protocol.sweep(now + 2.5)
    assert not protocol.reception.is_deaf
    protocol.sweep(now + 3.5)
    assert protocol.reception.is_deaf
