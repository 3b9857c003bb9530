"""A lane request in the shape of uvicorn's own cycle, so that both share one pipeline."""

import logging
from typing import Any

from service.errors import ServiceError
from service.exchange import Exchange, Handler

logger = logging.getLogger("foveal.lane")


class _NoEvent:
    """Stands where uvicorn's cycle has an asyncio.Event that an ASGI application waits on."""

    def set(self) -> None:
        """Nobody waits."""


class LaneExchange(Exchange):
    """An exchange that uvicorn's pipeline takes for one of its own cycles.

    Attributes:
        handler: Who answers.
        chunks: Body bytes as they arrived.
        expects_continue: Whether the client waits for ``100 Continue`` before it sends the body.
        is_started: Whether all earlier requests of the connection are answered.
        is_whole: Whether the body is complete.
    """

    expects_continue = False
    is_started = False
    is_whole = False
    message_event = _NoEvent()  # uvicorn sets it when the connection is lost

    def __init__(self, handler: Handler, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.handler = handler
        self.chunks: list[bytes] = []

    def advance(self, now: float) -> None:
        """Call the handler once this request is at the head of its connection and whole."""
        if not (self.is_started and self.is_whole) or self.response_complete:
            return
        self.body = self.chunks[0] if len(self.chunks) == 1 else b"".join(self.chunks)
        self.chunks = []
        self.received_at = now
        try:
            self.handler(self)
        except ServiceError as error:
            self.fail(error)
        except Exception:
            logger.exception("%s %s failed; this is a bug", self.method, self.path)
            self.fail(ServiceError("internal error; the server's log says more"))
