"""A lane request in the shape of uvicorn's own cycle: both share one pipeline."""

import logging

from service.errors import ServiceError
from service.lane.exchange import Exchange, Handler, Header, Write

logger = logging.getLogger("foveal.lane")


class _NoEvent:
    """Takes the place of the asyncio.Event in uvicorn's cycle that an ASGI application waits on."""

    def set(self) -> None:
        """Do nothing: the lane does not wait for it."""


_NONE: list[bytes] = []  # shared, never appended to


class LaneExchange(Exchange):
    """An exchange with the attributes of a cycle that uvicorn's pipeline reads.

    Attributes:
        handler: Answers the request.
        chunks: Body bytes as they arrived.
        expects_continue: Whether the client waits for ``100 Continue`` before it sends the body.
        is_started: Whether all earlier requests of the connection are answered.
        is_whole: Whether the body is complete.
    """

    expects_continue = False
    is_started = False
    is_whole = False
    message_event = _NoEvent()  # uvicorn sets it when the connection is lost

    chunks: list[bytes] = _NONE

    def __init__(  # repeats the base class's lines: a call of it would cost every request
        self,
        handler: Handler,
        method: str,
        path: bytes,
        query: bytes,
        headers: list[Header],
        write: Write,
    ) -> None:
        self.handler = handler
        self.method = method
        self.path = path
        self.query = query
        self.headers = headers
        self._write = write

    def advance(self, now: float) -> None:
        """Call the handler once this request is at the head of its connection and whole."""
        if not (self.is_started and self.is_whole) or self.response_complete:
            return
        if self.chunks:
            self.body = self.chunks[0] if len(self.chunks) == 1 else b"".join(self.chunks)
            self.chunks = _NONE
        self.received_at = now
        try:
            self.handler(self)
        except ServiceError as error:
            self.fail(error)
        except Exception:
            logger.exception("%s %s failed; this is a bug", self.method, self.path)
            self.fail(ServiceError("internal error; see the server's log"))
