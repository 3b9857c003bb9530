"""What a connection may cost, where a real client would take too long to show it."""

import asyncio
import time
from collections.abc import Iterator

import pytest
import uvicorn
from starlette.types import Receive, Scope, Send
from uvicorn.server import ServerState

from service.lane.connection import LaneProtocol
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


def test_closed_connection_that_cannot_be_flushed_is_cut(loop: asyncio.AbstractEventLoop) -> None:
    """Fewer unsent bytes than pause the writing, so nothing but the sweep notices."""
    lane = Lane(max_body_bytes=1, receive_timeout_s=1, keep_alive_s=5, drain_timeout_s=1)
    config = uvicorn.Config(application, log_config=None)
    transport = Unread()
    protocol = LaneProtocol(lane, config, ServerState(), {}, loop)
    protocol.connection_made(transport)
    now = time.monotonic()
    protocol.sweep(now + 4)
    assert transport.calls == []
    protocol.sweep(now + 6)
    assert transport.calls == ["close"]
    protocol.sweep(now + 7)
    assert transport.calls == ["close", "abort"]
