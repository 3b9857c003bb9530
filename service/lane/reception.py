"""Limits on an incoming request: bytes of headers and body, and the time to receive them.

uvicorn buffers everything it is sent and waits without limit. ``Reception`` counts before it
buffers, for the lane's and BentoML's requests alike, and leaves time-outs to the lane's sweep, so
that no request needs a timer. It decides what is too much and why; the connection that owns it
gives the answer.
"""

import time

import httptools

from service.errors import (
    ClientError,
    HeadersTooLargeError,
    RequestTimeoutError,
    ServiceError,
    TooLargeError,
)
from service.lane.exchange import Header
from service.lane.lane import Lane

# Request line and headers of one request; nginx and Node.js read 8 to 32 KiB, cookies need some.
MAX_HEAD_BYTES = 64 << 10
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
        deadline_ms: The header ``X-Request-Timeout-Ms``, as it was sent.
        expects_continue: Whether the client waits for ``100 Continue`` before it sends the body.
        declared_bytes: The header ``Content-Length``, 0 without one.
        is_in_head: Whether the headers are incomplete.
        is_receiving: Whether the request has begun and is not complete.
        is_deaf: Whether everything that arrives is dropped, as the last answer is given or refused.
        since: ``time.monotonic`` of the last beginning or end of a request, seconds.
        passed_over_bytes: Bytes to come of a body that the parser takes for another protocol.
        stalled_at: Since when the client has not read its answers, None if it reads.
    """

    __slots__ = (
        "_begun",
        "_body_bytes",
        "_fed_head_bytes",
        "_head_bytes",
        "_lane",
        "_refusal",
        "content_type",
        "deadline_ms",
        "declared_bytes",
        "expects_continue",
        "headers",
        "is_deaf",
        "is_in_head",
        "is_receiving",
        "passed_over_bytes",
        "since",
        "stalled_at",
        "url",
    )

    def __init__(self, lane: Lane) -> None:
        self._lane = lane
        self.url = b""
        self.headers: list[Header] = []
        self.content_type: bytes | None = None
        self.deadline_ms: bytes | None = None
        self.expects_continue = False
        self.declared_bytes = 0
        self.is_in_head = False
        self.is_receiving = False
        self.is_deaf = False
        self.since = time.monotonic()
        self.passed_over_bytes = 0
        self.stalled_at: float | None = None
        self._head_bytes = self._fed_head_bytes = self._body_bytes = 0
        self._refusal: ServiceError | None = None
        self._begun = 0  # requests that began to arrive

    def begin(self) -> None:
        """Start a request."""
        self.url = b""
        self.headers = []
        self.content_type = self.deadline_ms = None
        self.expects_continue = False
        self._head_bytes = self._fed_head_bytes = self._body_bytes = self.declared_bytes = 0
        self._begun += 1
        self.is_in_head = True
        self.is_receiving = True
        self.since = time.monotonic()

    def add_url(self, url: bytes) -> None:
        """Append to the target, within the limit."""
        self._head_bytes += len(url)
        if self._head_bytes > MAX_HEAD_BYTES:
            self._stop(_head_too_large())
        self.url += url

    def add_header(self, name: bytes, value: bytes) -> None:
        """Append a header, within the limit; trailers are counted and otherwise ignored."""
        self._head_bytes += len(name) + len(value)
        if self._head_bytes > MAX_HEAD_BYTES:
            self._stop(_head_too_large())
        if not self.is_in_head:
            return
        name = name.lower()
        if name == b"content-length":
            self.declared_bytes = int(value)
        elif name == b"content-type":
            self.content_type = value
        elif name == b"x-request-timeout-ms":
            self.deadline_ms = value
        elif name == b"expect":
            self.expects_continue = value.lower() == b"100-continue"
        self.headers.append((name, value))

    def check_declared_body(self) -> None:
        """Stop the parser if the headers announce too large a body."""
        if self.declared_bytes > self._lane.max_body_bytes:
            self._stop(self._body_too_large(self.declared_bytes))

    def count_body(self, size: int) -> None:
        """Count body bytes that arrived; stop the parser if they are too many."""
        self._body_bytes += size
        if self._body_bytes > self._lane.max_body_bytes:
            self._stop(self._body_too_large(self._body_bytes))

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
        except httptools.HttpParserError:
            error = self._refusal or ClientError("request: expected HTTP/1.1")
            self._refusal = None
            raise error from None
        # The parser shows a header only once it is complete, so count what it was fed, too.
        if self.is_in_head and self._begun <= newest:
            self._fed_head_bytes += len(data)
            if self._fed_head_bytes > MAX_HEAD_BYTES:
                raise _head_too_large()
        return rest

    def split_passed_over(self, data: bytes) -> tuple[bytes, bytes]:
        """Split body bytes that follow an Upgrade header from what comes after them.

        The parser does not read such a body. ``curl --http2`` and Java's client ask for h2c on
        their first request, with a body.
        """
        body, rest = data[: self.passed_over_bytes], data[self.passed_over_bytes :]
        self.passed_over_bytes -= len(body)
        return body, rest

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
        """Return the error for a request that ``is_late``."""
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
        self._stop(error)

    def _stop(self, error: ServiceError) -> None:
        self._refusal = error
        raise ValueError(error.message)  # httptools turns it into HttpParserError


def _head_too_large() -> ServiceError:
    return HeadersTooLargeError(
        f"request line and headers: expected at most {MAX_HEAD_BYTES} bytes"
    )
