"""One inference of V2 over HTTP: expand the body, read it, infer, write the answer, compress it.

Headers and content codings are read here, the body's JSON in ``json_body``; ``infer`` runs the
request.
"""

import logging
import time

from service.errors import InvalidInputError, ServiceError
from service.lane.exchange import JSON, Exchange, server_timing
from service.protocols import compression
from service.protocols.body_work import BodyWork
from service.protocols.engine import Engine, ModelRoute, Target
from service.protocols.v2.codec import InputTensor
from service.protocols.v2.infer import INPUT, InferCall, InferRequest
from service.protocols.v2.json_body import read_request, write_response

logger = logging.getLogger("foveal.v2")

OCTETS = b"application/octet-stream"
PROTOCOL = "v2_http"
# Answers up to this size are compressed on the loop, in about a millisecond.
_INLINE_COMPRESS_BYTES = 1 << 16


class InferRoute(ModelRoute):
    """The handler of one model's ``infer``."""

    __slots__ = ()

    protocol = PROTOCOL

    def __call__(self, exchange: Exchange) -> None:
        """Answer one request."""
        engine = self._engine
        target = self._target
        if engine.catalog() is not self._catalog or exchange.method != "POST":
            target = self.find(exchange)
        if target is not None:
            HttpInfer(engine, exchange, target).begin()


class HttpInfer(BodyWork):
    """One inference over HTTP: expand, read, infer, write, compress."""

    __slots__ = ("_accepted", "_head_bytes", "_target", "_timeout_s")

    def __init__(self, engine: Engine, exchange: Exchange, target: Target) -> None:
        super().__init__(engine, exchange, 0.0)
        self._target = target
        self._accepted = b""
        self._head_bytes: bytes | None = None
        self._timeout_s = 0.0

    def begin(self) -> None:
        """Read the headers; infer now, or once a thread has expanded the body."""
        exchange = self._exchange
        for name, value in exchange.headers:
            if name == b"inference-header-content-length":
                self._head_bytes = value
            elif name == b"accept-encoding":
                self._accepted = value
        try:
            self._timeout_s = exchange.timeout_s(self._engine.request_timeout_s)
            if self._target.canary is None:  # else the body says which version answers
                self._target.batcher.admit(1, exchange.received_at + self._timeout_s)
            if exchange.content_coding is None:
                self._infer(exchange.body)
                return
            self._deadline = exchange.received_at + self._timeout_s
            self._reserve(self._target.batcher)
            self._expand(self._expanded)
        except ServiceError as error:
            self._fail(error)

    def _expanded(self, body: bytes) -> None:
        self._release()
        if self._exchange.disconnected:
            self._held.give()
        else:
            self._infer(body)

    def _infer(self, body: bytes) -> None:
        exchange = self._exchange
        try:
            request = self._read(body)
            if self._target.canary is not None:
                self._target = self._target.choose(self._id(request))
            call = InferCall(self._engine, self._target, request, self._answer, self._held)
            call.begin(exchange.received_at, self._timeout_s)
        except ServiceError as error:
            self._fail(error)
            return
        except Exception:  # nobody answers for a callback that raises
            logger.exception("an inference failed; this is a bug")
            self._fail(ServiceError())
            return
        if not exchange.response_complete:
            exchange.on_disconnect = call.cancel

    def _id(self, request: InferRequest) -> bytes:
        """Return the id of this request, empty if it has none."""
        if request.id:
            return request.id.encode()
        return self._exchange.request_id

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
        assert call.job is not None, "outputs come from a job; this is a bug"
        if precision := call.job.precision:
            opening += b',"parameters":{"precision":"%s"}' % precision.encode()
        body, head_bytes = write_response(opening, call.request, call.outputs)
        extra = server_timing(call.job, self._exchange, time.monotonic())
        media_type = JSON
        if head_bytes is not None:
            media_type = OCTETS
            extra += b"inference-header-content-length: %d\r\n" % head_bytes
        coding = b""
        if self._accepted and len(body) >= compression.MIN_BYTES:
            coding = compression.choose(self._accepted)
        if not coding:
            self._respond(call, body, media_type, extra)
            return
        extra += b"content-encoding: %s\r\nvary: accept-encoding\r\n" % coding
        if len(body) <= _INLINE_COMPRESS_BYTES:
            self._respond(call, compression.compress(body, coding), media_type, extra)
        else:
            self._engine.threads.submit(self._compress, call, body, coding, media_type, extra)

    def _compress(
        self, call: InferCall, body: bytes, coding: bytes, media_type: bytes, extra: bytes
    ) -> None:
        try:
            compressed = compression.compress(body, coding)
        except Exception:  # an executor would drop it, and the request would get no answer
            logger.exception("an answer could not be compressed; this is a bug")
            self._engine.loop.call_soon_threadsafe(self._fail, ServiceError())
        else:
            respond = self._respond
            self._engine.loop.call_soon_threadsafe(respond, call, compressed, media_type, extra)

    def _respond(self, call: InferCall, body: bytes, media_type: bytes, extra: bytes) -> None:
        exchange = self._exchange
        exchange.respond(200, body, media_type, extra)
        seconds = time.monotonic() - exchange.received_at
        self._target.metrics.count_request(PROTOCOL, 200, seconds)
        call.record(PROTOCOL, exchange.request_id, exchange.received_at)

    def _fail(self, error: ServiceError) -> None:
        self._release()
        self._held.give()
        self._target.fail(PROTOCOL, self._exchange, error)
