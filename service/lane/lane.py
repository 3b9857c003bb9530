"""The fast lane of one process: what all its connections share.

It holds the routes that are answered before BentoML, the limits, one sweep a second instead of a
timer for each request, and a stop that lets a connection send the request that is already on its
way. The HTTP of a single connection is in ``connection``.
"""

import asyncio
import logging
import socket
import struct
import time
from collections.abc import Callable
from typing import Protocol

from service.inflight import Inflight
from service.lane.bodies import UNCOUNTED_BYTES, Bodies
from service.lane.exchange import Exchange, Handler, Header
from service.lane.heads import Heads
from service.lane.outbox import Outbox
from service.lane.request_ids import RequestIds, sent

logger = logging.getLogger("foveal.lane")

SWEEP_S = 1.0
# On stop, an open connection may still send the request that its client has already begun.
STOP_GRACE_S = 0.3


class Connection(Protocol):
    """What the lane needs of a connection."""

    transport: asyncio.Transport

    @property
    def is_idle(self) -> bool:
        """Whether every request that began to arrive is answered."""

    def sweep(self, now: float) -> None:
        """Close the connection if it idled, lingered or trickled too long."""


class Balance(Protocol):
    """What counts this process's connections, so that other processes take their share."""

    def opened(self, connections: int) -> None:
        """Count a new connection."""

    def closed(self, connections: int) -> None:
        """Count a connection that is gone."""

    def close(self) -> None:
        """Stop: the listening socket is closed."""


class Door(Protocol):
    """What every request passes first where access is restricted."""

    def guard(self, find: Callable[[bytes], Handler | None]) -> Callable[[bytes], Handler | None]:
        """Return a ``find`` whose handlers check a request once more, when it is whole."""

    def open(
        self, method: bytes, path: bytes, headers: list[Header], handler: Handler | None
    ) -> Handler | None:
        """Return what handles a request, from its head, or raise a ServiceError."""

    def lines(self, headers: list[Header]) -> bytes:
        """Return the header lines that every answer gets."""


class Lane:
    """What all connections of this process share.

    Args:
        max_body_bytes: Largest body of any request.
        receive_timeout_s: Time for a request to arrive whole.
        keep_alive_s: Idle connections are closed after this.
        drain_timeout_s: On stop, time for accepted requests to be answered.
        inflight: Bytes that requests may hold; None: without a limit.
        door: What every request passes first; None: nothing.

    Attributes:
        small_body_bytes: Largest body that is read without being counted.
        accepted: Number of connections so far.
        balance: Counts connections; None in the only process of a service.
        ids: Makes the ids of requests that have none.
    """

    def __init__(
        self,
        *,
        max_body_bytes: int,
        receive_timeout_s: float,
        keep_alive_s: float,
        drain_timeout_s: float,
        inflight: Inflight | None = None,
        door: Door | None = None,
    ) -> None:
        self.door = door
        self.max_body_bytes = max_body_bytes
        self.small_body_bytes = min(max_body_bytes, UNCOUNTED_BYTES)
        self.receive_timeout_s = receive_timeout_s
        self.keep_alive_s = keep_alive_s
        self.drain_timeout_s = drain_timeout_s
        self.connections: set[Connection] = set()
        self.accepted = 0
        self.balance: Balance | None = None
        self.bodies = Bodies(inflight or Inflight(1 << 62))
        self.heads = Heads()
        self.outbox = Outbox()
        self.ids = RequestIds()
        self.observers: list[Callable[[Exchange], None]] = []  # called with every answer
        self.is_draining = False
        self.on_drain: Callable[[], None] = lambda: None
        self._find: Callable[[bytes], Handler | None] = lambda _path: None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._is_sweeping = False

    def newcomers(self) -> int:
        """Return the number of connections so far, as the batcher asks for it."""
        return self.accepted

    def route(self, find: Callable[[bytes], Handler | None]) -> None:
        """Set what returns the handler of a raw path; None leaves the path to BentoML."""
        self._find = find if self.door is None else self.door.guard(find)

    def find(self, path: bytes) -> Handler | None:
        """Return the handler of a raw path, or None."""
        return self._find(path)

    def lines(self, headers: list[Header]) -> bytes:
        """Return the header lines that an answer of BentoML gets, as the lane's own have them.

        Args:
            headers: Of the request, names in lower case.
        """
        line = b"x-request-id: %b\r\n" % (sent(headers) or self.ids.make())
        return line if self.door is None else line + self.door.lines(headers)

    def observe(self, exchange: Exchange) -> None:
        """Show an answer to all observers; a bug in one of them costs no answer."""
        for observer in self.observers:
            try:
                observer(exchange)
            except Exception:
                logger.exception("observing an answer failed; this is a bug")

    def connected(self, connection: Connection, loop: asyncio.AbstractEventLoop) -> None:
        """Register a new connection, and start the sweep if it does not run."""
        self.connections.add(connection)
        self.accepted += 1
        if self.balance is not None:
            self.balance.opened(len(self.connections))
        self._loop = loop
        if not self._is_sweeping:
            self._is_sweeping = True
            self.bodies.run_on(loop)
            loop.call_later(SWEEP_S, self._sweep, loop)

    def disconnected(self, connection: Connection) -> None:
        """Forget a connection that is gone."""
        self.connections.discard(connection)
        if self.balance is not None:
            self.balance.closed(len(self.connections))

    def drain(self, loop: asyncio.AbstractEventLoop) -> None:
        """Stop: wait a moment for requests on their way, answer what was accepted, then close."""
        if self.is_draining:
            return
        self.is_draining = True
        if self.balance is not None:
            self.balance.close()
        self.on_drain()
        loop.call_later(STOP_GRACE_S, self._close_idle)
        loop.call_later(self.drain_timeout_s, self._close_all)

    def _close_idle(self) -> None:
        for connection in list(self.connections):
            if connection.is_idle:
                connection.transport.close()

    def _close_all(self) -> None:
        if self.connections:
            logger.error("%d connections cut: drain time-out", len(self.connections))
        for connection in list(self.connections):
            reset(connection.transport)

    def _sweep(self, loop: asyncio.AbstractEventLoop) -> None:
        now = time.monotonic()
        for connection in list(self.connections):
            connection.sweep(now)
        self.bodies.wake()  # pixels may have been given back
        self._is_sweeping = bool(self.connections)
        if self._is_sweeping:
            loop.call_later(SWEEP_S, self._sweep, loop)


def reset(transport: asyncio.Transport) -> None:
    """Reset a connection: what is not sent yet is dropped, and the kernel keeps none of it."""
    stream = transport.get_extra_info("socket")
    if stream is not None:
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()
