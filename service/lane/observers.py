"""Observers of every answer of the lane: traces and the access log.

Neither costs anything while it is off: the lane then has no observers. Both are called with an
exchange once its answer is written, and take their times from the exchange and its job.
"""

import logging
import random
import sys
import time
from collections.abc import Callable

import orjson
from opentelemetry import trace
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from service.lane.exchange import Exchange

Observer = Callable[[Exchange], None]
_NANO = 1e9


class AccessLog:
    """Writes one line of JSON for a share of the answers, to standard output.

    ``time`` is in seconds since 1970, ``id`` is the answer's ``X-Request-Id``, durations are in
    milliseconds; ``rows``, ``queue_ms`` and ``run_ms`` are present if rows were queued.

    Args:
        share: Share of the answers that are logged, above 0 to 1.
    """

    def __init__(self, share: float) -> None:
        self._share = share
        self._logger = logging.getLogger("foveal.access")
        self._logger.setLevel(logging.INFO)
        self._logger.propagate = False
        handler = logging.StreamHandler(sys.stdout)
        handler.setFormatter(logging.Formatter("%(message)s"))
        self._logger.handlers = [handler]

    def __call__(self, exchange: Exchange) -> None:
        """Log one answer, if it is in the share."""
        if self._share < 1 and random.random() >= self._share:
            return
        line: dict[str, object] = {
            "time": round(time.time(), 3),
            "method": exchange.method,
            "path": exchange.path.decode("latin-1"),
            "status": exchange.status,
            "id": exchange.request_id.decode("latin-1"),
            "body_bytes": len(exchange.body),
            "total_ms": round((time.monotonic() - exchange.received_at) * 1e3, 3),
        }
        job = exchange.job
        if job is not None:
            line["rows"] = job.count
            if job.parts:
                first, last = job.parts[0][0], job.parts[-1][0]
                line["queue_ms"] = round((first.started_at - job.accepted_at) * 1e3, 3)
                line["run_ms"] = round((last.started_at + last.run_s - first.started_at) * 1e3, 3)
        self._logger.info(orjson.dumps(line).decode())


class Tracing:
    """Records a span for each answer, with a child for the queue and one for each run.

    Names and attributes follow OpenTelemetry's semantic conventions for HTTP servers. The
    ``traceparent`` and ``tracestate`` headers (W3C Trace Context) continue the client's trace.

    Args:
        provider: Receives the spans; its sampler decides which are recorded.
    """

    def __init__(self, provider: trace.TracerProvider) -> None:
        self._tracer = provider.get_tracer("foveal.lane")
        self._propagator = TraceContextTextMapPropagator()
        # Spans need the wall clock, exchanges have the monotonic one.
        self._epoch_s = time.time() - time.monotonic()

    def __call__(self, exchange: Exchange) -> None:
        """Record the spans of one answer."""
        carrier = {
            name.decode("latin-1"): value.decode("latin-1")
            for name, value in exchange.headers
            if name in (b"traceparent", b"tracestate")
        }
        path = exchange.path.decode("latin-1")
        span = self._tracer.start_span(
            f"{exchange.method} {path}",
            context=self._propagator.extract(carrier) if carrier else None,
            kind=trace.SpanKind.SERVER,
            start_time=self._at(exchange.received_at),
            attributes={
                "http.request.method": exchange.method,
                "url.path": path,
                "http.response.status_code": exchange.status,
                "http.response.header.x-request-id": [exchange.request_id.decode("latin-1")],
            },
        )
        if span.is_recording():
            if exchange.status >= 500:
                span.set_status(trace.StatusCode.ERROR)
            self._record_job(exchange, span)
        span.end(self._at(time.monotonic()))

    def _record_job(self, exchange: Exchange, span: trace.Span) -> None:
        job = exchange.job
        if job is None or not job.parts:
            return
        below = trace.set_span_in_context(span)
        queue = self._tracer.start_span("queue", below, start_time=self._at(job.accepted_at))
        queue.end(self._at(job.parts[0][0].started_at))
        for batch, _, rows in job.parts:
            run = self._tracer.start_span(
                "run",
                below,
                start_time=self._at(batch.started_at),
                attributes={"foveal.batch_rows": batch.rows, "foveal.rows": rows},
            )
            run.end(self._at(batch.started_at + batch.run_s))

    def _at(self, seconds: float) -> int:
        return int((self._epoch_s + seconds) * _NANO)
