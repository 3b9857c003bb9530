"""What every protocol needs to answer for a model: where requests go, and within which limits.

``Engine`` is one value for the whole service; ``Target`` is one version of a model with what its
requests share; ``ModelRoute`` is a handler that remembers its target, ``ModelRoutes`` a table of
them. Knows no wire format.
"""

import time
from collections.abc import Callable
from concurrent.futures import Executor
from typing import TypeVar
from urllib.parse import unquote

import orjson

from service.errors import MethodError, ModelNotFoundError, ServiceError, no_such_route
from service.inflight import Inflight
from service.lane.exchange import Exchange, Handler
from service.metrics.meters import Meters
from service.pipeline.alarm import Loop
from service.pipeline.batcher import LOWER
from service.pipeline.classifier import Classifier
from service.pipeline.decode import DecodeStage
from service.pipeline.decode_queue import DecodeQueue
from service.pipeline.job import Job
from service.protocols.limits import BodyLimits
from service.record.recorder import Recorder, Recording
from service.rollout.canary import Canary
from service.rollout.catalog import Catalog

# A route table remembers at most this many paths, each once it was asked for, and no longer ones:
# clients that vary their paths must not fill the memory.
MAX_ROUTES = 1024
MAX_ROUTE_BYTES = 256


Route = TypeVar("Route")


def remember(routes: dict[bytes, Route], path: bytes, route: Route) -> None:
    """Add a route to a table, within the limits; a full one loses the newest."""
    if len(path) <= MAX_ROUTE_BYTES:
        if len(routes) >= MAX_ROUTES:
            routes.popitem()
        routes[path] = route


class Engine:
    """What all protocols share.

    Args:
        catalog: Returns the catalog that is served now.
        loop: The loop that all requests arrive on.
        threads: Threads for large images and bodies.
        meters: Where requests are counted.
        request_timeout_s: Deadline of a request that names none, seconds.
        max_request_rows: Images or rows in one request.
        limits: What the body of one request may cost.
        decode_queue: Where large images wait; None: one in front of one of the threads.

    Attributes:
        inflight: The budget for bytes that requests hold; None: they are not counted.
        keep: Remembers the rows of an answered request by its id; None: nobody asks for them.
        recorder: Records requests; None: none are.
    """

    inflight: Inflight | None = None
    keep: Callable[[bytes, Job], None] | None = None
    recorder: Recorder | None = None

    def __init__(  # noqa: PLR0913 - wiring, called in one place
        self,
        catalog: Callable[[], Catalog],
        loop: Loop,
        threads: Executor,
        meters: Meters,
        *,
        request_timeout_s: float,
        max_request_rows: int,
        limits: BodyLimits | None = None,
        decode_queue: DecodeQueue | None = None,
    ) -> None:
        self.catalog = catalog
        self.loop = loop
        self.threads = threads
        self.meters = meters
        self.request_timeout_s = request_timeout_s
        self.max_request_rows = max_request_rows
        self.limits = limits or BodyLimits()
        self.decode_queue = decode_queue or DecodeQueue(threads, 1, loop)

    def find(self, name: str, version: str) -> "Target":
        """Find the target of a request that names a model and a version, "" for the default ones.

        Only a request that names no version may be a canary's.

        Raises:
            ModelNotFoundError: The model or the version is not served.
            NotReadyError: No version of the model could be loaded.
        """
        catalog = self.catalog()
        classifier = catalog.find(name, version)
        canary = None
        candidate = None if version else catalog.canaries.get(classifier.artifact.name)
        if candidate is not None:
            target = Target(self, candidate.classifier)
            canary = Canary(target, classifier.artifact.name, candidate.fraction)
        return Target(self, classifier, canary)

    def no_such_route(self, exchange: Exchange) -> None:
        """Answer 404: what is no route of the lane never reaches BentoML, unless it is named there.

        Raises:
            ModelNotFoundError: Always.
        """
        self.meters.count_refusal("none", ModelNotFoundError.status)
        raise no_such_route(exchange.method, exchange.path.decode("latin-1"))

    def recording_of(self, classifier: Classifier) -> Recording | None:
        """Return what records the requests of a version; None: none are."""
        if self.recorder is None:
            return None
        return self.recorder.of(
            classifier.artifact,
            classifier.session.plan.precision,
            has_shadow=classifier in self.catalog().shadows,
        )


class Target:
    """One version of a model, with what all requests for it share.

    Attributes:
        canary: Answers a share of the requests instead; None if there is no canary.
        opening: First bytes of the image protocol's JSON.
        lower_opening: The same of an answer that a brownout's precision gave.
        recording: Records a share of its requests; None: none are.
    """

    __slots__ = (
        "_meters",
        "batcher",
        "canary",
        "classifier",
        "decode_stage",
        "fragments",
        "lower_opening",
        "metrics",
        "opening",
        "recording",
    )

    def __init__(
        self, engine: Engine, classifier: Classifier, canary: "Canary[Target] | None" = None
    ) -> None:
        artifact = classifier.artifact
        self._meters = engine.meters
        self.classifier = classifier
        self.canary = canary
        self.batcher = classifier.batcher
        self.metrics = engine.meters.of(classifier)
        self.decode_stage = DecodeStage(
            classifier,
            engine.decode_queue,
            self.metrics.decode.observe,
            self.metrics.count_decoded,
        )
        self.fragments = classifier.postprocessor.fragments
        self.opening = orjson.dumps({"model": artifact.name, "version": artifact.version})[:-1]
        self.lower_opening = b'%s,"precision":"%s"' % (self.opening, LOWER.encode())
        self.recording = engine.recording_of(classifier)

    def choose(self, request_id: bytes) -> "Target":
        """Return the target that answers a request: this one, or the canary's."""
        canary = self.canary
        return canary.target if canary is not None and canary.takes(request_id) else self

    def fail(self, protocol: str, exchange: Exchange, error: ServiceError) -> None:
        """Answer with an error and count it."""
        exchange.fail(error)
        self.count_failure(protocol, error, exchange.received_at, exchange.request_id)

    def count_failure(
        self, protocol: str, error: ServiceError, received_at: float, request_id: bytes
    ) -> None:
        """Count a request that was answered with an error; ``received_at`` is monotonic seconds."""
        self.metrics.count_request(protocol, error.status, time.monotonic() - received_at)
        self._meters.touch()
        recording = self.recording
        if recording is not None:
            recording.left -= 1
            if recording.left < 0:
                recording.refused(protocol, request_id, received_at, error)


class ModelRoutes:
    """The routes of a protocol: ``/WORD``, and its forms for a named model and version.

    Args:
        engine: What all protocols share.
    """

    word: str  # last part of each path
    route: "type[ModelRoute]"

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._path = f"/{self.word}".encode()
        self.forget()

    def find(self, path: bytes) -> Handler | None:
        """Return the handler of a raw path, None if the path is not this protocol's."""
        route = self._routes.get(path)
        if route is None and path.startswith(b"/models/") and path.endswith(self._path):
            match unquote(path.decode("latin-1")).split("/"):
                case ["", "models", name, self.word] if name:
                    route = self.route(self._engine, name, "")
                case ["", "models", name, "versions", version, self.word] if name and version:
                    route = self.route(self._engine, name, version)
            if route is not None:
                remember(self._routes, path, route)
        return route

    def forget(self) -> None:
        """Drop every route with its target: an unloaded model must not be kept in memory."""
        self._routes = {self._path: self.route(self._engine, "", "")}


class ModelRoute:
    """The handler of one path of one model; finds it again only when the catalog was replaced.

    Args:
        engine: What all protocols share.
        name: The model; empty: the default one.
        version: Its version; empty: the default one.
    """

    __slots__ = ("_catalog", "_engine", "_name", "_target", "_version")

    protocol: str  # as metrics name it
    expected = "POST"  # named in the error for another method

    def __init__(self, engine: Engine, name: str, version: str) -> None:
        self._engine = engine
        self._name = name
        self._version = version
        self._catalog: Catalog | None = None
        self._target: Target | None = None

    def __call__(self, exchange: Exchange) -> None:
        """Answer one request; each protocol's own."""
        raise NotImplementedError

    def find(self, exchange: Exchange) -> Target | None:
        """Find the target in the catalog of now and keep it; answer the request if it is refused.

        A subclass calls this only for another method than POST or a catalog that it does not know:
        that check stands in each ``__call__``, as a call more would cost every request.
        """
        engine = self._engine
        catalog = engine.catalog()
        try:
            if exchange.method != "POST":
                raise MethodError(f"{exchange.method}: expected {self.expected}", "POST")
            self._target = engine.find(self._name, self._version)
        except ServiceError as error:
            engine.meters.count_refusal(self.protocol, error.status)
            exchange.fail(error)
            return None
        self._catalog = catalog
        return self._target
