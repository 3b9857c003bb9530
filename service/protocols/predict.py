"""The image protocol: ``POST /predict`` and its forms for a named model and version.

The body is one encoded image, or ``multipart/form-data`` with one or more files; the answer is
JSON. Reads requests and writes answers; what happens between is the pipeline's.
"""

import time
from collections.abc import Sequence
from functools import partial
from urllib.parse import parse_qs

from models.image import Pixels
from service.errors import (
    InferenceError,
    InvalidInputError,
    ServiceError,
    UnsupportedMediaError,
    error_body,
)
from service.lane.exchange import JSON, Exchange, server_timing
from service.pipeline.decode import Errors
from service.pipeline.job import Job
from service.protocols.body_work import BodyWork
from service.protocols.engine import Engine, ModelRoute, ModelRoutes, Target
from service.protocols.limits import Held
from service.protocols.multipart import INLINE_BYTES, read_files

PROTOCOL = "predict"
TOP = 5
_MAX_QUERY_FIELDS = 64
_IMAGE_TYPES = (b"image/", b"application/octet-stream")


class PredictRoute(ModelRoute):
    """The handler of one path.

    The path of one small image, which is most requests, is written out in ``__call__``; several
    files or a large image go through ``_decode_files``.
    """

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
        if target.canary is not None:
            target = target.choose(exchange.request_id)
        try:
            deadline = exchange.received_at + (
                engine.request_timeout_s
                if exchange.deadline_ms is None
                else exchange.timeout_s(engine.request_timeout_s)
            )
            top = TOP
            if exchange.query:
                top = _top(exchange.query, len(target.classifier.artifact.labels))
            content_type = exchange.content_type
            is_form = (
                content_type is not None
                and not content_type.startswith(_IMAGE_TYPES)
                and _is_form(content_type)
            )
            if is_form or exchange.content_coding is not None:
                target.batcher.admit(1, deadline)  # before the form is read
                _Wrapped(engine, exchange, target, top, deadline, is_form=is_form).begin()
                return
            row_HWC = target.decode_stage.decode_small(exchange.body, deadline)
            if row_HWC is None:
                _decode_files([exchange.body], exchange, target, top, deadline)
                return
            job = PredictJob([row_HWC], deadline, exchange, target, top)
            target.batcher.enqueue(job)
            exchange.job = job
            exchange.on_disconnect = job.cancel
        except ServiceError as error:
            target.fail(PROTOCOL, exchange, error)


class PredictProtocol(ModelRoutes):
    """The handlers of the image protocol."""

    word = PROTOCOL
    route = PredictRoute


class PredictJob(Job):
    """The good rows of one request in the queue, and the answer made of them.

    Args:
        rows: As in ``Job``.
        deadline: As in ``Job``.
        exchange: The request to answer.
        target: The version that classifies.
        top: Labels in the answer for each row.
        errors: A message, or None for a good row, for each file; None: a single good image.
        files: The encoded images; None: the body is the only one.
    """

    __slots__ = ("_errors", "_exchange", "_files", "_target", "_top")

    def __init__(  # noqa: PLR0913, PLR0917 - a call with names costs every request
        self,
        rows: list[Pixels],
        deadline: float,
        exchange: Exchange,
        target: Target,
        top: int,
        errors: list[str | None] | None = None,
        files: list[bytes] | None = None,
    ) -> None:
        super().__init__(rows, deadline)
        self._exchange = exchange
        self._target = target
        self._top = top
        self._errors = errors
        self._files = files

    @property
    def numbers(self) -> Sequence[int]:
        """Return the number of each good row among the results."""
        if self._errors is None:
            return range(1)
        return [number for number, error in enumerate(self._errors) if error is None]

    def enqueue(self) -> None:
        """Enter the queue.

        Raises:
            ServiceError: The queue refuses the request.
        """
        self._target.batcher.enqueue(self)
        self._exchange.job = self
        self._exchange.on_disconnect = self.cancel

    def cancel(self) -> None:
        """Leave the queue, as the client left."""
        self._target.batcher.cancel(self)

    def done(self) -> None:
        """Write the answer of the request."""
        exchange, target = self._exchange, self._target
        if self.error is not None:
            target.fail(PROTOCOL, exchange, self.error)
            return
        opening = target.opening
        if self._errors is None:
            batch, row, _ = self.parts[0]
            if batch.precision:
                opening = target.lower_opening
            if row in batch.not_finite:
                target.fail(PROTOCOL, exchange, InferenceError(batch.not_finite[row]))
                return
            results = target.fragments(batch, self._top)[row]
        else:
            entries = self._entries(self._errors)
            if isinstance(entries, ServiceError):
                target.fail(PROTOCOL, exchange, entries)
                return
            results = b",".join(entries)
            if self.precision:
                opening = target.lower_opening
        now = time.monotonic()
        body = b'%s,"results":[%s]}' % (opening, results)
        exchange.respond(200, body, JSON, server_timing(self, exchange, now))
        target.metrics.count_request(PROTOCOL, 200, now - exchange.received_at)
        recording = target.recording
        if recording is not None:
            recording.left -= 1
            if recording.left < 0:
                files = [exchange.body] if self._files is None else self._files
                asked = PROTOCOL, exchange.request_id, exchange.received_at
                recording.answered(*asked, self, files, self._errors)

    def _entries(self, errors: list[str | None]) -> list[bytes] | ServiceError:
        """Return the result of each file; an error if no row of the request has an answer."""
        wrong = self.row_errors()
        if len(wrong) == self.count:
            return InferenceError(wrong[0])
        fragments = self._target.classifier.postprocessor.job_fragments(self, self._top)
        for row, error in wrong.items():
            fragments[row] = error_body(error)
        good = iter(fragments)
        return [next(good) if error is None else error_body(error) for error in errors]


def answer_files(
    files: list[bytes], exchange: Exchange, target: Target, top: int, deadline: float, held: Held
) -> None:
    """Answer a request for some images: decode them, then queue the good ones.

    Args:
        files: Encoded images.
        exchange: The request to answer.
        target: The version that classifies.
        top: Labels in the answer for each file.
        deadline: When the rows must have been run, seconds of the batcher's clock.
        held: What the files hold, given back once they are decoded.
    """
    try:
        row_HWC = None
        if len(files) == 1:
            row_HWC = target.decode_stage.decode_small(files[0], deadline)
        if row_HWC is None:
            _decode_files(files, exchange, target, top, deadline, held)
            return
        PredictJob([row_HWC], deadline, exchange, target, top, files=_kept(files, target)).enqueue()
    except ServiceError as error:
        target.fail(PROTOCOL, exchange, error)
    held.give()


def _kept(files: list[bytes], target: Target) -> list[bytes] | None:
    """Return images that are kept until the answer, as they may be recorded; else None."""
    return files if target.recording is not None else None


def _decode_files(
    files: list[bytes],
    exchange: Exchange,
    target: Target,
    top: int,
    deadline: float,
    held: Held | None = None,
) -> None:
    """Decode images that are large or several, then queue the good ones; see ``answer_files``.

    Raises:
        ServiceError: The queue refuses the request; what is held is not given back.
    """

    def queue(rows: list[Pixels], errors: Errors) -> None:
        exchange.on_disconnect = None
        if held is not None:
            held.give()
        if exchange.disconnected:
            return
        try:
            if not rows:
                raise next(error for error in errors if error is not None)
            messages = [None if error is None else error.message for error in errors]
            kept = _kept(files, target)
            PredictJob(rows, deadline, exchange, target, top, messages, kept).enqueue()
        except ServiceError as error:
            target.fail(PROTOCOL, exchange, error)

    cancel = target.decode_stage.decode(files, deadline, queue)
    if cancel is not None:
        exchange.on_disconnect = cancel


class _Wrapped(BodyWork):
    """One request whose images are not simply its body: compressed, in a form, or both.

    Args:
        engine: What all protocols share.
        exchange: The request to answer.
        target: The version that classifies.
        top: Labels in the answer for each file.
        deadline: As in ``Job``.
        is_form: Whether the body is a form.
    """

    __slots__ = ("_is_form", "_target", "_top")

    def __init__(
        self,
        engine: Engine,
        exchange: Exchange,
        target: Target,
        top: int,
        deadline: float,
        *,
        is_form: bool,
    ) -> None:
        super().__init__(engine, exchange, deadline)
        self._target = target
        self._top = top
        self._is_form = is_form

    def begin(self) -> None:
        """Open the body, now or on a thread.

        Raises:
            ServiceError: The queue refuses the request.
        """
        exchange = self._exchange
        if exchange.content_coding is not None or len(exchange.body) > INLINE_BYTES:
            self._reserve(self._target.batcher)
        try:
            self._expand(self._read)
        except ServiceError as error:
            self._fail(error)

    def _read(self, body: bytes) -> None:
        if not self._is_form:
            self._decode([body])
            return
        content_type, most = self._exchange.content_type or b"", self._engine.max_request_rows
        read = partial(read_files, content_type, body, most)
        self._do(read, len(body), self._decode, is_inline=len(body) <= INLINE_BYTES)

    def _decode(self, files: list[bytes]) -> None:
        self._release()
        if self._exchange.disconnected:
            self._held.give()
            return
        answer_files(files, self._exchange, self._target, self._top, self._deadline, self._held)

    def _fail(self, error: ServiceError) -> None:
        self._release()
        self._held.give()
        self._target.fail(PROTOCOL, self._exchange, error)


def _is_form(content_type: bytes) -> bool:
    """Return whether the body is a form; False: it is one image.

    Raises:
        UnsupportedMediaError: The media type is neither a form nor an image.
    """
    media_type = content_type.lower()
    if media_type.startswith(b"multipart/form-data"):
        return True
    # Some clients send the header without a value; the last one is `curl --data-binary`'s.
    images = (*_IMAGE_TYPES, b"application/x-www-form-urlencoded")
    if not media_type or media_type.startswith(images):
        return False
    raise UnsupportedMediaError(
        "content-type: expected image/*, application/octet-stream or multipart/form-data, "
        f"got {media_type.decode('latin-1')[:200]!r}; send the image's bytes as the body"
    )


def _top(query: bytes, classes: int) -> int:
    try:
        fields = parse_qs(
            query.decode("latin-1"), keep_blank_values=True, max_num_fields=_MAX_QUERY_FIELDS
        )
    except ValueError:
        raise InvalidInputError(
            f"query: expected at most {_MAX_QUERY_FIELDS} fields, got more"
        ) from None
    for name in fields.keys() & {"model", "version"}:
        raise InvalidInputError(
            f"query: expected no {name}, got {fields[name][-1][:40]!r}; name it in the path: "
            "/models/NAME/versions/V/predict, or /models/NAME/predict"
        )
    return read_top(fields.get("top", [str(TOP)])[-1], classes)


def read_top(text: str, classes: int) -> int:
    """Return how many labels a request asks for, at most ``classes``.

    Raises:
        InvalidInputError: The text is not a whole number above 0.
    """
    if not (text.isascii() and text.isdecimal() and int(text[:9])):
        raise InvalidInputError(
            f"top: expected a whole number above 0 (more than {classes} gives all {classes}), got "
            f"{text[:40]!r}"
        )
    return min(int(text[:9]), classes)
