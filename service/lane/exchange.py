"""One HTTP request and its answer, as handlers see it: complete, and answered now or later.

Handlers know neither uvicorn nor ASGI. The lane makes exchanges from the parser's callbacks and
passes each a ``write`` for the answer.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Protocol

from service.errors import InvalidInputError, QueueFullError, ServiceError, error_body

Header = tuple[bytes, bytes]
Handler = Callable[["Exchange"], None]
Write = Callable[["Exchange", int, bytes, bytes, bytes], None]

JSON = b"application/json"


class Run(Protocol):
    """What the lane reads from a batch that was run: its rows and its times, seconds."""

    rows: int
    started_at: float
    run_s: float


class Job(Protocol):
    """What the lane reads from the rows that were queued for a request.

    Attributes:
        count: How many rows.
        accepted_at: ``time.monotonic`` when they were queued, seconds.
    """

    count: int
    accepted_at: float

    @property
    def parts(self) -> Sequence[tuple[Run, int, int]]:
        """Return (run, first row in it, rows), in the order of the rows."""


class Exchange:
    """A request, and the place for its one answer.

    Attributes:
        method: Upper case.
        path: Raw path, percent-encoding kept.
        query: Raw query, without "?".
        headers: (lower-case name, value), in order; the length may be left out: it is the body's.
        body: The whole body, once the handler is called.
        content_type: The header of that name, as it was sent.
        content_coding: The headers ``Content-Encoding``, as they were sent; None: there is none.
        deadline_ms: The header ``X-Request-Timeout-Ms``, as it was sent.
        request_id: The header ``X-Request-Id`` if it is fit; else empty until the answer is written
            with one of this process.
        received_at: ``time.monotonic`` when the request was whole, seconds.
        status: Status of the answer, 0 before there is one.
        disconnected: Whether the client left.
        on_disconnect: Called once if the client leaves before the answer.
        job: The rows that were queued for it, None if there are none or none yet.
    """

    # Class attributes, not slots: a default that a request keeps costs nothing to set.
    body = b""
    content_type: bytes | None = None
    content_coding: bytes | None = None
    deadline_ms: bytes | None = None
    request_id = b""
    received_at = 0.0
    status = 0
    keep_alive = True
    disconnected = False
    response_complete = False
    on_disconnect: Callable[[], None] | None = None
    job: Job | None = None

    def __init__(
        self, method: str, path: bytes, query: bytes, headers: list[Header], write: Write
    ) -> None:
        self.method = method
        self.path = path
        self.query = query
        self.headers = headers
        self._write = write

    def header(self, name: bytes) -> bytes | None:
        """Return the first value of a header, by its lower-case name."""
        for key, value in self.headers:
            if key == name:
                return value
        return None

    def respond(
        self, status: int, body: bytes, content_type: bytes = JSON, extra: bytes = b""
    ) -> None:
        """Write the answer; a second one, or one to a client that left, is dropped.

        Args:
            status: HTTP status.
            body: Whole body.
            content_type: Its media type.
            extra: Further header lines, each ending in CR LF.
        """
        if self.response_complete:
            return
        self.response_complete = True
        self.status = status
        self.on_disconnect = None
        if not self.disconnected:
            self._write(self, status, body, content_type, extra)
        self.job = None  # the job refers to this exchange: leave no cycle to the collector

    def fail(self, error: ServiceError) -> None:
        """Answer with an error, in the one shape of all errors."""
        error.detached()  # it may be kept beside this exchange: leave no cycle to the collector
        if type(error) is QueueFullError:
            body, extra = _refusal(error.message, error.retry_after_s)
        else:
            body, extra = _error(error)
        self.respond(error.status, body, JSON, extra)

    def disconnect(self) -> None:
        """Note that the client left, and call ``on_disconnect`` once."""
        self.disconnected = True
        self.job = None
        on_disconnect, self.on_disconnect = self.on_disconnect, None
        if on_disconnect is not None:
            on_disconnect()

    def timeout_s(self, default_s: float) -> float:
        """Return the time this request may take, from ``X-Request-Timeout-Ms`` or the default.

        Raises:
            InvalidInputError: The header is not a positive number of milliseconds.
        """
        value = self.deadline_ms
        if value is None:
            return default_s
        try:
            # Python's float takes 1_000, too.
            timeout_ms = float(value) if b"_" not in value else 0.0
        except ValueError:
            timeout_ms = 0.0
        if not 0 < timeout_ms <= 86_400_000:
            raise InvalidInputError(
                "header X-Request-Timeout-Ms: expected milliseconds above 0, up to a day, "
                f"got {value.decode('latin-1')!r}"
            )
        return timeout_ms / 1000


def _error(error: ServiceError) -> tuple[bytes, bytes]:
    """Return the body and the header lines of an error."""
    extra = b"".join(b"%s: %s\r\n" % header for header in error.headers)
    return error_body(error.message), extra


# Under overload most answers are refusals, and they are few: by model, reason and second.
@lru_cache(256)
def _refusal(message: str, retry_after_s: int) -> tuple[bytes, bytes]:
    return _error(QueueFullError(message, retry_after_s))


def server_timing(job: Job, exchange: Exchange, now: float) -> bytes:
    """Return a ``Server-Timing`` line: queue and run of the job, total since the request was whole.

    Durations are in milliseconds, as W3C Server Timing defines.
    """
    first, last = job.parts[0][0], job.parts[-1][0]
    queue_ms = (first.started_at - job.accepted_at) * 1e3
    run_ms = (last.started_at + last.run_s - first.started_at) * 1e3
    total_ms = (now - exchange.received_at) * 1e3
    return b"server-timing: queue;dur=%.3f, run;dur=%.3f, total;dur=%.3f\r\n" % (
        queue_ms,
        run_ms,
        total_ms,
    )
