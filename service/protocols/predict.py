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
from service.lane.exchange import JSON, REQUEST_ID, Exchange, Handler, server_timing
from service.metrics import Meters
from service.pipeline.alarm import Loop
from service.pipeline.classifier import Classifier
from service.pipeline.job import Job
from service.protocols.multipart import read_files
from service.rollout.canary import Canary
from service.rollout.catalog import Catalog

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
        self,
        catalog: Callable[[], Catalog],
        loop: Loop,
        decoders: Executor,
        meters: Meters,
        *,
        request_timeout_s: float,
        max_request_rows: int,
    ) -> None:
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

    __slots__ = ("_canary", "_catalog", "_name", "_protocol", "_target", "_version")

    def __init__(self, protocol: PredictProtocol, name: str, version: str) -> None:
        self._protocol = protocol
        self._name = name
        self._version = version
        self._catalog: Catalog | None = None
        self._target: Target | None = None
        self._canary: Canary[Target] | None = None

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
            target = self._target = Target(classifier, protocol)
            self._canary = None if self._version else _find_canary(catalog, classifier, protocol)
            self._catalog = catalog
        canary = self._canary
        if canary is not None and canary.takes(exchange.header(REQUEST_ID) or b""):
            target = canary.target
        try:
            _begin(exchange, target)
        except ServiceError as error:
            target.fail(exchange, error)


class Target:
    """A classifier and what every request for it shares."""

    __slots__ = (
        "batcher",
        "classifier",
        "decode_sized",
        "fragments",
        "metrics",
        "opening",
        "pixels",
        "protocol",
    )

    def __init__(self, classifier: Classifier, protocol: PredictProtocol) -> None:
        artifact = classifier.artifact
        self.classifier = classifier
        self.protocol = protocol
        self.metrics = protocol.meters.of(classifier)
        self.batcher = classifier.batcher
        self.pixels = classifier.pixels
        self.decode_sized = classifier.decode_sized
        self.fragments = classifier.postprocessor.fragments
        self.opening = orjson.dumps({"model": artifact.name, "version": artifact.version})[:-1]

    def fail(self, exchange: Exchange, error: ServiceError) -> None:
        """Answer with an error and count it."""
        exchange.fail(error)
        seconds = time.monotonic() - exchange.received_at
        self.metrics.count_request("predict", error.status, seconds)
        self.protocol.meters.touch()


def _find_canary(
    catalog: Catalog, default: Classifier, protocol: PredictProtocol
) -> Canary[Target] | None:
    name = default.artifact.name
    candidate = catalog.canaries.get(name)
    if candidate is None:
        return None
    return Canary(Target(candidate.classifier, protocol), name, candidate.fraction)


def _begin(exchange: Exchange, target: Target) -> None:
    """Read a request and queue its rows, now or once they are decoded.

    The path of one small image, which is most requests, is written out; several files, or pixels
    enough to keep the loop from others, take the same steps in ``FilesDecoding``.

    Raises:
        ServiceError: The request is refused as a whole.
    """
    protocol = target.protocol
    deadline = exchange.received_at + (
        protocol.request_timeout_s
        if exchange.deadline_ms is None
        else exchange.timeout_s(protocol.request_timeout_s)
    )
    top = _top(exchange.query, len(target.classifier.artifact.labels)) if exchange.query else TOP
    content_type = exchange.content_type
    if content_type is not None and not content_type.startswith(_IMAGE_TYPES):
        media_type = content_type.lower()
        if media_type.startswith(b"multipart/form-data"):
            files = read_files(content_type, exchange.body, protocol.max_request_rows)
            FilesDecoding(exchange, target, top, deadline).begin(files)
            return
        _check_media_type(media_type)
    if target.pixels(exchange.body) > INLINE_PIXELS:
        FilesDecoding(exchange, target, top, deadline).begin([exchange.body])
        return
    target.batcher.admit(1, deadline)  # before the work of decoding
    started = time.monotonic()
    row_HWC = target.decode_sized(exchange.body)
    target.metrics.decode.observe(time.monotonic() - started)
    job = PredictJob([row_HWC], deadline, exchange, target, top)
    target.batcher.enqueue(job)
    exchange.job = job
    exchange.on_disconnect = job.cancel


class PredictJob(Job):
    """The good rows of one request in the queue, and the answer made of them.

    Args:
        rows: As in ``Job``.
        deadline: As in ``Job``.
        exchange: Whom to answer.
        target: Who classifies.
        top: How many labels a row.
        errors: A message, or None for a good row, for each file; None: a single good image.
    """

    __slots__ = ("_errors", "_exchange", "_target", "_top")

    def __init__(
        self,
        rows: list[Pixels],
        deadline: float,
        exchange: Exchange,
        target: Target,
        top: int,
        errors: list[str | None] | None = None,
    ) -> None:
        super().__init__(rows, deadline)
        self._exchange = exchange
        self._target = target
        self._top = top
        self._errors = errors

    def cancel(self) -> None:
        """Leave the queue: the client left."""
        self._target.batcher.cancel(self)

    def done(self) -> None:
        """Answer."""
        exchange, target = self._exchange, self._target
        if self.error is not None:
            target.fail(exchange, self.error)
            return
        if self._errors is None:
            batch, row, _ = self.parts[0]
            results = target.fragments(batch, self._top)[row]
        else:
            good = iter(target.classifier.postprocessor.job_fragments(self, self._top))
            results = b",".join(
                next(good) if error is None else error_body(error) for error in self._errors
            )
        now = time.monotonic()
        body = b'%s,"results":[%s]}' % (target.opening, results)
        exchange.respond(200, body, JSON, server_timing(self, exchange, now))
        target.metrics.count_request("predict", 200, now - exchange.received_at)


class FilesDecoding:
    """Files of one request on their way to rows: on the loop if they are small, else on threads."""

    __slots__ = ("_deadline", "_exchange", "_target", "_top")

    def __init__(self, exchange: Exchange, target: Target, top: int, deadline: float) -> None:
        self._exchange = exchange
        self._target = target
        self._top = top
        self._deadline = deadline

    def begin(self, files: list[bytes]) -> None:
        """Decode and queue all files of the request.

        Raises:
            ServiceError: The request is refused as a whole.
        """
        batcher = self._target.batcher
        if sum(map(self._pixels, files)) <= INLINE_PIXELS:
            batcher.admit(len(files), self._deadline)
            self._submit(*self._decode(files))
            return
        batcher.reserve(len(files), self._deadline)
        self._target.protocol.decoders.submit(self._decode_on_thread, files)

    def _pixels(self, encoded: bytes) -> int:
        """Return the pixels that decoding would take; 0 for what is refused at its header."""
        try:
            return self._target.pixels(encoded)
        except ServiceError:
            return 0

    def _decode_on_thread(self, files: list[bytes]) -> None:
        outcome = self._decode(files)
        self._target.protocol.loop.call_soon_threadsafe(self._back_on_loop, *outcome)

    def _back_on_loop(
        self, rows: list[Pixels], errors: list[ServiceError | None], seconds: float
    ) -> None:
        self._target.batcher.release(len(errors))
        if self._exchange.disconnected:
            return
        try:
            self._submit(rows, errors, seconds)
        except ServiceError as error:
            self._target.fail(self._exchange, error)

    def _decode(self, files: list[bytes]) -> tuple[list[Pixels], list[ServiceError | None], float]:
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

    def _submit(
        self, rows: list[Pixels], errors: list[ServiceError | None], seconds: float
    ) -> None:
        exchange, target = self._exchange, self._target
        target.metrics.decode.observe(seconds / len(errors))
        if not rows:
            raise next(error for error in errors if error is not None)
        messages = [None if error is None else error.message for error in errors]
        job = PredictJob(rows, self._deadline, exchange, target, self._top, messages)
        target.batcher.enqueue(job)
        exchange.job = job
        exchange.on_disconnect = job.cancel


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
