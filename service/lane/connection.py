"""One connection of the fast lane: an HTTP protocol under uvicorn that answers before BentoML.

Hooks the parser's callbacks: a request for a lane route never becomes an ASGI scope, task or event;
every other request takes uvicorn's own methods to BentoML, untouched. Both share the connection's
pipeline, so answers keep the order of the requests.

    bytes -> httptools -> LaneProtocol -- lane route --> Exchange -> handler -> respond
                                       -- any other --> uvicorn's RequestResponseCycle -> BentoML

``Intake`` feeds the parser, ``Reception`` sets the limits; this module knows whose a request is
and whose turn it is.
Leans on names inside uvicorn's HttpToolsProtocol; tests/service/lane/test_uvicorn.py lists them.
"""

import asyncio
import time
from typing import Any

import httptools
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol
from uvicorn.protocols.utils import get_local_addr, get_remote_addr, is_ssl

from service.errors import ServiceError
from service.lane.bodies import UNCOUNTED_BYTES, Claim
from service.lane.exchange import Exchange, Handler, Header
from service.lane.heads import frame
from service.lane.intake import MAX_PIPELINE, Intake
from service.lane.lane import Lane, reset
from service.lane.request import LaneExchange


class LaneProtocol(Intake):
    """One connection; the module's docstring lists how it differs from uvicorn's."""

    def __init__(self, lane: Lane, *arguments: Any, **options: Any) -> None:
        super().__init__(lane, *arguments, **options)
        self._is_answering = False  # whether a request has its turn and no answer yet
        self._started: Any = None  # whose turn it is: a LaneExchange, or uvicorn's cycle
        self._give = self._write
        self._date_headers: list[Header] | None = None
        self._date_lines = b""

    @property
    def is_idle(self) -> bool:
        """Whether every request that began to arrive is answered."""
        is_answered = self.cycle is None or self.cycle.response_complete
        return is_answered and not self.pipeline and not self.reception.is_receiving

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Count the connection; as uvicorn does, but without both addresses.

        They cost the kernel four calls, and only BentoML's requests need them.
        """
        self.connections.add(self)
        self.transport = transport
        self.flow = FlowControl(transport)
        self.scheme = "https" if is_ssl(transport) else "http"
        self.lane.connected(self, self.loop)

    def connection_lost(self, exc: Exception | None) -> None:
        """Cancel the work for this client, and leave no reference cycle to the collector."""
        self.lane.disconnected(self)
        self.lane.bodies.leave(self)
        waiting = [cycle for cycle, _ in self.pipeline]
        for cycle in (self._started, self.cycle, *waiting):
            if cycle is None or cycle.response_complete:
                continue
            if isinstance(cycle, LaneExchange):
                cycle.disconnect()
            else:  # uvicorn tells only the request that arrived last
                cycle.disconnected = True
                cycle.message_event.set()
        self.pipeline.clear()
        super().connection_lost(exc)
        self._unread = b""
        self._claim = self._started = self._parsed = None
        self.cycle = None  # type: ignore[assignment]  # as before the first request
        del self._give

    def shutdown(self) -> None:
        """Stop gracefully; uvicorn calls this on every open connection."""
        self.lane.drain(self.loop)
        if self.cycle is not None:
            self.cycle.keep_alive = False

    def sweep(self, now: float) -> None:
        """Close what idled, lingered or trickled too long; called about once a second."""
        reception = self.reception
        if reception.is_stalled(now):
            reset(self.transport)
        elif self._is_late(now):
            full = self.lane.bodies.full
            self.refuse(full() if reception.was_paused else reception.too_late())
        elif self.is_idle and reception.has_idled(now):
            if self.transport.is_closing():  # and has unsent bytes that its client does not read
                reset(self.transport)
            else:
                self.transport.close()

    def pause_writing(self) -> None:
        """Read no more from a client that does not read its answers."""
        super().pause_writing()
        self.flow.pause_reading()
        self.reception.stalled_at = time.monotonic()

    def resume_writing(self) -> None:
        """Continue to read, as the client reads its answers again."""
        super().resume_writing()
        self.reception.stalled_at = None
        self._resume_reading()
        self._start_next()

    def data_received(self, data: bytes) -> None:
        """Answer a whole request with a known head at once; feed anything else to the parser."""
        reception = self.reception
        if reception.is_receiving or reception.is_deaf or self._unread:
            self._feed(data)
            return
        if (framed := frame(data)) is None:
            self._feed(data)
            return
        key, head_bytes, body_bytes = framed
        lane = self.lane
        head = lane.heads.find(key)
        if head is None:
            self._feed(data, framed)
            return
        if body_bytes > lane.small_body_bytes:  # is counted
            self._feed(data, is_one=True)
            return
        path, query, headers, content_type, deadline_ms = head
        handler = lane.find(path)
        if handler is None:  # only routes of the lane are learned, but they may change
            self._feed(data)
            return
        exchange = LaneExchange(handler, "POST", path, query, headers, self._give)
        exchange.content_type = content_type
        if deadline_ms is not None:
            exchange.deadline_ms = deadline_ms
        exchange.body = data[head_bytes:]
        exchange.is_whole = True
        reception.since = now = time.monotonic()
        self._enter(exchange)
        exchange.advance(now)

    def _should_upgrade_to_ws(self) -> bool:
        """Never: nothing here speaks WebSocket, a request to upgrade is answered as HTTP/1.1."""
        return False

    def find(self, path: bytes) -> Handler | None:
        """Return what handles the request whose head is complete; None: BentoML."""
        return self.lane.find(path)

    def on_headers_complete(self) -> None:
        """Decide whose request this is."""
        reception = self.reception
        reception.is_in_head = False
        if not self._is_primed:
            return
        parser = self.parser
        version = parser.get_http_version()
        reception.check_head(version)
        path, _, query = reception.url.partition(b"?")
        if not path.startswith(b"/"):  # absolute form, RFC 9112, 3.2.2
            path = httptools.parse_url(path).path or b"/"
        handler = self.find(path)
        if handler is None:
            if self.server is None:
                self.server = get_local_addr(self.transport)
                self.client = get_remote_addr(self.transport)
            HttpToolsProtocol.on_message_begin(self)  # uvicorn's own: it makes the scope
            self.url = reception.url
            self.expect_100_continue = reception.expects_continue
            self.headers.extend(reception.headers)
            super().on_headers_complete()
            self._end_arrival()  # uvicorn pauses its body at 64 KiB
            self._resume_reading()  # uvicorn pauses at the first pipelined request
            reception.check_declared_body()
            return
        method = parser.get_method()
        exchange = LaneExchange(
            handler,
            "POST" if method == b"POST" else method.decode("ascii"),
            path,
            query,
            reception.headers,
            self._give,
        )
        exchange.content_type = reception.content_type
        exchange.content_coding = reception.content_coding
        exchange.deadline_ms = reception.deadline_ms
        if reception.request_id:
            exchange.request_id = reception.request_id
        if version == "1.0" or not parser.should_keep_alive():
            exchange.keep_alive = False
        self._enter(exchange)
        reception.check_declared_body()
        if reception.expects_continue:
            exchange.expects_continue = True
            if exchange.is_started:
                self._continue(exchange)

    def on_body(self, body: bytes) -> None:
        """Collect body bytes, within the limit."""
        self.reception.count_body(len(body))
        cycle: Any = self.cycle
        if isinstance(cycle, LaneExchange):
            cycle.add_body(body)
        else:
            super().on_body(body)

    def on_message_complete(self) -> None:
        """Hand on the request, unless its body follows where the parser does not read."""
        reception = self.reception
        if self.parser.should_upgrade() and (reception.declared_bytes or reception.is_chunked):
            self._is_upgrade = True
            return
        reception.is_receiving = False
        cycle: Any = self.cycle
        if not isinstance(cycle, LaneExchange):
            super().on_message_complete()
            self._end_arrival()
            return
        if self._claim is not None or (
            reception.body_bytes > UNCOUNTED_BYTES
            or (reception.body_bytes and not cycle.is_started)
        ):
            self._hold(cycle)
        cycle.is_whole = True
        self._parsed = cycle
        cycle.advance(time.monotonic())

    def _enter(self, exchange: LaneExchange) -> None:
        """Start an exchange, or queue it behind the request that is still being answered."""
        previous, self.cycle = self.cycle, exchange  # type: ignore[assignment]  # made to fit
        if previous is None or previous.response_complete:
            exchange.is_started = self._is_answering = True
            self._started = exchange
        else:
            self.pipeline.appendleft((exchange, self.app))  # type: ignore[arg-type]
            if exchange.body:
                exchange.claim = Claim(self.lane.bodies)
                exchange.claim.complete(len(exchange.body))
            if len(self.pipeline) >= MAX_PIPELINE:
                self.flow.pause_reading()

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:
        """Start the next request of the pipeline, a lane's or an application's."""
        self._is_answering = True
        self._started = cycle
        if isinstance(cycle, LaneExchange):
            cycle.is_started = True
            self._continue(cycle)
            cycle.advance(time.monotonic())
        else:
            super()._start_asgi_task(cycle, app)

    def _continue(self, exchange: LaneExchange) -> None:
        """Ask for the body that the client has not sent yet."""
        if exchange.expects_continue and not (exchange.is_whole or exchange.response_complete):
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_response_complete(self) -> None:
        """Go on to the next request of the pipeline, or idle until the sweep."""
        self._is_answering = False
        self._started = None
        cycle = self.cycle
        if cycle is not None and cycle.response_complete and not self.reception.is_receiving:
            self.cycle = None  # type: ignore[assignment]  # an idle connection holds no request
        self.server_state.total_requests += 1
        if self.flow.read_paused and not self.transport.is_closing():
            self._resume_reading()
        if self.pipeline:
            # Not called from here: a long pipeline would become as deep a stack.
            self.loop.call_soon(self._start_next)
        elif not self.reception.is_receiving:
            self.reception.since = time.monotonic()
            if self.lane.is_draining:
                self.transport.close()

    def _start_next(self) -> None:
        may_start = not (
            self._is_answering or self.flow.write_paused or self.transport.is_closing()
        )
        if self.pipeline and may_start:
            self._start_asgi_task(*self.pipeline.pop())

    def _write(
        self, exchange: Exchange, status: int, body: bytes, content_type: bytes, extra: bytes
    ) -> None:
        headers = self.server_state.default_headers
        if self._date_headers is not headers:
            self._date_headers = headers
            self._date_lines = b"".join(b"%s: %s\r\n" % header for header in headers)
        request_id = exchange.request_id
        if not request_id:  # as RequestIds.make does, without a call for each answer
            ids = self.lane.ids
            ids.given += 1
            exchange.request_id = request_id = b"%b%x" % (ids.prefix, ids.given)
        if exchange.keep_alive and not self.lane.is_draining and exchange.method != "HEAD":
            answer = (
                b"%s%sx-request-id: %s\r\ncontent-type: %s\r\ncontent-length: %d\r\n%s\r\n%s"
                % (
                    STATUS_LINE[status],
                    self._date_lines,
                    request_id,
                    content_type,
                    len(body),
                    extra,
                    body,
                )
            )
            outbox = self.lane.outbox
            if outbox.is_open:
                outbox.answers.append((self.transport, answer))
            else:
                self.transport.write(answer)
            if self.lane.observers:
                self.lane.observe(exchange)
            self.on_response_complete()
            return
        closes = not exchange.keep_alive or (self.lane.is_draining and not self.pipeline)
        head = b"%s%sx-request-id: %s\r\ncontent-type: %s\r\ncontent-length: %d\r\n%s%s\r\n" % (
            STATUS_LINE[status],
            self._date_lines,
            request_id,
            content_type,
            len(body),
            extra,
            b"connection: close\r\n" if closes else b"",
        )
        self.transport.write(head if exchange.method == "HEAD" else head + body)
        if closes and not self.reception.is_deaf:
            self.transport.close()
        self.lane.observe(exchange)
        self.on_response_complete()

    def refuse(self, error: ServiceError) -> None:
        """Answer the request that is arriving with an error, in its turn, and read no further one.

        The connection stays open and drops what arrives until its client or the sweep closes it: a
        close with unread bytes would reset it, and the client would lose the answer.
        """
        error.detached()
        reception = self.reception
        reception.is_deaf = True
        reception.is_receiving = reception.is_paused = False
        reception.since = now = time.monotonic()
        method = self.parser.get_method().decode("ascii") if reception.url else ""
        request_id = reception.request_id
        reception.forget()
        self._unread = b""
        self._parsed = None
        self._end_arrival()
        cycle: Any = self.cycle
        if isinstance(cycle, LaneExchange) and not cycle.is_whole:
            exchange = cycle
            exchange.drop_body()
        else:
            exchange = LaneExchange(_no_handler, method, b"", b"", [], self._give)
            exchange.request_id = request_id
            if cycle is None or isinstance(cycle, LaneExchange) or not cycle.more_body:
                self._enter(exchange)
            elif not self._replace(cycle, exchange):
                return
        exchange.refuse_with(error)
        exchange.keep_alive = False
        exchange.is_whole = True
        self.flow.resume_reading()
        exchange.advance(now)

    def _replace(self, cycle: Any, exchange: LaneExchange) -> bool:
        """Put an exchange in the place of BentoML's request, whose body will never be complete.

        Returns:
            Whether an answer is still missing: BentoML may have begun its own.
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


def _no_handler(_exchange: Exchange) -> None:
    """Stand in for the handler of a request that was not read so far."""
