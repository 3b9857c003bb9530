"""The image protocol: ``POST /predict`` and its forms for a named model and version.

The body is one encoded image, or ``multipart/form-data`` with one or more files; the answer is
JSON. Turns bytes into rows and jobs into JSON; what happens between is the classifier's.
"""

import time
from collections.abc import Callable
from concurrent.futures import Executor
from functools import partial
from urllib.parse import parse_qs, unquote

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from models.image import ImageError, Pixels, read_size
from service.errors import (
    DecodeError,
    InvalidInputError,
    MethodError,
    ServiceError,
    TooLargeError,
    UnsupportedMediaError,
    error_body,
)
from service.exchange import Exchange, Handler, server_timing
from service.metrics import Meters, ModelMetrics
from service.pipeline.batcher import Job, Loop
from service.pipeline.classifier import Catalog, Classifier

TOP = 5
# Up to this many pixels an image is decoded on the loop: about 0.2 ms, what a hand-over to a thread
# and back costs under load. Larger ones go to the decode threads.
INLINE_PIXELS = 128 * 128


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
        self._catalog = catalog
        self._loop = loop
        self._decoders = decoders
        self._meters = meters
        self._request_timeout_s = request_timeout_s
        self._max_request_rows = max_request_rows

    def find(self, path: bytes) -> Handler | None:
        """Return the handler of a raw path, None if it is not this protocol's."""
        if path == b"/predict":
            return self._predict_default
        if not path.endswith(b"/predict"):
            return None
        match unquote(path.decode("latin-1")).split("/"):
            case ["", "models", name, "predict"]:
                return partial(self.handle, name, "")
            case ["", "models", name, "versions", version, "predict"]:
                return partial(self.handle, name, version)
        return None

    def _predict_default(self, exchange: Exchange) -> None:
        self.handle("", "", exchange)

    def handle(self, name: str, version: str, exchange: Exchange) -> None:
        """Answer one request for a model, "" for the default one, and a version, "" likewise."""
        try:
            if exchange.method != "POST":
                raise MethodError(f"{exchange.method}: expected POST with an image", "POST")
            classifier = self._catalog().find(name, version)
        except ServiceError as error:
            self._meters.count_refusal("predict", error.status)
            exchange.fail(error)
            return
        call = PredictCall(self, exchange, classifier, self._meters.of(classifier))
        try:
            call.begin()
        except ServiceError as error:
            call.fail(error)

    # What a call needs of the protocol.

    @property
    def loop(self) -> Loop:
        """Return the loop that all requests arrive on."""
        return self._loop

    def deadline(self, exchange: Exchange) -> float:
        """Return the time after which the request's rows are not run."""
        return exchange.received_at + exchange.timeout_s(self._request_timeout_s)

    def decode_elsewhere(self, work: Callable[[], None]) -> None:
        """Run on a decode thread."""
        self._decoders.submit(work)

    def touch(self) -> None:
        """See to it that what was counted is flushed."""
        self._meters.touch()

    @property
    def max_request_rows(self) -> int:
        """Return how many images a request may hold."""
        return self._max_request_rows


class PredictCall:
    """One request on its way: decode, submit, answer."""

    __slots__ = (
        "_classifier", "_deadline", "_errors", "_exchange", "_job", "_metrics", "_protocol",
        "_reserved", "_top",
    )  # fmt: skip

    def __init__(
        self, protocol: PredictProtocol, exchange: Exchange, classifier: Classifier,
        metrics: ModelMetrics,
    ) -> None:  # fmt: skip
        self._protocol = protocol
        self._exchange = exchange
        self._classifier = classifier
        self._metrics = metrics
        self._top = TOP
        self._deadline = 0.0
        self._job: Job | None = None
        self._reserved = 0
        self._errors: list[str | None] = [None]  # an error a file, None where it is fine

    def begin(self) -> None:
        """Read the request and queue its rows, now or once they are decoded.

        Raises:
            ServiceError: The request is refused as a whole.
        """
        exchange = self._exchange
        self._deadline = self._protocol.deadline(exchange)
        if exchange.query:
            self._top = _top(exchange.query, len(self._classifier.artifact.labels))
        declared = exchange.header(b"content-type") or b""
        content_type = declared.lower()
        if content_type.startswith(b"multipart/form-data"):
            files = read_files(declared, exchange.body, self._protocol.max_request_rows)
            self._decode(files)
            return
        if not (
            not content_type
            or content_type.startswith((b"image/", b"application/octet-stream"))
            or content_type == b"application/x-www-form-urlencoded"  # what curl -d says of any body
        ):
            raise UnsupportedMediaError(
                "content-type: expected image/*, application/octet-stream or multipart/form-data, "
                f"got {content_type.decode('latin-1')!r}"
            )
        self._decode([exchange.body])

    def _decode(self, files: list[bytes]) -> None:
        batcher = self._classifier.batcher
        if sum(map(_pixels, files)) <= INLINE_PIXELS:
            # Checked before the work of decoding; nothing else can take the places in between.
            batcher.reserve(len(files))
            batcher.release(len(files))
            self._submit(*self._decode_files(files))
            return
        batcher.reserve(len(files))
        self._reserved = len(files)
        self._protocol.decode_elsewhere(partial(self._decode_on_thread, files))

    def _decode_on_thread(self, files: list[bytes]) -> None:
        outcome = self._decode_files(files)
        self._protocol.loop.call_soon_threadsafe(self._submit_decoded, *outcome)

    def _submit_decoded(
        self, rows: list[Pixels], errors: list[ServiceError | None], seconds: float
    ) -> None:
        self._classifier.batcher.release(self._reserved)
        if self._exchange.disconnected:
            return
        try:
            self._submit(rows, errors, seconds)
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
                rows.append(self._classifier.decode(encoded))
                errors.append(None)
            except ServiceError as error:
                errors.append(error)
            except Exception as error:  # a decoder's bug must not take the request's answer along
                errors.append(DecodeError(f"image: could not be decoded: {type(error).__name__}"))
        return rows, errors, time.monotonic() - started

    def _submit(
        self, rows: list[Pixels], errors: list[ServiceError | None], seconds: float
    ) -> None:
        self._metrics.decode.observe(seconds / len(errors))
        if not rows:
            first = next(error for error in errors if error is not None)
            raise first
        self._errors = [None if error is None else error.message for error in errors]
        self._job = self._classifier.submit(rows, self._deadline, self._answer)
        self._exchange.on_disconnect = self._cancel

    def _cancel(self) -> None:
        if self._job is not None:
            self._classifier.batcher.cancel(self._job)

    def _answer(self, job: Job) -> None:
        exchange = self._exchange
        if job.error is not None:
            self.fail(job.error)
            return
        artifact = self._classifier.artifact
        if job.count == 1 == len(self._errors):
            batch, row, _ = job.parts[0]
            results = self._classifier.postprocessor.fragments(batch, self._top)[row]
        else:
            good = iter(self._classifier.postprocessor.job_fragments(job, self._top))
            results = b",".join(
                next(good) if error is None else error_body(error) for error in self._errors
            )
        now = time.monotonic()
        body = b'{"model":"%s","version":%d,"results":[%s]}' % (
            artifact.name.encode(), artifact.version, results,
        )  # fmt: skip
        exchange.respond(200, body, extra=server_timing(job, exchange, now))
        self._metrics.count_request("predict", 200, now - exchange.received_at)

    def fail(self, error: ServiceError) -> None:
        """Answer with an error and count it."""
        self._exchange.fail(error)
        seconds = time.monotonic() - self._exchange.received_at
        self._metrics.count_request("predict", error.status, seconds)
        self._protocol.touch()


def read_files(content_type: bytes, body: bytes, max_files: int) -> list[bytes]:
    """Read the files of a ``multipart/form-data`` body (RFC 7578); other fields are passed over.

    Raises:
        InvalidInputError: No boundary, a broken body, or no file in it.
        TooLargeError: More than ``max_files``.
    """
    boundary = parse_options_header(content_type)[1].get(b"boundary")
    if not boundary:
        raise InvalidInputError("multipart/form-data: expected a boundary in the content type")
    reader = _FileReader(max_files)
    try:
        parser = MultipartParser(
            boundary,
            {
                "on_part_begin": reader.part_begin,
                "on_header_field": reader.header_field,
                "on_header_value": reader.header_value,
                "on_part_data": reader.part_data,
                "on_part_end": reader.part_end,
                "on_end": reader.end,
            },
        )
        parser.write(body)
        parser.finalize()
    except FormParserError as error:
        raise InvalidInputError(f"multipart/form-data: expected whole parts, got {error}") from None
    if not reader.is_whole:
        raise InvalidInputError("multipart/form-data: expected a closing boundary, the body ends")
    if not reader.files:
        raise InvalidInputError(
            "multipart/form-data: expected at least one file, got none; "
            "send it as a file, as `curl -F file=@image.png` does"
        )
    return reader.files


class _FileReader:
    """Collects the parts that carry a file name or an image's content type."""

    def __init__(self, max_files: int) -> None:
        self.files: list[bytes] = []
        self.is_whole = False
        self._max_files = max_files
        self._field = b""
        self._is_file = False
        self._chunks: list[bytes] = []

    def part_begin(self) -> None:
        self._is_file = False
        self._chunks = []

    def header_field(self, data: bytes, start: int, end: int) -> None:
        self._field = data[start:end].lower()

    def header_value(self, data: bytes, start: int, end: int) -> None:
        value = data[start:end].lower()
        if self._field == b"content-disposition":
            self._is_file |= b"filename" in value
        elif self._field == b"content-type":
            self._is_file |= value.startswith((b"image/", b"application/octet-stream"))

    def part_data(self, data: bytes, start: int, end: int) -> None:
        if self._is_file:
            self._chunks.append(data[start:end])

    def part_end(self) -> None:
        if self._is_file:
            if len(self.files) == self._max_files:
                raise TooLargeError(
                    f"multipart/form-data: expected at most {self._max_files} files; "
                    "send fewer or raise FOVEAL_MAX_REQUEST_ROWS"
                )
            self.files.append(b"".join(self._chunks))

    def end(self) -> None:
        self.is_whole = True


def _pixels(encoded: bytes) -> int:
    """Return the pixels that decoding would take; 0 for what is refused at its header."""
    try:
        width, height = read_size(encoded)
    except ImageError:
        return 0
    return width * height


def _top(query: bytes, classes: int) -> int:
    values = parse_qs(query.decode("latin-1"), keep_blank_values=True).get("top", [str(TOP)])
    if not values[-1].isdecimal() or not int(values[-1][:9]):
        raise InvalidInputError(
            f"top: expected a whole number from 1 to {classes}, got {values[-1]!r}"
        )
    return min(int(values[-1][:9]), classes)
