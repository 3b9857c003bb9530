"""A connection with a door: what ``connection`` does, behind keys and cross-origin rules.

A class of its own, chosen when the server is configured: without a door no request pays for it.
"""

from typing import Any

from service.errors import ServiceError
from service.lane.connection import LaneProtocol
from service.lane.exchange import Exchange, Handler
from service.lane.lane import Door


class GuardedProtocol(LaneProtocol):
    """One connection of a lane that has a door."""

    def __init__(self, door: Door, *arguments: Any, **options: Any) -> None:
        self._door = door
        self._refusal: ServiceError | None = None
        super().__init__(*arguments, **options)

    def on_headers_complete(self) -> None:
        """Refuse a request by its head: no byte of its body is kept, and the connection closes."""
        self._refusal = None
        super().on_headers_complete()
        if self._refusal is not None:
            self.reception.stop(self._refusal)

    def find(self, path: bytes) -> Handler | None:
        """Return what handles the request whose head is complete."""
        reception = self.reception
        handler = super().find(path)
        try:
            return self._door.open(self.parser.get_method(), path, reception.headers, handler)
        except ServiceError as error:
            self._refusal = error
            reception.expects_continue = False
            return _refused

    def _write(
        self, exchange: Exchange, status: int, body: bytes, content_type: bytes, extra: bytes
    ) -> None:
        lines = self._door.lines(exchange.headers or self.reception.headers)
        super()._write(exchange, status, body, content_type, extra + lines)


def _refused(_exchange: Exchange) -> None:
    """Stand for the handler of a request that is refused before it is whole."""
