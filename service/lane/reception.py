"""What a connection may cost: limits on heads, bodies and time, for lane and BentoML alike.

uvicorn buffers what it is sent and waits as long as it takes; this protocol counts before it
buffers, and leaves time to the lane's sweep instead of timers. A refusal is an answer like any
other: given in its turn, in the one error shape, by whoever builds on this (``connection``).

Leans on names inside uvicorn's HttpToolsProtocol; tests/service/lane/test_uvicorn.py lists them.
"""

import socket
import struct
import time
from abc import abstractmethod
from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from service.errors import (
    ClientError,
    HeadersTooLargeError,
    RequestTimeoutError,
    ServiceError,
    TooLargeError,
)
from service.lane.lane import Lane

# Request line and headers of one request; nginx and Node.js read 8 to 32 KiB, cookies need some.
MAX_HEAD_BYTES = 64 << 10
# After a refusal, unread bytes are thrown away for this long before the connection is closed, so
# that the client reads the answer and not a reset (RFC 9112, 9.6).
LINGER_S = 2.0


class GuardedProtocol(HttpToolsProtocol):
    """A connection whose requests are counted while they arrive.

    Attributes:
        lane: The limits, shared by all connections.
        content_type: Of the request that is arriving, as it was sent.
        deadline_ms: Its ``X-Request-Timeout-Ms``, as it was sent.
        is_in_head: Whether its headers are not complete.
        is_receiving: Whether it has begun and is not whole.
        is_deaf: Whether what arrives is thrown away: the last answer is given or refused.
        since: ``time.monotonic`` of the last beginning or end of a request, seconds.
        declared_bytes: Its ``Content-Length``, 0 if it has none.
        passed_over_bytes: Bytes to come of a body that the parser takes for another protocol's.
    """

    def __init__(self, lane: Lane, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.lane = lane
        self.url = b""
        self.headers = []
        self.content_type: bytes | None = None
        self.deadline_ms: bytes | None = None
        self.is_in_head = False
        self.is_receiving = False
        self.is_deaf = False
        self.since = time.monotonic()
        self.declared_bytes = 0
        self.passed_over_bytes = 0
        self._head_bytes = self._fed_head_bytes = self._body_bytes = 0
        self._stalled_at: float | None = None  # since when the client does not read its answers
        self._refusal: ServiceError | None = None
        self._begun = 0  # requests that began to arrive

    @property
    @abstractmethod
    def is_idle(self) -> bool:
        """Whether every request that began to arrive is answered."""

    @abstractmethod
    def refuse(self, error: ServiceError) -> None:
        """Answer the request that is arriving with an error, in its turn, and hear no more."""

    @abstractmethod
    def complete(self) -> None:
        """Hand on the request that is whole now."""

    def pause_writing(self) -> None:
        """Read no more from a client that does not read its answers."""
        super().pause_writing()
        self.flow.pause_reading()
        self._stalled_at = time.monotonic()

    def resume_writing(self) -> None:
        """Note that the client reads again."""
        super().resume_writing()
        self._stalled_at = None

    def cut(self) -> None:
        """Reset the connection: what is not sent yet is dropped, the kernel keeps none of it."""
        stream = self.transport.get_extra_info("socket")
        if stream is not None:
            stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.transport.abort()

    def sweep(self, now: float) -> None:
        """Close what idled, lingered or trickled too long; called about once a second."""
        waited_s = now - self.since
        if self._stalled_at is not None and now - self._stalled_at > self.lane.receive_timeout_s:
            self.cut()
        elif self.is_receiving and not self.is_deaf:
            if waited_s > self.lane.receive_timeout_s:
                self.refuse(
                    RequestTimeoutError(
                        f"request: expected to arrive whole within {self.lane.receive_timeout_s} s"
                    )
                )
        elif self.is_idle and waited_s > (LINGER_S if self.is_deaf else self.lane.keep_alive_s):
            if self.transport.is_closing():  # and has unsent bytes that its client does not read
                self.cut()
            else:
                self.transport.close()

    def data_received(self, data: bytes) -> None:
        """Feed the parser, unless the connection is on its way out."""
        while data and not self.is_deaf:
            if self.passed_over_bytes:
                data = self._take_passed_over(data)
                continue
            # How many requests this read may begin for its unfinished head to be all of it.
            alone = 0 if self.is_in_head else 1 if not self.is_receiving else -1
            begun = self._begun
            try:
                self.parser.feed_data(data)
                rest = b""
            except httptools.HttpParserUpgrade as upgrade:
                rest = data[upgrade.args[0] :]
            except httptools.HttpParserError:
                self.send_400_response("expected HTTP/1.1")
                return
            # The parser keeps a header to itself until it is whole; count what it was fed. Behind
            # other requests in the same bytes, the head is no longer than one read.
            if self.is_in_head and self._begun - begun <= alone:
                self._fed_head_bytes += len(data)
                if self._fed_head_bytes > MAX_HEAD_BYTES:
                    self.refuse(self._head_too_large())
            data = rest

    def _should_upgrade_to_ws(self) -> bool:
        """Never: nothing here speaks WebSocket, a request to upgrade is answered as HTTP/1.1."""
        return False

    def _take_passed_over(self, data: bytes) -> bytes:
        """Take body bytes that follow an Upgrade header, where the parser no longer looks.

        ``curl --http2`` and Java's client ask for h2c on their first request, with a body.
        """
        body, rest = data[: self.passed_over_bytes], data[self.passed_over_bytes :]
        self.passed_over_bytes -= len(body)
        self.on_body(body)
        if not self.passed_over_bytes:
            self.complete()
        return rest

    def on_message_begin(self) -> None:
        """Start a request; uvicorn's scope is made only if the request turns out to be its own."""
        self.url = b""
        self.headers = []
        self.expect_100_continue = False
        self.content_type = self.deadline_ms = None
        self._head_bytes = self._fed_head_bytes = self._body_bytes = self.declared_bytes = 0
        self._begun += 1
        self.is_in_head = True
        self.is_receiving = True
        self.since = time.monotonic()

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
            self.expect_100_continue = value.lower() == b"100-continue"
        self.headers.append((name, value))

    def count_body(self, size: int) -> None:
        """Count body bytes that arrived; raise, for the parser to stop, if they are too many."""
        self._body_bytes += size
        if self._body_bytes > self.lane.max_body_bytes:
            self._refuse_body(self._body_bytes)

    def limit_declared_body(self) -> None:
        """Raise, for the parser to stop, if the headers announce too large a body."""
        if self.declared_bytes > self.lane.max_body_bytes:
            self._refuse_body(self.declared_bytes)

    def send_400_response(self, msg: str) -> None:
        """Answer what the parser or a limit refused, in the one error shape, then close."""
        error = self._refusal or ClientError(f"request: {msg}")
        self._refusal = None
        self.refuse(error)

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
