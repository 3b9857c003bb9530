"""The fast lane: an HTTP protocol under uvicorn that answers prediction routes before BentoML.

Sits at the parser's callbacks: a request for a lane route never becomes an ASGI scope, task or
event; every other request takes uvicorn's own methods to BentoML, untouched. Both share one
connection's pipeline, so answers keep the order of the requests whoever gives them.

    bytes -> httptools -> LaneProtocol -- lane route --> Exchange -> handler -> respond
                                       -- any other --> uvicorn's RequestResponseCycle -> BentoML

What it adds to uvicorn for both kinds: limits on headers and bodies before they are buffered, a
time-out for requests that trickle in, one coarse sweep a second instead of a timer a request, and a
stop that lets a connection send the request that is already on its way.

Leans on names inside uvicorn's HttpToolsProtocol; tests/service/test_uvicorn.py lists them.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Any

import uvicorn.config
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from service.errors import (
    ClientError,
    HeadersTooLargeError,
    NotReadyError,
    RequestTimeoutError,
    ServiceError,
    TooLargeError,
)
from service.exchange import Exchange, Handler, Header

logger = logging.getLogger("foveal.lane")

# Request line and headers of one request; nginx and Node.js read 8 to 32 KiB, cookies need some.
MAX_HEAD_BYTES = 64 << 10
SWEEP_S = 1.0
# After a refusal, unread bytes are thrown away for this long before the connection is closed, so
# that the client reads the answer and not a reset (RFC 9112, 9.6).
LINGER_S = 2.0
# On stop, an open connection may still send the request that its client has already begun.
STOP_GRACE_S = 0.3


class _NoEvent:
    """Stands where uvicorn's cycle has an asyncio.Event that an ASGI application waits on."""

    def set(self) -> None:
        """Nobody waits."""


class LaneExchange(Exchange):
    """An exchange that uvicorn's pipeline takes for one of its own cycles.

    Attributes:
        handler: Who answers.
        chunks: Body bytes as they arrived.
        size: Their sum.
        is_started: Whether all earlier requests of the connection are answered.
        is_whole: Whether the body is complete.
    """

    __slots__ = ("chunks", "handler", "is_started", "is_whole", "message_event", "size")

    def __init__(self, handler: Handler, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.handler = handler
        self.chunks: list[bytes] = []
        self.size = 0
        self.is_started = False
        self.is_whole = False
        self.message_event = _NoEvent()

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


class Lane:
    """What all connections of this process share.

    Args:
        max_body_bytes: Largest body of any request.
        receive_timeout_s: Time for a request to arrive whole.
        keep_alive_s: Idle connections are closed after this.
        drain_timeout_s: On stop, accepted requests are waited for this long.
    """

    def __init__(
        self, *, max_body_bytes: int, receive_timeout_s: float, keep_alive_s: float,
        drain_timeout_s: float,
    ) -> None:  # fmt: skip
        self.max_body_bytes = max_body_bytes
        self.receive_timeout_s = receive_timeout_s
        self.keep_alive_s = keep_alive_s
        self.drain_timeout_s = drain_timeout_s
        self.connections: set[LaneProtocol] = set()
        self.is_draining = False
        self.on_drain: Callable[[], None] = lambda: None
        self._find: Callable[[bytes], Handler | None] = lambda _path: None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._is_sweeping = False

    def install(self) -> None:
        """Make uvicorn use this lane for every connection of a server that is configured later."""
        lane = self

        class Bound(LaneProtocol):
            """A connection of this lane."""

            def __init__(self, *arguments: Any, **options: Any) -> None:
                super().__init__(lane, *arguments, **options)

        uvicorn.config.HTTP_PROTOCOLS["auto"] = Bound  # type: ignore[assignment]

    def route(self, find: Callable[[bytes], Handler | None]) -> None:
        """Set who answers which raw path; None leaves a path to BentoML."""
        self._find = find

    def find(self, path: bytes) -> Handler | None:
        """Return the handler of a raw path, or None."""
        return self._find(path)

    def connected(self, protocol: "LaneProtocol", loop: asyncio.AbstractEventLoop) -> None:
        """Note a new connection and see to it that the sweep runs."""
        self.connections.add(protocol)
        self._loop = loop
        if not self._is_sweeping:
            self._is_sweeping = True
            loop.call_later(SWEEP_S, self._sweep, loop)

    def drain(self, loop: asyncio.AbstractEventLoop) -> None:
        """Stop: give open connections a moment, answer what was accepted, then close."""
        if self.is_draining:
            return
        self.is_draining = True
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
            connection.transport.abort()

    def _sweep(self, loop: asyncio.AbstractEventLoop) -> None:
        now = time.monotonic()
        for connection in list(self.connections):
            connection.sweep(now)
        self._is_sweeping = bool(self.connections)
        if self._is_sweeping:
            loop.call_later(SWEEP_S, self._sweep, loop)


class LaneProtocol(HttpToolsProtocol):
    """One connection; see the module's text for what it does differently from uvicorn."""

    def __init__(self, lane: Lane, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.lane = lane
        self.url = b""
        self.headers = []
        self._head_bytes = 0
        self._refusal: ServiceError | None = None
        self._is_deaf = False  # what arrives is thrown away: the last answer is given or refused
        self._is_receiving = False
        self._since = time.monotonic()
        self._date_headers: list[Header] | None = None
        self._date_lines = b""

    @property
    def is_idle(self) -> bool:
        """Whether every request that began to arrive is answered."""
        is_answered = self.cycle is None or self.cycle.response_complete
        return is_answered and not self.pipeline and not self._is_receiving

    # -- the connection

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Count the connection."""
        super().connection_made(transport)
        self.lane.connected(self, self.loop)

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell whoever works for this client that it left."""
        self.lane.connections.discard(self)
        waiting = [cycle for cycle, _ in self.pipeline]
        for cycle in (self.cycle, *waiting):
            if isinstance(cycle, LaneExchange) and not cycle.response_complete:
                cycle.disconnect()
        self.pipeline.clear()
        super().connection_lost(exc)

    def shutdown(self) -> None:
        """Stop gracefully: uvicorn calls this on every open connection."""
        self.lane.drain(self.loop)
        if self.cycle is not None:
            self.cycle.keep_alive = False

    def pause_writing(self) -> None:
        """Read no more from a client that does not read its answers."""
        super().pause_writing()
        self.flow.pause_reading()

    def resume_writing(self) -> None:
        """Read on."""
        super().resume_writing()
        if not self.pipeline:
            self.flow.resume_reading()

    def sweep(self, now: float) -> None:
        """Close what idled, lingered or trickled too long; called about once a second."""
        waited_s = now - self._since
        if self._is_receiving and not self._is_deaf:
            if waited_s > self.lane.receive_timeout_s:
                self._refuse(
                    RequestTimeoutError(
                        f"request: expected to arrive whole within {self.lane.receive_timeout_s} s"
                    )
                )
        elif self.is_idle and waited_s > (LINGER_S if self._is_deaf else self.lane.keep_alive_s):
            self.transport.close()

    # -- the parser's callbacks

    def data_received(self, data: bytes) -> None:
        """Feed the parser, unless the connection is on its way out."""
        if not self._is_deaf:
            super().data_received(data)

    def on_message_begin(self) -> None:
        """Start a request; uvicorn's scope is made only if the request turns out to be its own."""
        self.url = b""
        self.headers = []
        self.expect_100_continue = False
        self._head_bytes = 0
        self._is_receiving = True
        self._since = time.monotonic()

    def on_url(self, url: bytes) -> None:
        """Collect the target, within the limit."""
        self._count_head(len(url))
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """Collect a header, within the limit."""
        self._count_head(len(name) + len(value))
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Decide whose request this is."""
        path, _, query = self.url.partition(b"?")
        handler = self.lane.find(path)
        if handler is None or (self.parser.should_upgrade() and self._should_upgrade()):
            url, headers, expects = self.url, self.headers, self.expect_100_continue
            since = self._since
            super().on_message_begin()
            self.url, self.expect_100_continue = url, expects
            self.headers.extend(headers)
            self._since = since
            super().on_headers_complete()
            self._limit_declared_body()
            return
        exchange = LaneExchange(
            handler, self.parser.get_method().decode("ascii"), path, query, self.headers,
            self._write,
        )  # fmt: skip
        exchange.keep_alive = (
            self.parser.get_http_version() != "1.0" and self.parser.should_keep_alive()
        )
        self._enter(exchange)
        self._limit_declared_body()
        if self.expect_100_continue and exchange.is_started and not exchange.response_complete:
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, body: bytes) -> None:
        """Collect body bytes, within the limit."""
        cycle: Any = self.cycle
        if not isinstance(cycle, LaneExchange):
            super().on_body(body)
            return
        cycle.size += len(body)
        if cycle.size > self.lane.max_body_bytes:
            self._refuse_body(cycle.size)
        cycle.chunks.append(body)

    def on_message_complete(self) -> None:
        """Hand a whole request on."""
        self._is_receiving = False
        cycle: Any = self.cycle
        if not isinstance(cycle, LaneExchange):
            super().on_message_complete()
            return
        cycle.is_whole = True
        cycle.advance(time.monotonic())

    # -- the pipeline

    def _enter(self, exchange: LaneExchange) -> None:
        """Start an exchange, or queue it behind the request that is still being answered."""
        previous, self.cycle = self.cycle, exchange  # type: ignore[assignment]  # made to fit
        if previous is None or previous.response_complete:
            exchange.is_started = True
        else:
            self.flow.pause_reading()
            self.pipeline.appendleft((exchange, self.app))  # type: ignore[arg-type]

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:
        """Start the next request of the pipeline, a lane's or an application's."""
        if isinstance(cycle, LaneExchange):
            cycle.is_started = True
            cycle.advance(time.monotonic())
        else:
            super()._start_asgi_task(cycle, app)

    def on_response_complete(self) -> None:
        """Go on to the next request of the pipeline, or idle until the sweep."""
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        if not self.flow.write_paused:
            self.flow.resume_reading()
        if self.pipeline:
            # Not called from here: a long pipeline would become as deep a stack.
            self.loop.call_soon(self._start_next)
        elif not self._is_receiving:
            self._since = time.monotonic()
            if self.lane.is_draining:
                self.transport.close()

    def _start_next(self) -> None:
        if self.pipeline and not self.transport.is_closing():
            self._start_asgi_task(*self.pipeline.pop())

    # -- answers

    def _write(
        self, exchange: Exchange, status: int, body: bytes, content_type: bytes, extra: bytes
    ) -> None:
        if self._date_headers is not self.server_state.default_headers:
            self._date_headers = self.server_state.default_headers
            self._date_lines = b"".join(b"%s: %s\r\n" % header for header in self._date_headers)
        closes = not exchange.keep_alive or (self.lane.is_draining and not self.pipeline)
        head = b"%s%scontent-type: %s\r\ncontent-length: %d\r\n%s%s\r\n" % (
            STATUS_LINE[status], self._date_lines, content_type, len(body), extra,
            b"connection: close\r\n" if closes else b"",
        )  # fmt: skip
        self.transport.write(head if exchange.method == "HEAD" else head + body)
        if closes and not self._is_deaf:
            self.transport.close()
        self.on_response_complete()

    # -- refusals

    def _count_head(self, size: int) -> None:
        self._head_bytes += size
        if self._head_bytes > MAX_HEAD_BYTES:
            self._refusal = HeadersTooLargeError(
                f"request line and headers: expected at most {MAX_HEAD_BYTES} bytes"
            )
            raise ValueError(self._refusal.message)  # httptools turns it into HttpParserError

    def _limit_declared_body(self) -> None:
        for name, value in self.headers:
            if name == b"content-length" and int(value) > self.lane.max_body_bytes:
                self._refuse_body(int(value))

    def _refuse_body(self, size: int) -> None:
        self._refusal = TooLargeError(
            f"body: expected at most {self.lane.max_body_bytes} bytes, got {size}; "
            "send less or raise FOVEAL_MAX_BODY_BYTES"
        )
        raise ValueError(self._refusal.message)

    def send_400_response(self, msg: str) -> None:
        """Answer what the parser or a limit refused, in the one error shape, then close."""
        error = self._refusal or ClientError(f"request: {msg}")
        self._refusal = None
        self._refuse(error)

    def _refuse(self, error: ServiceError) -> None:
        """Answer the request that is arriving with an error, in its turn, and hear no more.

        The connection lingers, throwing away what still comes, until its client closes it or the
        sweep does: a close with unread bytes would reset it and take the answer along.
        """
        self._is_deaf = True
        self._is_receiving = False
        self._since = time.monotonic()

        def refuse(_exchange: Exchange) -> None:
            raise error

        cycle: Any = self.cycle
        if isinstance(cycle, LaneExchange) and not cycle.is_whole:
            cycle.handler = refuse
        else:
            if cycle is not None and not isinstance(cycle, LaneExchange) and cycle.more_body:
                # BentoML waits for a body that will not come; it is told that the client left.
                cycle.disconnected = cycle.response_complete = True
                cycle.message_event.set()
            cycle = LaneExchange(refuse, "", b"", b"", [], self._write)
            self._enter(cycle)
        cycle.keep_alive = False
        cycle.is_whole = True
        self.flow.resume_reading()
        cycle.advance(self._since)


def not_ready(_exchange: Exchange) -> None:
    """Answer lane routes before the models are loaded."""
    raise NotReadyError("not ready: models are still loading; retry")
