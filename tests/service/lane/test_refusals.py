"""What a refusal costs: one write of few bytes, no JSON library, and the connection stays."""

import asyncio
import sys
from types import FrameType
from typing import Any

import uvicorn
from starlette.types import Receive, Scope, Send
from uvicorn.server import ServerState

from service.errors import QueueFullError
from service.lane.connection import LaneProtocol
from service.lane.exchange import Exchange
from service.lane.lane import Lane

REQUEST = b"POST /lane HTTP/1.1\r\nHost: test\r\nContent-Length: 4\r\n\r\nbody"
MESSAGE = "queue: expected a wait of at most 1000 ms, got more"


class Sink:
    """A transport that keeps each write."""

    def __init__(self) -> None:
        self.writes: list[bytes] = []
        self.is_closed = False

    def get_extra_info(self, _name: str, default: Any = None) -> Any:
        return default

    def write(self, data: bytes) -> None:
        self.writes.append(data)

    def close(self) -> None:
        self.is_closed = True

    def is_closing(self) -> bool:
        return self.is_closed


async def application(_scope: Scope, _receive: Receive, _send: Send) -> None:
    """Answer nothing: BentoML's side is not looked at here."""


def refuse(_exchange: Exchange) -> None:
    raise QueueFullError(MESSAGE, 2)


def test_a_refusal_is_one_write_without_json_and_keeps_the_connection() -> None:
    loop = asyncio.new_event_loop()
    lane = Lane(max_body_bytes=64, receive_timeout_s=9, keep_alive_s=9, drain_timeout_s=9)
    lane.route(lambda _path: refuse)
    lane.ids.prefix = b"id-"
    config = uvicorn.Config(application, log_config=None)
    config.load()
    transport = Sink()
    protocol = LaneProtocol(lane, config, ServerState(), {}, loop)
    protocol.connection_made(transport)  # type: ignore[arg-type]
    protocol.data_received(REQUEST)
    called: list[str] = []

    def note(frame: FrameType, event: str, _argument: Any) -> None:
        if event == "call":
            called.append(frame.f_code.co_filename)

    sys.setprofile(note)
    protocol.data_received(REQUEST)
    sys.setprofile(None)
    assert not transport.is_closed
    protocol.connection_lost(None)
    loop.close()
    body = b'{"error":"%s"}' % MESSAGE.encode()
    assert transport.writes == [
        b"HTTP/1.1 429 Too Many Requests\r\nx-request-id: id-%d\r\n"
        b"content-type: application/json\r\ncontent-length: %d\r\nretry-after: 2\r\n\r\n%s"
        % (number, len(body), body)
        for number in (1, 2)
    ]
    assert not [name for name in called if "json" in name]
    assert len(called) < 25, called
