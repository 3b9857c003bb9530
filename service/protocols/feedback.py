"""``POST /models/{name}/feedback``: the truth about answers, by their ``X-Request-Id``.

The body is one object, a list of them, or a line of JSON each (``application/x-ndjson``). One is
answered with what became of it, or its error; several with counts and what was refused.
"""

import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any
from urllib.parse import unquote

import orjson

from models.artifact import ModelArtifact
from models.repository import ModelRepository
from service.errors import (
    ForbiddenError,
    InvalidInputError,
    MethodError,
    ServiceError,
    TooLargeError,
)
from service.lane.exchange import Exchange, Handler
from service.pipeline.classifier import Classifier
from service.pipeline.job import Batch
from service.protocols.body_work import BodyWork
from service.protocols.engine import Engine
from service.record.feedback import ABSTAINED, DUPLICATE, RIGHT, WRONG, Feedback, Report
from service.record.keeper import Keeper
from service.record.late import Late
from service.record.writer import Bounds
from service.rollout.shadow import Shadows

logger = logging.getLogger("foveal.feedback")

# orjson keeps other threads from running meanwhile: some milliseconds for so much.
MAX_BYTES = 1 << 20
MAX_TRUTHS = 5000
_LINES = (b"application/x-ndjson", b"application/jsonl", b"application/x-jsonlines")


class FeedbackProtocol:
    """The handlers of the route.

    Args:
        engine: What all protocols share.
        repository: Where versions are that answered and are not served any more.
        shadows: Whose answers are remembered, too.
        keeper: Remembers answers; None: feedback is off.
        bounds: Of the recording, which has answers that are forgotten.

    Attributes:
        observers: Called with every answer.
    """

    def __init__(
        self,
        engine: Engine,
        repository: ModelRepository,
        shadows: Shadows,
        keeper: Keeper | None,
        bounds: Bounds,
    ) -> None:
        self._engine = engine
        self._repository = repository
        self._keeper = keeper
        self._feedback: Feedback | None = None
        self.observers: list[Callable[[Exchange], None]] = []
        if keeper is not None:
            self._feedback = Feedback(keeper.answers, self._load, Late(bounds))
            engine.keep, shadows.keep = keeper.keep, keeper.keep_shadows
            self.observers = [keeper.observe]
            # One thread: the truths of a worker are joined one request after the other.
            self._thread = ThreadPoolExecutor(1, "feedback")

    def find(self, path: bytes) -> Handler | None:
        """Return the handler of a raw path, None if the path is not this protocol's."""
        if not path.endswith(b"/feedback"):
            return None
        match unquote(path.decode("latin-1")).split("/"):
            case ["", "models", name, "feedback"] if name:
                return partial(self._handle, name)
        return None

    def observe_batch(self, classifier: Classifier, batch: Batch) -> None:
        """Note what a finished batch answers."""
        if self._keeper is not None:
            self._keeper.observe_batch(classifier, batch)

    def close(self) -> None:
        """End the thread, once it has answered."""
        if self._feedback is not None:
            self._thread.shutdown(wait=False)

    def _handle(self, name: str, exchange: Exchange) -> None:
        if exchange.method != "POST":
            raise MethodError(f"{exchange.method}: expected POST with a truth", "POST")
        if self._feedback is None:
            raise ForbiddenError(
                "feedback: expected it to be on, got FOVEAL_FEEDBACK_ROWS=0; set it to the rows "
                "that each worker shall remember"
            )
        self._engine.catalog().find(name)
        deadline = exchange.received_at + exchange.timeout_s(self._engine.request_timeout_s)
        work = partial(_Work, self._feedback, self._thread, name)
        work(self._engine, exchange, deadline).begin()

    def _load(self, name: str, version: int) -> ModelArtifact:
        """Return a version, on the thread."""
        try:
            return self._engine.catalog().find(name, str(version)).artifact
        except ServiceError:
            return self._repository.load(name, version)


class _Work(BodyWork):
    """One request with truths."""

    __slots__ = ("_feedback", "_name", "_thread")

    def __init__(
        self,
        feedback: Feedback,
        thread: ThreadPoolExecutor,
        name: str,
        engine: Engine,
        exchange: Exchange,
        deadline: float,
    ) -> None:
        super().__init__(engine, exchange, deadline)
        self._feedback = feedback
        self._thread = thread
        self._name = name

    def begin(self) -> None:
        """Undo the body's content coding, then read it on the thread."""
        self._expand(self._read)

    def _read(self, body: bytes) -> None:
        if len(body) > MAX_BYTES:
            raise TooLargeError(
                f"body: expected at most {MAX_BYTES} bytes of truths, got {len(body)}; send several"
            )
        content_type = (self._exchange.content_type or b"").lower()
        self._thread.submit(self._join, body, are_lines=content_type.startswith(_LINES))

    def _join(self, body: bytes, *, are_lines: bool) -> None:
        """Join the truths of a body with the answers, on the thread."""
        call = self._engine.loop.call_soon_threadsafe
        try:
            answer = self._answer(read_lines(body) if are_lines else read_json(body))
        except ServiceError as error:
            call(self._fail, error.detached())
        except Exception:  # an executor would drop it, and the request would get no answer
            logger.exception("feedback could not be joined; this is a bug")
            call(self._fail, ServiceError())
        else:
            call(self._respond, answer)

    def _answer(self, document: Any) -> bytes:
        is_one = not isinstance(document, list)
        items = [document] if is_one else document
        if len(items) > MAX_TRUTHS:
            raise TooLargeError(
                f"body: expected at most {MAX_TRUTHS} truths, got {len(items)}; send several"
            )
        report = self._feedback.take(self._name, items)
        if not is_one:
            return orjson.dumps({"model": self._name} | several(report))
        for _, error in report.refused:
            raise error
        ((version, outcome),) = report.outcomes
        return orjson.dumps({"model": self._name, "version": version, "outcome": outcome})

    def _respond(self, answer: bytes) -> None:
        self._held.give()
        self._exchange.respond(200, answer)

    def _fail(self, error: ServiceError) -> None:
        self._held.give()
        self._exchange.fail(error)


def several(report: Report) -> dict[str, Any]:
    """Return the document about several truths: counts, and each that was refused."""
    counts = {outcome: report.count(outcome) for outcome in (RIGHT, WRONG, ABSTAINED, DUPLICATE)}
    refused = [
        {"item": position, "status": error.status, "error": error.message}
        for position, error in report.refused
    ]
    return {**counts, "refused": refused}


def read_json(body: bytes) -> Any:
    """Read a body of JSON.

    Raises:
        InvalidInputError: It is none.
    """
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise InvalidInputError(
            f'body: expected JSON {{"id", "row", "label"}} or a list of them, got: {error}'
        ) from None


def read_lines(body: bytes) -> list[Any]:
    """Read a body of a line of JSON each; empty lines are passed over.

    Raises:
        InvalidInputError: A line is not JSON.
        TooLargeError: There are too many.
    """
    lines = body.split(b"\n", MAX_TRUTHS + 1)
    if len(lines) > MAX_TRUTHS + 1:
        raise TooLargeError(f"body: expected at most {MAX_TRUTHS} lines, got more; send several")
    items = []
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                items.append(orjson.loads(line))
            except orjson.JSONDecodeError as error:
                raise InvalidInputError(
                    f"body, line {number}: expected JSON, got: {error}"
                ) from None
    return items
