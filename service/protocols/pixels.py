"""``POST /pixels`` and its forms for a model and a version: the pixels that the model sees, as PNG.

The body is one encoded image, bounded as that of ``/predict``; the answer is what decoding,
resizing and cropping make of it, without loss.
"""

import time
from functools import partial

from models.image import Pixels, encode_png
from service.errors import InvalidInputError, ServiceError
from service.lane.exchange import Exchange
from service.pipeline.decode import Errors
from service.protocols.body_work import BodyWork
from service.protocols.engine import Engine, ModelRoute, ModelRoutes, Target

PROTOCOL = "pixels"
_PNG = b"image/png"


class PixelsRoute(ModelRoute):
    """The handler of one path."""

    __slots__ = ()

    protocol = PROTOCOL
    expected = "POST with an image"

    def __call__(self, exchange: Exchange) -> None:
        """Answer one request."""
        engine = self._engine
        target = self._target
        if engine.catalog() is not self._catalog or exchange.method != "POST":
            target = self.find(exchange)
        if target is None:
            return
        try:
            deadline = exchange.received_at + exchange.timeout_s(engine.request_timeout_s)
            if (exchange.content_type or b"").lower().startswith(b"multipart/"):
                raise InvalidInputError("body: expected one image, got a form; send the file alone")
            _Pixels(engine, exchange, target, deadline).begin()
        except ServiceError as error:
            target.fail(PROTOCOL, exchange, error)


class PixelsProtocol(ModelRoutes):
    """The handlers of the route."""

    word = PROTOCOL
    route = PixelsRoute


class _Pixels(BodyWork):
    """One request: its image is decoded, then encoded on a thread.

    Args:
        engine: What all protocols share.
        exchange: The request to answer.
        target: The version whose pixels are asked for.
        deadline: As in ``Job``.
    """

    __slots__ = ("_target",)

    def __init__(self, engine: Engine, exchange: Exchange, target: Target, deadline: float) -> None:
        super().__init__(engine, exchange, deadline)
        self._target = target

    def begin(self) -> None:
        """Open the body, now or on a thread.

        Raises:
            ServiceError: The queue refuses the request.
        """
        self._reserve(self._target.batcher)
        try:
            self._expand(self._decode)
        except ServiceError as error:
            self._fail(error)

    def _decode(self, body: bytes) -> None:
        cancel = self._target.decode_stage.decode([body], self._deadline, self._encode)
        if cancel is not None:
            self._exchange.on_disconnect = cancel

    def _encode(self, rows: list[Pixels], errors: Errors) -> None:
        self._exchange.on_disconnect = None
        if errors[0] is not None:
            self._fail(errors[0])
        elif self._exchange.disconnected:
            self._end()
        else:
            # Compressing 224 x 224 pixels takes 10 ms: never on the loop.
            self._queue(partial(encode_png, rows[0]), rows[0].nbytes, self._answer)

    def _answer(self, png: bytes) -> None:
        self._end()
        self._exchange.respond(200, png, _PNG)
        seconds = time.monotonic() - self._exchange.received_at
        self._target.metrics.count_request(PROTOCOL, 200, seconds)

    def _fail(self, error: ServiceError) -> None:
        self._end()
        self._target.fail(PROTOCOL, self._exchange, error)

    def _end(self) -> None:
        self._release()
        self._held.give()
