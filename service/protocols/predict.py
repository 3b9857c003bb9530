"""The image protocol: ``POST /predict`` and its forms for a named model and version.

The body is one encoded image, or ``multipart/form-data`` with one or more files; the answer is
JSON. Turns bytes into rows and jobs into JSON; what happens between is the classifier's.
"""

import time
from collections.abc import Callable
from concurrent.futures import Executor
from urllib.parse import parse_qs, unquote

import orjson

from models.image import Pixels
from service.errors import (
    DecodeError,
    InvalidInputError,
    MethodError,
    ServiceError,
    UnsupportedMediaError,
    error_body,
)
from service.exchange import JSON, Exchange, Handler, server_timing
from service.metrics import Meters, ModelMetrics
from service.pipeline.batcher import Loop
from service.pipeline.classifier import Catalog, Classifier
from service.pipeline.job import Job
from service.protocols.multipart import read_files

TOP = 5
# Up to this many pixels an image is decoded on the loop: about 0.2 ms, what a hand-over to a thread
# and back costs under load. Larger ones go to the decode threads.
INLINE_PIXELS = 128 * 128
_IMAGE_TYPES = (b"image/", b"application/octet-stream")
# Paths whose handlers are remembered; a path is remembered once it was asked for.
_MAX_ROUTES = 1024


class PredictProtocol:
    """The handlers of the image protocol.

    Args:
        catalog: Gives the catalog that is served now.
        loop: The loop that all requests arrive on.
        decoders: Threads for large images.
        meters: Where requests are counted.
        request_timeout_s: Deadline of a request that names none.
        max_request_rows: Images in one request.
    """

    def __init__(
        self, catalog: Callable[[], Catalog], loop: Loop, decoders: Executor, meters: Meters, *,
        request_timeout_s: float, max_request_rows: int,
    ) -> None:  # fmt: skip
        self.loop = loop
        self.decoders = decoders
        self.meters = meters
        self.request_timeout_s = request_timeout_s
        self.max_request_rows = max_request_rows
        self.catalog = catalog
        self._routes: dict[bytes, Route] = {b"/predict": Route(self, "", "")}

    def find(self, path: bytes) -> Handler | None:
        """Return the handler of a raw path, None if it is not this protocol's."""
        route = self._routes.get(path)
        if route is None and path.startswith(b"/models/") and path.endswith(b"/predict"):
            match unquote(path.decode("latin-1")).split("/"):
                case ["", "models", name, "predict"]:
                    route = Route(self, name, "")
                case ["", "models", name, "versions", version, "predict"]:
                    route = Route(self, name, version)
            if route is not None and len(self._routes) < _MAX_ROUTES:
                self._routes[path] = route
        return route

    def forget(self) -> None:
        """Forget what routes found: a model that was unloaded must not be held on to."""
        self._routes = {b"/predict": Route(self, "", "")}

    def handle(self, name: str, version: str, exchange: Exchange) -> None:
        """Answer one request for a model, "" for the default one, and a version, "" likewise."""
        Route(self, name, version)(exchange)


class Route:
    """The handler of one path; looks its model up again only when the catalog was replaced."""

    __slots__ = ("_catalog", "_name", "_protocol", "_target", "_version")

    def __init__(self, protocol: PredictProtocol, name: str, version: str) -> None:
        self._protocol = protocol
        self._name = name
        self._version = version
        self._catalog: Catalog | None = None
        self._target: Target | None = None

    def __call__(self, exchange: Exchange) -> None:
        """Answer one request."""
        protocol = self._protocol
        catalog = protocol.catalog()
        target = self._target
        if catalog is not self._catalog or target is None or exchange.method != "POST":
            try:
                if exchange.method != "POST":
                    raise MethodError(f"{exchange.method}: expected POST with an image", "POST")
                classifier = catalog.find(self._name, self._version)
            except ServiceError as error:
                protocol.meters.count_refusal("predict", error.status)
                exchange.fail(error)
                return
            target = self._target = Target(classifier, protocol.meters.of(classifier))
            self._catalog = catalog
        call = PredictCall(protocol, exchange, target)
        try:
            call.begin()
        except ServiceError as error:
            call.fail(error)


class Target:
    """A classifier and what every answer for it shares."""

    __slots__ = ("batcher", "classifier", "decode_sized", "fragments", "metrics", "opening")

    def __init__(self, classifier: Classifier, metrics: ModelMetrics) -> None:
        artifact = classifier.artifact
        self.classifier = classifier
        self.metrics = metrics
        self.batcher = classifier.batcher
        self.decode_sized = classifier.decode_sized
        self.fragments = classifier.postprocessor.fragments
        self.opening = orjson.dumps({"model": artifact.name, "version": artifact.version})[:-1]


class PredictCall:
    """One request on its way: decode, submit, answer.

    The path of one small image, which is most requests, is written out; several files, or pixels
    enough to keep the loop from others, take the same steps through ``_decode``.
    """

    __slots__ = ("_deadline", "_errors", "_exchange", "_job", "_protocol", "_target", "_top")

    def __init__(self, protocol: PredictProtocol, exchange: Exchange, target: Target) -> None:
        self._protocol = protocol
        self._exchange = exchange
        self._target = target
        self._top = TOP
        self._errors: list[str | None] | None = None  # one a file; None: a single good image

    def begin(self) -> None:
        """Read the request and queue its rows, now or once they are decoded.

        Raises:
            ServiceError: The request is refused as a whole.
        """
        exchange, target = self._exchange, self._target
        self._deadline = exchange.received_at + exchange.timeout_s(self._protocol.request_timeout_s)
        if exchange.query:
            self._top = _top(exchange.query, len(target.classifier.artifact.labels))
        content_type = exchange.content_type
        if content_type is not None and not content_type.startswith(_IMAGE_TYPES):
            media_type = content_type.lower()
            if media_type.startswith(b"multipart/form-data"):
                files = read_files(content_type, exchange.body, self._protocol.max_request_rows)
                self._decode(files)
                return
            _check_media_type(media_type)
        if target.classifier.pixels(exchange.body) > INLINE_PIXELS:
            self._decode([exchange.body])
            return
        target.batcher.admit(1)  # before the work of decoding
        started = time.monotonic()
        row_HWC = target.decode_sized(exchange.body)
        target.metrics.decode.observe(time.monotonic() - started)
        self._submit([row_HWC])

    def _decode(self, files: list[bytes]) -> None:
        batcher = self._target.batcher
        if sum(map(self._pixels, files)) <= INLINE_PIXELS:
            batcher.admit(len(files))
            self._submit_files(*self._decode_files(files))
            return
        batcher.reserve(len(files))
        self._protocol.decoders.submit(self._decode_on_thread, files)

    def _pixels(self, encoded: bytes) -> int:
        """Return the pixels that decoding would take; 0 for what is refused at its header."""
        try:
            return self._target.classifier.pixels(encoded)
        except ServiceError:
            return 0

    def _decode_on_thread(self, files: list[bytes]) -> None:
        outcome = self._decode_files(files)
        self._protocol.loop.call_soon_threadsafe(self._back_on_loop, *outcome)

    def _back_on_loop(
        self, rows: list[Pixels], errors: list[ServiceError | None], seconds: float
    ) -> None:
        self._target.batcher.release(len(errors))
        if self._exchange.disconnected:
            return
        try:
            self._submit_files(rows, errors, seconds)
        except ServiceError as error:
            self.fail(error)

    def _decode_files(
        self, files: list[bytes]
    ) -> tuple[list[Pixels], list[ServiceError | None], float]:
        """Decode each file; may run on any thread.

        Returns:
            The rows of the good files, an error or None for each file, and the seconds it took.
        """
        started = time.monotonic()
        rows: list[Pixels] = []
        errors: list[ServiceError | None] = []
        for encoded in files:
            try:
                rows.append(self._target.classifier.decode(encoded))
                errors.append(None)
            except ServiceError as error:
                errors.append(error)
            except Exception as error:  # a decoder's bug must not take the request's answer along
                errors.append(DecodeError(f"image: could not be decoded: {type(error).__name__}"))
        return rows, errors, time.monotonic() - started

    def _submit_files(
        self, rows: list[Pixels], errors: list[ServiceError | None], seconds: float
    ) -> None:
        self._target.metrics.decode.observe(seconds / len(errors))
        if not rows:
            raise next(error for error in errors if error is not None)
        self._errors = [None if error is None else error.message for error in errors]
        self._submit(rows)

    def _submit(self, rows: list[Pixels]) -> None:
        self._job = self._target.batcher.submit(rows, self._deadline, self._answer)
        self._exchange.on_disconnect = self._cancel

    def _cancel(self) -> None:
        self._target.batcher.cancel(self._job)

    def _answer(self, job: Job) -> None:
        if job.error is not None:
            self.fail(job.error)
            return
        exchange, target = self._exchange, self._target
        if self._errors is None:
            batch, row, _ = job.parts[0]
            results = target.fragments(batch, self._top)[row]
        else:
            good = iter(target.classifier.postprocessor.job_fragments(job, self._top))
            results = b",".join(
                next(good) if error is None else error_body(error) for error in self._errors
            )
        now = time.monotonic()
        body = b'%s,"results":[%s]}' % (target.opening, results)
        exchange.respond(200, body, JSON, server_timing(job, exchange, now))
        target.metrics.count_request("predict", 200, now - exchange.received_at)

    def fail(self, error: ServiceError) -> None:
        """Answer with an error and count it."""
        self._exchange.fail(error)
        seconds = time.monotonic() - self._exchange.received_at
        self._target.metrics.count_request("predict", error.status, seconds)
        self._protocol.meters.touch()


def _check_media_type(media_type: bytes) -> None:
    # The last is what `curl --data-binary` says of any body.
    if not media_type.startswith((*_IMAGE_TYPES, b"application/x-www-form-urlencoded")):
        raise UnsupportedMediaError(
            "content-type: expected image/*, application/octet-stream or multipart/form-data, "
            f"got {media_type.decode('latin-1')!r}"
        )


def _top(query: bytes, classes: int) -> int:
    values = parse_qs(query.decode("latin-1"), keep_blank_values=True).get("top", [str(TOP)])
    if not values[-1].isdecimal() or not int(values[-1][:9]):
        raise InvalidInputError(
            f"top: expected a whole number from 1 to {classes}, got {values[-1]!r}"
        )
    return min(int(values[-1][:9]), classes)
