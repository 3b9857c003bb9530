"""One connection of the fast lane: an HTTP protocol under uvicorn that answers before BentoML.

Sits at the parser's callbacks: a request for a lane route never becomes an ASGI scope, task or
event; every other request takes uvicorn's own methods to BentoML, untouched. Both share one
connection's pipeline, so answers keep the order of the requests whoever gives them.

    bytes -> httptools -> LaneProtocol -- lane route --> Exchange -> handler -> respond
                                       -- any other --> uvicorn's RequestResponseCycle -> BentoML

What it adds to uvicorn for both kinds: limits on heads and bodies before they are buffered, and no
timer of its own: the lane's sweep cuts what trickles, idles or does not read.

Leans on names inside uvicorn's HttpToolsProtocol; tests/service/test_uvicorn.py lists them.
"""

import asyncio
import socket
import struct
import time
from typing import Any

import httptools
import uvicorn.config
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from service.cycle import LaneExchange
from service.errors import (
    ClientError,
    HeadersTooLargeError,
    RequestTimeoutError,
    ServiceError,
    TooLargeError,
)
from service.exchange import Exchange, Header
from service.lane import Lane

# Request line and headers of one request; nginx and Node.js read 8 to 32 KiB, cookies need some.
MAX_HEAD_BYTES = 64 << 10
# After a refusal, unread bytes are thrown away for this long before the connection is closed, so
# that the client reads the answer and not a reset (RFC 9112, 9.6).
LINGER_S = 2.0
# Requests that a client may send ahead before it is read no further.
MAX_PIPELINE = 32


class LaneProtocol(HttpToolsProtocol):
    """One connection; see the module's text for what it does differently from uvicorn."""

    def __init__(self, lane: Lane, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.lane = lane
        self.url = b""
        self.headers = []
        self._is_answering = False  # whether a request has its turn and no answer yet
        self._started: LaneExchange | None = None  # whose turn it is, if it is the lane's
        self._head_bytes = self._fed_head_bytes = self._body_bytes = self._declared_bytes = 0
        self._is_in_head = False
        self._passed_over_bytes = 0  # of a body that the parser takes for another protocol's
        self._stalled_at: float | None = None  # since when the client does not read its answers
        self._refusal: ServiceError | None = None
        self._is_deaf = False  # what arrives is thrown away: the last answer is given or refused
        self._is_receiving = False
        self._since = time.monotonic()
        self._give = self._write
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
        for cycle in (self._started, self.cycle, *waiting):
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
        self._stalled_at = time.monotonic()

    def resume_writing(self) -> None:
        """Read on."""
        super().resume_writing()
        self._stalled_at = None
        self._resume_reading()
        self._start_next()

    def cut(self) -> None:
        """Reset the connection: what is not sent yet is dropped, the kernel keeps none of it."""
        stream = self.transport.get_extra_info("socket")
        if stream is not None:
            stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.transport.abort()

    def sweep(self, now: float) -> None:
        """Close what idled, lingered or trickled too long; called about once a second."""
        waited_s = now - self._since
        if self._stalled_at is not None and now - self._stalled_at > self.lane.receive_timeout_s:
            self.cut()
        elif self._is_receiving and not self._is_deaf:
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
        while data and not self._is_deaf:
            if self._passed_over_bytes:
                data = self._take_passed_over(data)
                continue
            is_head_alone = self._is_in_head or not self._is_receiving
            try:
                self.parser.feed_data(data)
                rest = b""
            except httptools.HttpParserUpgrade as upgrade:
                rest = data[upgrade.args[0] :]
            except httptools.HttpParserError:
                self.send_400_response("expected HTTP/1.1")
                return
            if self._is_in_head and is_head_alone:
                # The parser keeps a header to itself until it is whole; count what it was fed.
                self._fed_head_bytes += len(data)
                if self._fed_head_bytes > MAX_HEAD_BYTES:
                    self._refuse(self._head_too_large())
            data = rest

    def _should_upgrade_to_ws(self) -> bool:
        """Never: nothing here speaks WebSocket, a request to upgrade is answered as HTTP/1.1."""
        return False

    def _take_passed_over(self, data: bytes) -> bytes:
        """Take body bytes that follow an Upgrade header, where the parser no longer looks.

        ``curl --http2`` and Java's client ask for h2c on their first request, with a body.
        """
        body, rest = data[: self._passed_over_bytes], data[self._passed_over_bytes :]
        self._passed_over_bytes -= len(body)
        self.on_body(body)
        if not self._passed_over_bytes:
            self._complete()
        return rest

    def on_message_begin(self) -> None:
        """Start a request; uvicorn's scope is made only if the request turns out to be its own."""
        self.url = b""
        self.headers = []
        self.expect_100_continue = False
        self._head_bytes = self._fed_head_bytes = self._body_bytes = self._declared_bytes = 0
        self._is_in_head = True
        self._is_receiving = True
        self._since = time.monotonic()

    def on_url(self, url: bytes) -> None:
        """Collect the target, within the limit."""
        self._head_bytes += len(url)
        if self._head_bytes > MAX_HEAD_BYTES:
            self._refuse_head()
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """Collect a header, within the limit; trailers count but mean nothing here."""
        self._head_bytes += len(name) + len(value)
        if self._head_bytes > MAX_HEAD_BYTES:
            self._refuse_head()
        if not self._is_in_head:
            return
        name = name.lower()
        if name == b"content-length":
            self._declared_bytes = int(value)
        elif name == b"expect":
            self.expect_100_continue = value.lower() == b"100-continue"
        self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        """Decide whose request this is."""
        self._is_in_head = False
        path, _, query = self.url.partition(b"?")
        if not path.startswith(b"/"):  # absolute form, RFC 9112, 3.2.2
            path = httptools.parse_url(path).path or b"/"
        handler = self.lane.find(path)
        if handler is None:
            url, headers, expects = self.url, self.headers, self.expect_100_continue
            since = self._since
            super().on_message_begin()
            self.url, self.expect_100_continue = url, expects
            self.headers.extend(headers)
            self._since = since
            super().on_headers_complete()
            self._resume_reading()  # uvicorn pauses at the first pipelined request
            if self._declared_bytes > self.lane.max_body_bytes:
                self._refuse_body(self._declared_bytes)
            return
        parser = self.parser
        method = parser.get_method()
        exchange = LaneExchange(
            handler, "POST" if method == b"POST" else method.decode("ascii"), path, query,
            self.headers, self._give,
        )  # fmt: skip
        if not parser.should_keep_alive() or parser.get_http_version() == "1.0":
            exchange.keep_alive = False
        self._enter(exchange)
        if self._declared_bytes > self.lane.max_body_bytes:
            self._refuse_body(self._declared_bytes)
        if self.expect_100_continue:
            exchange.expects_continue = True
            if exchange.is_started:
                self._continue(exchange)

    def on_body(self, body: bytes) -> None:
        """Collect body bytes, within the limit."""
        self._body_bytes += len(body)
        if self._body_bytes > self.lane.max_body_bytes:
            self._refuse_body(self._body_bytes)
        cycle: Any = self.cycle
        if isinstance(cycle, LaneExchange):
            cycle.chunks.append(body)
        else:
            super().on_body(body)

    def on_message_complete(self) -> None:
        """Hand a whole request on, unless the parser has left its body aside."""
        if self.parser.should_upgrade():
            self._passed_over_bytes = self._declared_bytes
            if self._passed_over_bytes:
                return
        self._complete()

    def _complete(self) -> None:
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
            exchange.is_started = self._is_answering = True
            self._started = exchange
        else:
            self.pipeline.appendleft((exchange, self.app))  # type: ignore[arg-type]
            if len(self.pipeline) >= MAX_PIPELINE:
                self.flow.pause_reading()

    def _resume_reading(self) -> None:
        """Read on, unless the client has sent ahead enough or does not read its answers.

        Reading goes on behind a request that is being answered, as that is how a client that left
        is noticed.
        """
        if len(self.pipeline) < MAX_PIPELINE and not self.flow.write_paused:
            self.flow.resume_reading()

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:
        """Start the next request of the pipeline, a lane's or an application's."""
        self._is_answering = True
        if isinstance(cycle, LaneExchange):
            cycle.is_started = True
            self._started = cycle
            self._continue(cycle)
            cycle.advance(time.monotonic())
        else:
            self._started = None
            super()._start_asgi_task(cycle, app)

    def _continue(self, exchange: LaneExchange) -> None:
        """Ask for the body that the client holds back."""
        if exchange.expects_continue and not (exchange.is_whole or exchange.response_complete):
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_response_complete(self) -> None:
        """Go on to the next request of the pipeline, or idle until the sweep."""
        self._is_answering = False
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self._resume_reading()
        if self.pipeline:
            # Not called from here: a long pipeline would become as deep a stack.
            self.loop.call_soon(self._start_next)
        elif not self._is_receiving:
            self._since = time.monotonic()
            if self.lane.is_draining:
                self.transport.close()

    def _start_next(self) -> None:
        may_start = not (
            self._is_answering or self.flow.write_paused or self.transport.is_closing()
        )
        if self.pipeline and may_start:
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

    def _refuse_head(self) -> None:
        self._refusal = self._head_too_large()
        raise ValueError(self._refusal.message)  # httptools turns it into HttpParserError

    def _head_too_large(self) -> ServiceError:
        return HeadersTooLargeError(
            f"request line and headers: expected at most {MAX_HEAD_BYTES} bytes"
        )

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
            exchange = cycle
        else:
            exchange = LaneExchange(refuse, "", b"", b"", [], self._give)
            if cycle is None or isinstance(cycle, LaneExchange) or not cycle.more_body:
                self._enter(exchange)
            elif not self._replace(cycle, exchange):
                return
        exchange.keep_alive = False
        exchange.is_whole = True
        self.flow.resume_reading()
        exchange.advance(self._since)

    def _replace(self, cycle: Any, exchange: LaneExchange) -> bool:
        """Put an exchange in the place of BentoML's request, whose body will never be whole.

        Returns:
            Whether there is still an answer to give: BentoML may have begun its own.
        """
        self.cycle = exchange  # type: ignore[assignment]  # made to fit, as in _enter
        if self.pipeline and self.pipeline[0][0] is cycle:
            self.pipeline[0] = (exchange, self.app)  # type: ignore[assignment]
            return True
        cycle.disconnected = True
        cycle.message_event.set()
        exchange.is_started = True
        self._started = exchange
        if cycle.response_started:
            exchange.response_complete = True
            if not cycle.response_complete:
                self.transport.close()
        return not cycle.response_started


def install(lane: Lane) -> None:
    """Make uvicorn use this lane for every connection of a server that is configured later."""

    class Bound(LaneProtocol):
        """A connection of this lane."""

        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(lane, *arguments, **options)

    uvicorn.config.HTTP_PROTOCOLS["auto"] = Bound  # type: ignore[assignment]
