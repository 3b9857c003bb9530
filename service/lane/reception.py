"""Limits on an incoming request: bytes of headers and body, and the time to receive them.

uvicorn buffers everything it is sent and waits without limit. ``Reception`` counts before it
buffers, for the lane's and BentoML's requests alike, and leaves time-outs to the lane's sweep, so
that no request needs a timer. It decides what is too much and why; the connection that owns it
gives the answer.
"""

import time

import httptools

from service.errors import (
    HeadersTooLargeError,
    RequestTimeoutError,
    ServiceError,
    TooLargeError,
)
from service.lane.exchange import Header
from service.lane.framing import check_head, parser_error
from service.lane.lane import Lane
from service.lane.request_ids import REQUEST_ID, fit

# Request line and headers of one request; nginx and Node.js read 8 to 32 KiB, cookies need some.
MAX_HEAD_BYTES = 64 << 10
# Counted for each header on top of its name and value: what stands between them, and the objects
# that are made of it (the 32 of RFC 9113, 10.5.1).
_HEADER_BYTES = 4 + 32
# After a refusal, unread bytes are thrown away for this long before the connection is closed, so
# that the client reads the answer and not a reset (RFC 9112, 9.6).
LINGER_S = 2.0


class Reception:
    """The request that is arriving on one connection, counted as it arrives.

    ``begin``, ``add_url`` and ``add_header`` are callbacks of the parser. They refuse by raising:
    the parser stops, and ``feed`` raises the error that was meant.

    Args:
        lane: The limits, shared by all connections.

    Attributes:
        url: Target of the request, as it was sent so far.
        headers: (lower-case name, value) in order.
        content_type: The header of that name, as it was sent.
        content_coding: The header ``Content-Encoding``, all of its lines.
        deadline_ms: The header ``X-Request-Timeout-Ms``, as it was sent.
        request_id: The first header ``X-Request-Id``, empty if it is not fit.
        expects_continue: Whether the client waits for ``100 Continue`` before it sends the body.
        body_bytes: Bytes of the body so far.
        declared_bytes: The header ``Content-Length``, 0 without one.
        is_in_head: Whether the headers are incomplete.
        is_receiving: Whether the request has begun and is not complete.
        is_deaf: Whether everything that arrives is dropped, as the last answer is given or refused.
        since: ``time.monotonic`` of the last beginning or end of a request, seconds.
        is_paused: Whether the request waits for room for its body.
        was_paused: Whether it had to wait at any time.
        stalled_at: Since when the client has not read its answers, None if it reads.
    """

    __slots__ = (
        "_begun",
        "_coding",
        "_fed_head_bytes",
        "_head_bytes",
        "_host",
        "_hosts",
        "_lane",
        "_refusal",
        "body_bytes",
        "content_coding",
        "content_type",
        "deadline_ms",
        "declared_bytes",
        "expects_continue",
        "headers",
        "is_deaf",
        "is_in_head",
        "is_paused",
        "is_receiving",
        "request_id",
        "since",
        "stalled_at",
        "url",
        "was_paused",
    )

    def __init__(self, lane: Lane) -> None:
        self._lane = lane
        self.url = b""
        self.headers: list[Header] = []
        self.content_type: bytes | None = None
        self.content_coding: bytes | None = None
        self.deadline_ms: bytes | None = None
        self.request_id = b""
        self.expects_continue = False
        self.declared_bytes = 0
        self.is_in_head = False
        self.is_receiving = False
        self.is_deaf = False
        self.since = time.monotonic()
        self.is_paused = self.was_paused = False
        self.stalled_at: float | None = None
        self._host: bytes | None = None
        self._hosts = 0
        self._coding: bytes | None = None
        self._head_bytes = self._fed_head_bytes = self.body_bytes = 0
        self._refusal: ServiceError | None = None
        self._begun = 0  # requests that began to arrive

    def begin(self) -> None:
        """Start a request."""
        self.url = b""
        self.headers = []
        self._host = self.content_type = self.deadline_ms = self._coding = None
        self.content_coding = None
        self.request_id = b""
        self.expects_continue = self.was_paused = False
        self._hosts = 0
        self._head_bytes = self._fed_head_bytes = self.body_bytes = self.declared_bytes = 0
        self._begun += 1
        self.is_in_head = True
        self.is_receiving = True
        self.since = time.monotonic()

    def forget(self) -> None:
        """Drop the head: an idle connection holds nothing of its last request."""
        self.url = self.request_id = b""
        self.headers = []

    @property
    def is_chunked(self) -> bool:
        """Whether the body comes in chunks."""
        return self._coding is not None

    @property
    def received_bytes(self) -> int:
        """Bytes of head and body so far."""
        return max(self._head_bytes, self._fed_head_bytes) + self.body_bytes

    def expects_body(self, size: int) -> bool:
        """Return whether the next bytes are nothing but the declared body."""
        is_in_body = self.is_receiving and not self.is_in_head
        return is_in_body and size <= self.declared_bytes - self.body_bytes

    def add_url(self, url: bytes) -> None:
        """Append to the target, within the limit."""
        self._head_bytes += len(url)
        if self._head_bytes > MAX_HEAD_BYTES:
            self.stop(_head_too_large())
        self.url += url

    def add_header(self, name: bytes, value: bytes) -> None:
        """Append a header, within the limit; trailers are counted and otherwise ignored."""
        self._head_bytes += len(name) + len(value) + _HEADER_BYTES
        if self._head_bytes > MAX_HEAD_BYTES:
            self.stop(_head_too_large())
        if not self.is_in_head:
            return
        name = name.lower()
        if name == b"content-length":
            self.declared_bytes = int(value)
        elif name == b"host":
            self._host = value
            self._hosts += 1
        elif name == b"content-type":
            self.content_type = value
        elif name == b"x-request-timeout-ms":
            self.deadline_ms = value
        elif name == REQUEST_ID:
            self.request_id = self.request_id or fit(value)
        elif name == b"expect":
            self.expects_continue = value.lower() == b"100-continue"
        elif name == b"content-encoding":
            before = self.content_coding
            self.content_coding = value if before is None else b"%b, %b" % (before, value)
        elif name == b"transfer-encoding":
            self._coding = value
        self.headers.append((name, value))

    def check_head(self, version: str) -> None:
        """Stop the parser if the head is not as HTTP/1.1 wants it."""
        try:
            check_head(version, self._host, self._hosts, self._coding)
        except ServiceError as error:
            self.stop(error.detached())

    def check_declared_body(self) -> None:
        """Stop the parser if the headers announce too large a body."""
        if self.declared_bytes > self._lane.max_body_bytes:
            self.stop(self._body_too_large(self.declared_bytes))

    def count_body(self, size: int) -> None:
        """Count body bytes that arrived; stop the parser if they are too many."""
        self.body_bytes += size
        if self.body_bytes > self._lane.max_body_bytes:
            self.stop(self._body_too_large(self.body_bytes))

    def feed(self, parser: httptools.HttpRequestParser, data: bytes) -> bytes:
        """Feed the parser.

        Returns:
            What it leaves unread, as it takes it for another protocol.

        Raises:
            ServiceError: The request is refused: a limit, or not HTTP.
        """
        # The newest request whose unfinished head would be all of these bytes. Behind another
        # request in the same bytes, a head is no longer than one read.
        newest = self._begun + (0 if self.is_in_head else 1 if not self.is_receiving else -1)
        rest = b""
        try:
            parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            rest = data[upgrade.args[0] :]
        except httptools.HttpParserError as problem:
            error = self._refusal or parser_error(str(problem))
            self._refusal = None
            raise error from None
        # The parser shows a header only once it is complete, so count what it was fed, too.
        if self.is_in_head and self._begun <= newest:
            self._fed_head_bytes += len(data)
            if self._fed_head_bytes > MAX_HEAD_BYTES:
                raise _head_too_large()
        return rest

    def prime(self, parser: httptools.HttpRequestParser) -> None:
        """Make another parser continue with the body of the request that is arriving.

        The parser does not read a body behind an Upgrade header: ``curl --http2`` and Java's client
        ask for h2c on their first request, with a body. A new one gets a head that frames it alike.
        """
        since, was_chunked, declared = self.since, self.is_chunked, self.declared_bytes
        framing = b"Transfer-Encoding: chunked"
        if not was_chunked:
            framing = b"Content-Length: %d" % declared
        parser.feed_data(b"POST / HTTP/1.1\r\nHost: a\r\n%s\r\n\r\n" % framing)
        self.since = since

    def is_stalled(self, now: float) -> bool:
        """Return whether the client has not read its answers for too long."""
        return self.stalled_at is not None and now - self.stalled_at > self._lane.receive_timeout_s

    def is_late(self, now: float) -> bool:
        """Return whether the request takes too long to arrive."""
        is_arriving = self.is_receiving and not self.is_deaf
        return is_arriving and now - self.since > self._lane.receive_timeout_s

    def has_idled(self, now: float) -> bool:
        """Return whether an idle connection was kept long enough, or lingered long enough."""
        return now - self.since > (LINGER_S if self.is_deaf else self._lane.keep_alive_s)

    def too_late(self) -> ServiceError:
        """Return the error for a request that ``is_late``, and was read all the time."""
        return RequestTimeoutError(
            f"request: expected to arrive whole within {self._lane.receive_timeout_s} s"
        )

    def _body_too_large(self, size: int) -> ServiceError:
        return TooLargeError(
            f"body: expected at most {self._lane.max_body_bytes} bytes, got {size}; "
            "send less or raise FOVEAL_MAX_BODY_BYTES"
        )

    def stop(self, error: ServiceError) -> None:
        """Stop the parser from one of its callbacks; ``feed`` raises the error."""
        self._refusal = error
        raise ValueError(error.message)  # httptools turns it into HttpParserError


def _head_too_large() -> ServiceError:
    return HeadersTooLargeError(
        f"request line and headers: expected at most {MAX_HEAD_BYTES} bytes, "
        "each header counted with 32 more; send fewer or shorter ones"
    )
