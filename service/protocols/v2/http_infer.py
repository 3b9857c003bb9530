"""One inference of V2 over HTTP: expand the body, read it, infer, write the answer, compress it.

Headers and content codings are read here, the body's JSON in ``json_body``; ``infer`` runs the
request.
"""

import logging
import time
from collections.abc import Callable
from typing import Any

from service.errors import InvalidInputError, ServiceError
from service.lane.exchange import JSON, REQUEST_ID, Exchange, server_timing
from service.protocols import compression
from service.protocols.engine import Engine, ModelRoute, Target
from service.protocols.limits import Held
from service.protocols.v2.codec import InputTensor
from service.protocols.v2.infer import INPUT, InferCall, InferRequest
from service.protocols.v2.json_body import read_request, write_response

logger = logging.getLogger("foveal.v2")

OCTETS = b"application/octet-stream"
PROTOCOL = "v2_http"
# Answers up to this size are compressed on the loop, in about a millisecond.
_INLINE_COMPRESS_BYTES = 1 << 16


class InferRoute(ModelRoute):
    """The handler of one model's ``infer``.

    Args:
        engine: What all protocols share.
        name: The model; empty: the default one.
        version: Its version; empty: the default one.
        max_body_bytes: Largest body once it is expanded.
    """

    __slots__ = ("_max_body_bytes",)

    protocol = PROTOCOL

    def __init__(self, engine: Engine, name: str, version: str, max_body_bytes: int) -> None:
        super().__init__(engine, name, version)
        self._max_body_bytes = max_body_bytes

    def __call__(self, exchange: Exchange) -> None:
        """Answer one request."""
        engine = self._engine
        target = self._target
        if engine.catalog() is not self._catalog or exchange.method != "POST":
            target = self.find(exchange)
        if target is not None:
            HttpInfer(engine, exchange, target, self._max_body_bytes).begin()


class HttpInfer:
    """One inference over HTTP: expand, read, infer, write, compress."""

    __slots__ = (
        "_accepted",
        "_engine",
        "_exchange",
        "_head_bytes",
        "_held",
        "_max_body_bytes",
        "_target",
    )

    def __init__(
        self, engine: Engine, exchange: Exchange, target: Target, max_body_bytes: int
    ) -> None:
        self._engine = engine
        self._max_body_bytes = max_body_bytes
        self._exchange = exchange
        self._target = target
        self._accepted = b""
        self._head_bytes: bytes | None = None
        self._held = Held(engine.inflight)

    def begin(self) -> None:
        """Read the headers; infer now, or once a thread has expanded the body."""
        coding = b""
        for name, value in self._exchange.headers:
            if name == b"inference-header-content-length":
                self._head_bytes = value
            elif name == b"content-encoding":
                coding = value
            elif name == b"accept-encoding":
                self._accepted = value
        if not coding:
            self._infer(self._exchange.body)
            return
        try:  # a reserved row keeps the queue's place and the version loaded meanwhile
            self._target.batcher.reserve(1)
        except ServiceError as error:
            self._fail(error)
            return
        if not compression.states_size(coding):
            self._engine.threads.submit(self._measure, coding)
            return
        body, limit = self._exchange.body, self._max_body_bytes
        try:
            size = compression.expanded_bytes(body, coding, limit)
        except ServiceError as error:
            self._expanded(error)
        else:
            self._count(coding, size)

    def _measure(self, coding: bytes) -> None:
        """Find out how large the body is once expanded, on a thread."""
        try:
            size = compression.expanded_bytes(self._exchange.body, coding, self._max_body_bytes)
        except ServiceError as error:
            self._back_on_loop(self._expanded, error.detached())
        except Exception:
            self._lost(self._expanded)
        else:
            self._back_on_loop(self._count, coding, size)

    def _count(self, coding: bytes, size: int) -> None:
        """Count the expanded body before there is one."""
        try:
            self._held.take(size)
        except ServiceError as error:
            self._expanded(error)
            return
        self._engine.threads.submit(self._expand, coding, size)

    def _expand(self, coding: bytes, size: int) -> None:
        outcome: bytes | ServiceError
        body = self._exchange.body
        try:
            outcome = compression.decompress(body, coding, self._max_body_bytes, size)
        except ServiceError as error:
            outcome = error.detached()
        except Exception:
            self._lost(self._expanded)
            return
        self._back_on_loop(self._expanded, outcome)

    def _expanded(self, outcome: bytes | ServiceError) -> None:
        self._target.batcher.release(1)
        if self._exchange.disconnected:
            self._held.give()
        elif isinstance(outcome, ServiceError):
            self._fail(outcome)
        else:
            self._infer(outcome)

    def _back_on_loop(self, call: Callable[..., None], *values: Any) -> None:
        self._engine.loop.call_soon_threadsafe(call, *values)

    def _lost(self, fail: Callable[[ServiceError], None]) -> None:
        """Answer after an exception on a thread: an executor would drop it with the answer."""
        logger.exception("a body could not be expanded or compressed; this is a bug")
        self._back_on_loop(fail, ServiceError("internal error; see the server's log"))

    def _infer(self, body: bytes) -> None:
        exchange = self._exchange
        try:
            timeout_s = exchange.timeout_s(self._engine.request_timeout_s)
            request = self._read(body)
            if self._target.canary is not None:
                self._target = self._target.choose(self._id(request))
            call = InferCall(self._engine, self._target, request, self._answer, self._held)
            call.begin(exchange.received_at, timeout_s)
        except ServiceError as error:
            self._fail(error)
            return
        except Exception:  # nobody answers for a callback that raises
            logger.exception("an inference failed; this is a bug")
            self._fail(ServiceError("internal error; see the server's log"))
            return
        if not exchange.response_complete:
            exchange.on_disconnect = call.cancel

    def _id(self, request: InferRequest) -> bytes:
        """Return the id of this request, empty if it has none."""
        if request.id:
            return request.id.encode()
        return self._exchange.header(REQUEST_ID) or b""

    def _read(self, body: bytes) -> InferRequest:
        value = self._head_bytes
        if value is None:
            return read_request(body, None, self._engine.limits)
        if not value.isdigit() or len(value) > 15:
            raise InvalidInputError(
                "header Inference-Header-Content-Length: expected a whole number of bytes, "
                f"got {value.decode('latin-1')[:40]!r}"
            )
        head_bytes = int(value)
        if head_bytes:
            return read_request(body, head_bytes, self._engine.limits)
        return self._read_raw(body)

    def _read_raw(self, body: bytes) -> InferRequest:
        """Read the whole body as the tensor of the one input; its size gives the rows."""
        shape_HWC = self._target.classifier.artifact.image.shape_HWC
        row_bytes = shape_HWC[0] * shape_HWC[1] * shape_HWC[2]
        rows, rest = divmod(len(body), row_bytes)
        if rest or not rows:
            raise InvalidInputError(
                f"body: expected raw pixels, a multiple of {row_bytes} bytes, got {len(body)}; "
                "encoded images go to /predict, or in a BYTES tensor"
            )
        tensor = InputTensor(INPUT, "UINT8", [rows, *shape_HWC], memoryview(body))
        return InferRequest([tensor], are_outputs_binary=True)

    def _answer(self, call: InferCall) -> None:
        self._exchange.job = call.job
        if call.error is not None:
            self._fail(call.error)
            return
        artifact = self._target.classifier.artifact
        opening = b'{"model_name":"%s","model_version":"%d"' % (
            artifact.name.encode(),
            artifact.version,
        )
        body, head_bytes = write_response(opening, call.request, call.outputs)
        assert call.job is not None, "outputs come from a job; this is a bug"
        extra = server_timing(call.job, self._exchange, time.monotonic())
        media_type = JSON
        if head_bytes is not None:
            media_type = OCTETS
            extra += b"inference-header-content-length: %d\r\n" % head_bytes
        coding = b""
        if self._accepted and len(body) >= compression.MIN_BYTES:
            coding = compression.choose(self._accepted)
        if not coding:
            self._respond(body, media_type, extra)
            return
        extra += b"content-encoding: %s\r\nvary: accept-encoding\r\n" % coding
        if len(body) <= _INLINE_COMPRESS_BYTES:
            self._respond(compression.compress(body, coding), media_type, extra)
        else:
            self._engine.threads.submit(self._compress, body, coding, media_type, extra)

    def _compress(self, body: bytes, coding: bytes, media_type: bytes, extra: bytes) -> None:
        try:
            compressed = compression.compress(body, coding)
        except Exception:
            self._lost(self._fail)
        else:
            self._back_on_loop(self._respond, compressed, media_type, extra)

    def _respond(self, body: bytes, media_type: bytes, extra: bytes) -> None:
        exchange = self._exchange
        exchange.respond(200, body, media_type, extra)
        seconds = time.monotonic() - exchange.received_at
        self._target.metrics.count_request(PROTOCOL, 200, seconds)

    def _fail(self, error: ServiceError) -> None:
        self._held.give()
        self._target.fail(PROTOCOL, self._exchange, error)
