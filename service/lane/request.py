"""A lane request in the shape of uvicorn's own cycle: both share one pipeline."""

import logging
from io import BytesIO

from service.errors import ServiceError
from service.lane.bodies import Claim
from service.lane.exchange import Exchange, Handler, Header, Write

logger = logging.getLogger("foveal.lane")


class _NoEvent:
    """Takes the place of the asyncio.Event in uvicorn's cycle that an ASGI application waits on."""

    def set(self) -> None:
        """Do nothing: the lane does not wait for it."""


class LaneExchange(Exchange):
    """An exchange with the attributes of a cycle that uvicorn's pipeline reads.

    Attributes:
        handler: Answers the request.
        claim: The bytes that are counted for it, None for a small request.
        expects_continue: Whether the client waits for ``100 Continue`` before it sends the body.
        is_started: Whether all earlier requests of the connection are answered.
        is_whole: Whether the body is complete.
    """

    expects_continue = False
    is_started = False
    is_whole = False
    message_event = _NoEvent()  # uvicorn sets it when the connection is lost

    claim: Claim | None = None
    _pieces: BytesIO | None = None

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

    def add_body(self, piece: bytes) -> None:
        """Append body bytes: joined as they come, as objects of two bytes would take 50 each."""
        if self._pieces is not None:
            self._pieces.write(piece)
        elif self.body:
            self._pieces = BytesIO()
            self._pieces.write(self.body)
            self._pieces.write(piece)
        else:
            self.body = piece

    def refuse_with(self, error: ServiceError) -> None:
        """Answer with an error in its turn, whatever the handler would have done."""
        self.drop_body()

        def refuse(_exchange: Exchange) -> None:
            raise error

        self.handler = refuse

    def drop_body(self) -> None:
        """Free the body of a request that is refused, and what is counted for it."""
        self.body, self._pieces, self.claim = b"", None, None

    def advance(self, now: float) -> None:
        """Call the handler once this request is at the head of its connection and whole."""
        if not (self.is_started and self.is_whole) or self.response_complete:
            return
        if self._pieces is not None:
            self.body = self._pieces.getvalue()  # not a copy
            self._pieces = None
        self.received_at = now
        try:
            self.handler(self)
        except ServiceError as error:
            self.fail(error)
        except Exception:
            self.fail(ServiceError())
            logger.exception(
                "%s %s (id %s) failed; this is a bug", self.method, self.path, self.request_id
            )
