"""The BentoML service: wire, start, drain, stop; no logic.

``bentoml serve`` imports this module in its supervisor (to read the configuration) and in each
worker, where BentoML calls ``LaneService.to_asgi`` just before uvicorn is configured and makes one
``Foveal`` inside the running event loop.
"""

import asyncio
import contextlib
import functools
import gc
import logging
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

# This service sends no usage data.
os.environ.setdefault("BENTOML_DO_NOT_TRACK", "True")

import attrs
import bentoml
from _bentoml_impl.server.app import ServiceAppFactory  # type: ignore[import-untyped]
from _bentoml_sdk import Service
from bentoml._internal.configuration.containers import BentoMLContainer
from bentoml._internal.service.openapi.specification import Info, PathItem
from bentoml._internal.utils.analytics.usage_stats import do_not_track
from bentoml.validators import ContentType
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp

from models.repository import ModelRepository
from service.access.access import open_access
from service.access.metrics_port import MetricsPort, moved
from service.errors import NotReadyError
from service.inflight import Inflight
from service.lane.asgi import FreshMetrics, HeaderLines, OneErrorShape, ReadOnly, is_bentomls
from service.lane.exchange import Handler
from service.lane.lane import Lane
from service.lane.observers import AccessLog, Observer, Tracing
from service.lane.server import install
from service.lane.turns import Turns
from service.metrics.meters import Meters, count_key
from service.page.files import Page
from service.pipeline.classifier import Classifier
from service.pipeline.decode_queue import open_queue
from service.pipeline.job import Batch
from service.protocols.engine import Engine
from service.protocols.feedback import FeedbackProtocol
from service.protocols.limits import BodyLimits
from service.protocols.openapi import DESCRIPTION, TITLE, lane_paths
from service.protocols.predict import TOP
from service.protocols.routes import Routes
from service.protocols.v2.documents import version
from service.protocols.v2.statistics import Statistics
from service.protocols.while_loading import find_while_loading
from service.record.keeper import open_keeper
from service.record.options import load_recorder
from service.rollout.catalog import Catalog, load_catalog
from service.rollout.options import control_of, load_options
from service.rollout.promoter import promoter_of
from service.rollout.shadow import Shadows
from service.rollout.starting import Starting
from service.rollout.watch import Watch
from service.rollout.welcome import welcome
from service.settings import end_if_wrong, load_settings, served_names
from service.workers import early, memory
from service.workers.control import close_control_port
from service.workers.forked import configure_bentoml
from service.workers.metric_files import adopt_files, take_room
from service.workers.supervisor import install as install_supervisor
from service.workers.worker import end_worker, join, log_as_bentoml, stopping_at_once

try:
    from service.protocols.v2.grpc import V2Grpc
    from service.protocols.v2.grpc_server import GrpcLimits, GrpcServer
except ModuleNotFoundError as error:  # the grpc extra is not installed
    if not (error.name or "").startswith(("grpc", "tritonclient", "google")):
        raise
    has_grpc = False
else:
    has_grpc = True

do_not_track.cache_clear()  # `bentoml serve` has read the variable before it imports this module
logger = logging.getLogger("foveal.app")
settings = load_settings()
take_room()
worker = join(bentoml.server_context.worker_index)
access = open_access(settings)
tls = None if access.certificate is None else access.certificate.context


class LaneService(Service[Any]):  # type: ignore[misc]  # BentoML's is untyped here
    """A BentoML service whose workers answer prediction routes in the lane."""

    def to_asgi(self, is_main: bool = True) -> ASGIApp:
        """Install the lane for the server that is about to be configured; return BentoML's app."""
        install(lane, tls)
        if folder := os.environ.get("PROMETHEUS_MULTIPROC_DIR"):
            adopt_files(Path(folder))
        configure_bentoml(self.inject_config)
        factory = ServiceAppFactory(self, is_main=is_main)
        factory.timeout = None  # BentoML's timer of a request stays for the whole time-out
        app = OneErrorShape(ReadOnly(FreshMetrics(factory(), _flush)))
        return HeaderLines(app, lane.lines)

    @property
    def openapi_spec(self) -> Any:
        """Return the document of every route; of BentoML's own only the schemas stay."""
        paths = {path: PathItem(**methods) for path, methods in lane_paths().items()}
        info = Info(title=TITLE, version=version(), description=DESCRIPTION)
        return attrs.evolve(super().openapi_spec, info=info, tags=None, paths=paths)


def _flush() -> None:
    for service in running:
        service.meters.flush()


def _observers() -> list[Observer]:
    """Return the observers of every answer: none, unless a setting or BentoML's asks for one."""
    observers: list[Observer] = []
    if settings.access_log:
        observers.append(AccessLog(settings.access_log))
    if BentoMLContainer.tracing.exporter_type.get() is not None:
        observers.append(Tracing(BentoMLContainer.tracer_provider.get()))
    return observers


def _find_while_loading(path: bytes) -> Handler | None:
    if settings.metrics_port and path == b"/metrics":
        return moved
    return page.find(path) or find_while_loading(
        path, lambda: starting[0].reason, early.LOADING_PAGE
    )


page = Page()
inflight = Inflight(settings.max_inflight_mib << 20)
lane = Lane(
    max_body_bytes=settings.max_body_bytes,
    receive_timeout_s=settings.receive_timeout_s,
    keep_alive_s=settings.keep_alive_s,
    drain_timeout_s=settings.drain_timeout_s,
    inflight=inflight,
    door=access.door,
)
lane.route(_find_while_loading)
starting: "list[Starting[Catalog]]" = []  # the only one of this worker, once it begins
running: "list[Foveal]" = []  # the only instance of this worker, once it is made


@bentoml.service(
    name="foveal",
    service_class=LaneService,
    workers=settings.workers,
    traffic={"timeout": settings.request_timeout_s},
    logging={"access": {"enabled": False}},
    http={"port": 3000},
    # BentoML's log names https by it, and would serve the same pair if ours were not installed.
    ssl={"enabled": False}
    if tls is None
    else {"enabled": True, "certfile": settings.tls_cert, "keyfile": settings.tls_key},
)
class Foveal:
    """Foveal answers what is in a picture: POST an image to /predict."""

    def __init__(self) -> None:
        log_as_bentoml()
        memory.return_large_blocks()
        self.loop = asyncio.get_running_loop()
        self.meters = Meters(self.loop)
        self.decoders = open_queue(settings.decode_threads, self.loop, inflight, settings.workers)
        self.statistics = Statistics(self.meters, os.environ.get("PROMETHEUS_MULTIPROC_DIR"))
        self.is_draining = False
        self.repository = ModelRepository(settings.models)
        served_names(self.repository, settings.default_model)  # wrong settings end the start
        self._until_loaded = contextlib.ExitStack()
        self._until_loaded.enter_context(stopping_at_once())
        self.starting = Starting(self._load, self._loaded, self.loop)
        starting[:] = [self.starting]
        if worker is not None and worker.has_ready_peers:
            # In the place of one that ended: the others answer meanwhile.
            self._serve(self.starting.block())
            return
        if worker is not None:
            worker.give_way(self.loop)
        self.starting.begin()

    def _load(self, tell: Callable[[str], None]) -> Catalog:
        """Load all models; on the thread of the start."""
        self.options = load_options(settings, (bentoml.server_context.worker_index or 1) - 1)
        return load_catalog(
            self.repository,
            settings.default_model,
            settings.loaded_versions,
            replace(self.options, tell=tell),
        )

    def _loaded(self, catalog: Catalog) -> None:
        wait_s = 0.0 if worker is None else worker.announce()
        self.loop.call_later(wait_s, self._serve, catalog)

    def _serve(self, catalog: Catalog) -> None:
        """Answer requests from now on."""
        for classifier in catalog:
            self._start(classifier)
        self.control = control_of(settings, self.options, self.meters, catalog, self._start)
        self.recorder = load_recorder(settings, self.repository)
        self.control.on_records = self.recorder.follow
        self.shadows = Shadows(lambda: self.control.catalog, self.loop, self.recorder.differs)
        self.engine = Engine(
            lambda: self.control.catalog,
            self.loop,
            self.decoders.threads,
            self.meters,
            request_timeout_s=settings.request_timeout_s,
            max_request_rows=settings.max_request_rows,
            limits=BodyLimits(
                settings.max_json_bytes, settings.max_values, settings.max_body_bytes
            ),
            decode_queue=self.decoders,
        )
        self.engine.inflight = inflight
        self.engine.recorder = self.recorder
        self.routes = Routes(self.engine, self.control, self.statistics, self._is_ready)
        keeper = open_keeper(settings.feedback_rows)
        self.feedback = FeedbackProtocol(
            self.engine, self.repository, self.shadows, keeper, self.recorder.bounds
        )
        self.recorder.on_change = self.routes.forget  # a route's target knows its share
        self.control.on_replace = self.routes.forget
        self.watch = Watch(
            self.control.poll,
            settings.reload_s,
            is_due=worker is not None and worker.was_signalled,
        )
        self.promoter = promoter_of(self.control, settings.reload_s)
        self.access_watch = self.loop.create_task(access.watch(count_key))
        self.metrics_port = self._serve_metrics()
        lane.observers = [*_observers(), *self.feedback.observers]
        self.turns = Turns(self._find, lane.route, self.loop)
        self.grpc = self._serve_grpc()
        lane.on_drain = self._drain
        self._until_loaded.close()
        running[:] = [self]
        # What is loaded now lives as long as the process, so the collector may skip it. A request
        # leaves no cycles behind, so young objects need fewer collections, too.
        gc.collect()
        gc.freeze()
        gc.set_threshold(50_000, 20, 100)
        memory.trim()
        self._join_others()
        self._say_ready()

    def _say_ready(self) -> None:
        if why := self._why_not_ready():
            logger.warning("%s; what could be loaded answers", why)
        else:
            logger.info("ready after %.1f s", self.starting.seconds)

    def _join_others(self) -> None:
        if worker is not None:
            self.control.loading = worker.loading
            lane.balance = worker.start(self.loop)
            if lane.balance is not None:
                lane.balance.closed(len(lane.connections))  # those that came while it loaded

    def _start(self, classifier: Classifier) -> None:
        classifier.start(self.loop, self._observe_batch, lane.outbox, lane.newcomers, inflight)
        classifier.batcher.on_lost = lambda: end_worker(self._drain)
        self.meters.of(classifier)

    def _find(self, path: bytes) -> Handler | None:
        if settings.metrics_port and path == b"/metrics":
            return moved
        return (
            self.routes.find(path)
            or self.feedback.find(path)
            or page.find(path)
            or (None if is_bentomls(path) else self.engine.no_such_route)
        )

    def _serve_metrics(self) -> MetricsPort | None:
        if not settings.metrics_port:
            return None
        metrics = BentoMLContainer.metrics_client.get()
        return MetricsPort(
            settings.metrics_host, settings.metrics_port, metrics.generate_latest, tls
        )

    def _observe_batch(self, classifier: Classifier, batch: Batch) -> None:
        self.turns.observe(classifier)
        self.meters.observe_batch(classifier, batch)
        self.statistics.observe_batch(classifier, batch)
        self.feedback.observe_batch(classifier, batch)
        self.shadows.observe_batch(classifier, batch)

    def _serve_grpc(self) -> "GrpcServer | None":
        if not settings.grpc_port or not has_grpc:
            return None
        servicer = V2Grpc(
            self.engine, self.control, self.statistics, self._is_ready, settings.max_message_bytes
        )
        servicer.trim = memory.Trimmer(self.loop)
        limits = GrpcLimits(
            settings.grpc_host,
            settings.grpc_port,
            settings.workers > 1,
            settings.max_message_bytes,
            settings.receive_timeout_s,
            settings.drain_timeout_s,
        )
        return GrpcServer(servicer, limits, access.keys, access.certificate)

    def _drain(self) -> None:
        self.is_draining = True
        if self.grpc is not None:
            self.grpc.drain()

    def _is_ready(self) -> bool:
        """Return whether every model that was present at the start has a served version.

        A model that is published later never makes the service unready.
        """
        return not self._why_not_ready()

    def _why_not_ready(self) -> str:
        if not running:
            return self.starting.reason
        if self.is_draining:
            return "not ready: the service is stopping; retry elsewhere"
        return self.control.why_not_ready

    async def __is_ready__(self) -> bool:
        """Answer BentoML's /readyz; it would not say why."""
        if why := self._why_not_ready():
            raise HTTPException(NotReadyError.status, why, {"Retry-After": "1"})
        return True

    @bentoml.on_deployment  # type: ignore[untyped-decorator]
    def supervise() -> None:  # type: ignore[misc]  # BentoML calls it in the supervisor, unbound
        """Prepare BentoML's supervisor, which starts the workers next and opens no other port."""
        end_if_wrong(settings)
        close_control_port()
        log_as_bentoml()
        greeting = functools.partial(welcome, settings, has_grpc)
        install_supervisor(settings.workers, settings.drain_timeout_s, greeting, tls is not None)

    @bentoml.on_shutdown  # type: ignore[untyped-decorator]
    async def stop(self) -> None:
        """Close sessions and threads; every request over HTTP has been answered by now."""
        if not running:
            return
        self._drain()
        self.watch.close()
        if self.promoter is not None:
            self.promoter.close()
        self.access_watch.cancel()
        if self.metrics_port is not None:
            await self.metrics_port.close()
        if self.grpc is not None:
            await self.grpc.stop()
        for classifier in self.control.catalog:
            classifier.close()
        self.control.close()
        self.shadows.close()
        self.feedback.close()
        self.decoders.close()
        self.recorder.close()
        self.meters.flush()

    @bentoml.api(route="/classify")  # type: ignore[untyped-decorator]
    async def classify(
        self,
        image: Annotated[Path, ContentType("image/*")],
        model: str = "",
        version: int = 0,
        top: int = TOP,
    ) -> dict[str, Any]:
        """Classify one image file.

        Args:
            image: An encoded image: JPEG, PNG, WebP, GIF, BMP, TIFF or PPM.
            model: Name of a served model; empty: the default one.
            version: One of its versions; 0: the default one.
            top: How many labels to return.
        """
        # Declared for BentoML's client and the OpenAPI document; ``ClassifyProtocol`` answers.
        del image, model, version, top
        raise AssertionError("BentoML answered /classify; this is a bug")
