"""The BentoML service: wire, start, drain, stop; no logic.

``bentoml serve`` imports this module in its supervisor (to read the configuration) and in each
worker, where BentoML calls ``LaneService.to_asgi`` just before uvicorn is configured and makes one
``Foveal`` inside the running event loop.
"""

import asyncio
import ctypes
import gc
import logging
import os
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any

# Before BentoML is imported, as it reads the variable once. This service sends no usage data.
os.environ.setdefault("BENTOML_DO_NOT_TRACK", "True")

import bentoml
import orjson
from _bentoml_sdk import Service
from bentoml._internal.configuration.containers import BentoMLContainer
from bentoml._internal.service.openapi.specification import PathItem
from bentoml.validators import ContentType
from starlette.types import ASGIApp, Receive, Scope, Send

from models.machine import available_cpus
from models.repository import ModelRepository
from service.errors import InferenceError
from service.inflight import Inflight
from service.lane.asgi import OneErrorShape
from service.lane.connection import install
from service.lane.exchange import Exchange, Handler
from service.lane.lane import Lane, not_ready
from service.lane.observers import AccessLog, Observer, Tracing
from service.metrics import Meters
from service.pipeline.classifier import Classifier
from service.pipeline.decode_queue import DecodeQueue
from service.pipeline.job import Batch
from service.pipeline.limits import BatchLimits
from service.protocols.engine import Engine
from service.protocols.openapi import lane_paths
from service.protocols.predict import TOP, PredictProtocol
from service.protocols.rollout import RolloutProtocol
from service.protocols.v2.documents import Statistics
from service.protocols.v2.http import V2Http
from service.rollout.catalog import load_catalog
from service.rollout.loading import LoadOptions
from service.rollout.model_control import ModelControl
from service.rollout.shadow import Shadows
from service.rollout.watch import Watch
from service.session.buckets import parse_buckets
from service.session.devices import select_device
from service.session.planning import DeviceOptions
from service.session.plans import SelectedDevice
from service.settings import load_settings

try:
    from service.protocols.v2.grpc import V2Grpc
    from service.protocols.v2.grpc_server import GrpcLimits, GrpcServer
except ModuleNotFoundError as error:  # the grpc extra is not installed
    if (error.name or "").split(".")[0] not in ("grpc", "grpc_health", "tritonclient", "google"):
        raise
    has_grpc = False
else:
    has_grpc = True

logger = logging.getLogger("foveal.app")
# Niceness of the decode threads above the process's own: the lowest priority. Measured on one core,
# small images at 16 connections beside a stream of photographs: their p99 rises 1.4 times with it,
# and 3.2 times with 5 or 10.
_DECODE_NICE = 19
settings = load_settings()


class LaneService(Service[Any]):  # type: ignore[misc]  # BentoML's is untyped here
    """A BentoML service whose workers answer prediction routes in the lane."""

    def to_asgi(self, is_main: bool = True) -> ASGIApp:
        """Install the lane for the server that is about to be configured; return BentoML's app."""
        install(lane)
        return OneErrorShape(FlushedMetrics(super().to_asgi(is_main)))

    @property
    def openapi_spec(self) -> Any:
        """Return BentoML's own document with the lane's paths added."""
        specification = super().openapi_spec
        for path, methods in lane_paths().items():
            specification.paths[path] = PathItem(**methods)
        return specification


class FlushedMetrics:
    """Middleware that flushes this worker's tallies before ``/metrics`` is answered."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass everything through."""
        if scope["type"] == "http" and scope["path"] == "/metrics" and running:
            running[0].meters.flush()
        await self.app(scope, receive, send)


def _yield_to_loop() -> None:
    """Lower the priority of this thread: large images may wait, small ones on the loop may not."""
    if sys.platform == "linux":  # elsewhere priorities belong to processes, not to threads
        nice = os.getpriority(os.PRIO_PROCESS, os.getpid()) + _DECODE_NICE
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), nice)


def _give_memory_back() -> None:
    """Return freed memory to the system: 40 MiB after the shipped models are loaded."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:  # glibc has it, musl does not
        trim(0)


def _observers() -> list[Observer]:
    """Return the observers of every answer: none, unless a setting or BentoML's asks for one."""
    observers: list[Observer] = []
    if settings.access_log:
        observers.append(AccessLog(settings.access_log))
    if BentoMLContainer.tracing.exporter_type.get() is not None:
        observers.append(Tracing(BentoMLContainer.tracer_provider.get()))
    return observers


def _log_as_bentoml() -> None:
    """Log through BentoML's handlers, in its format."""
    ours = logging.getLogger("foveal")
    ours.handlers = logging.getLogger("bentoml").handlers
    ours.setLevel(logging.INFO)
    ours.propagate = False


def _find_while_loading(path: bytes) -> Handler | None:
    is_ours = path in (b"/predict", b"/v2") or path.startswith((b"/models/", b"/v2/"))
    return not_ready if is_ours else None


lane = Lane(
    max_body_bytes=settings.max_body_bytes,
    receive_timeout_s=settings.receive_timeout_s,
    keep_alive_s=settings.keep_alive_s,
    drain_timeout_s=settings.drain_timeout_s,
)
lane.route(_find_while_loading)
running: "list[Foveal]" = []  # the only instance of this worker, once it is made


@bentoml.service(
    name="foveal",
    service_class=LaneService,
    workers=settings.workers,
    traffic={"timeout": settings.request_timeout_s},
    logging={"access": {"enabled": False}},
    http={"port": 3000},
)
class Foveal:
    """Foveal answers what is in a picture: POST an image to /predict."""

    def __init__(self) -> None:
        _log_as_bentoml()
        self.loop = asyncio.get_running_loop()
        self.meters = Meters(self.loop)
        self.inflight = Inflight(settings.max_inflight_mib << 20)
        decode_threads = settings.decode_threads or available_cpus()
        self.decoders = ThreadPoolExecutor(decode_threads, "decode", initializer=_yield_to_loop)
        self.statistics = Statistics(self.meters)
        self.control = self._load()
        self.shadows = Shadows(lambda: self.control.catalog, self.loop)
        self.rollout = RolloutProtocol(self.control)
        self.engine = Engine(
            lambda: self.control.catalog,
            self.loop,
            self.decoders,
            self.meters,
            request_timeout_s=settings.request_timeout_s,
            max_request_rows=settings.max_request_rows,
            decode_queue=DecodeQueue(self.decoders, decode_threads, self.loop, self.inflight),
        )
        self.predict = PredictProtocol(self.engine)
        self.v2 = V2Http(
            self.engine, self.control, self.statistics, self._is_ready, settings.max_body_bytes
        )
        self.control.on_replace = self._forget
        self.watch = Watch(self.control.poll, settings.reload_s)
        lane.observers = _observers()
        lane.route(
            lambda path: self.predict.find(path) or self.v2.find(path) or self.rollout.find(path)
        )
        self.is_draining = False
        self.grpc = self._serve_grpc()
        lane.on_drain = self._drain
        running[:] = [self]
        # What is loaded now lives as long as the process, so the collector may skip it. A request
        # leaves no cycles behind, so young objects need fewer collections, too.
        gc.collect()
        gc.freeze()
        gc.set_threshold(50_000, 20, 100)
        _give_memory_back()

    def _load(self) -> ModelControl:
        repository = ModelRepository(settings.models)
        options = LoadOptions(
            BatchLimits(
                settings.max_batch_size,
                settings.max_queue_rows,
                settings.max_queue_delay_ms / 1000,
            ),
            settings.max_image_pixels,
            settings.threads,
            settings.workers,
            settings.precision,
            settings.instances,
            self._device(),
            frozenset(settings.model_fields_set),
        )
        catalog = load_catalog(
            repository, settings.default_model, settings.loaded_versions, options
        )
        for classifier in catalog:
            self._start(classifier)
        return ModelControl(
            repository,
            settings.loaded_versions,
            options,
            self.meters,
            catalog,
            self._start,
            token=settings.admin_token,
            workers=settings.workers,
            reload_s=settings.reload_s,
            default_model=settings.default_model,
        )

    def _device(self) -> DeviceOptions:
        """Find the device; without it no model gets ready, and the reason is given for each."""
        worker = (bentoml.server_context.worker_index or 1) - 1
        selected, error = SelectedDevice(asked=settings.device), ""
        try:
            selected = select_device(settings.device, worker)
        except InferenceError as refusal:
            error = refusal.message
        cache = settings.engine_cache or Path.home() / ".cache/foveal/engines"
        return DeviceOptions(
            selected,
            error,
            parse_buckets(settings.buckets),
            settings.gpu_tf32,
            settings.gpu_memory_mib << 20,
            Path(cache),
        )

    def _start(self, classifier: Classifier) -> None:
        classifier.start(self.loop, self._observe_batch, lane.outbox, lane.newcomers)
        self.meters.of(classifier)

    def _forget(self) -> None:
        self.predict.forget()
        self.v2.forget()

    def _observe_batch(self, classifier: Classifier, batch: Batch) -> None:
        self.meters.observe_batch(classifier, batch)
        self.statistics.observe_batch(classifier, batch)
        self.shadows.observe_batch(classifier, batch)

    def _serve_grpc(self) -> "GrpcServer | None":
        if not settings.grpc_port:
            return None
        if not has_grpc:
            logger.warning("V2 over gRPC is off: install foveal[grpc], or set FOVEAL_GRPC_PORT=0")
            return None
        servicer = V2Grpc(self.engine, self.control, self.statistics, self._is_ready)
        limits = GrpcLimits(
            settings.grpc_host,
            settings.grpc_port,
            settings.workers > 1,
            settings.max_body_bytes,
            settings.drain_timeout_s,
        )
        return GrpcServer(servicer, limits)

    def _drain(self) -> None:
        self.is_draining = True
        if self.grpc is not None:
            self.grpc.drain()

    def _is_ready(self) -> bool:
        """Return whether every model that was present at the start has a served version.

        A model that is published later never makes the service unready.
        """
        control = self.control
        return not self.is_draining and bool(control.catalog.defaults) and not control.missing

    async def __is_ready__(self) -> bool:
        """Answer BentoML's /readyz."""
        return self._is_ready()

    @bentoml.on_shutdown  # type: ignore[untyped-decorator]
    async def stop(self) -> None:
        """Close sessions and threads; every request over HTTP has been answered by now."""
        self._drain()
        self.watch.close()
        if self.grpc is not None:
            await self.grpc.stop()
        for classifier in self.control.catalog:
            classifier.close()
        self.control.close()
        self.shadows.close()
        self.decoders.shutdown(wait=False)
        self.meters.flush()

    @bentoml.api(route="/classify")  # type: ignore[untyped-decorator]
    async def classify(
        self,
        ctx: bentoml.Context,
        image: Annotated[Path, ContentType("image/*")],
        model: str = "",
        version: int = 0,
        top: int = TOP,
    ) -> dict[str, Any]:
        """Classify one image file.

        Args:
            ctx: BentoML's context; the status of an error is set on its response.
            image: An encoded image: JPEG, PNG, WebP, GIF, BMP, TIFF or PPM.
            model: Name of a served model; empty: the default one.
            version: One of its versions; 0: the default one.
            top: How many labels to return.
        """
        answer: asyncio.Future[tuple[int, bytes]] = self.loop.create_future()

        def write(_e: Exchange, status: int, body: bytes, _type: bytes, _extra: bytes) -> None:
            if not answer.done():
                answer.set_result((status, body))

        exchange = Exchange("POST", b"/classify", b"top=%d" % top, [], write)
        exchange.body = image.read_bytes()
        exchange.received_at = time.monotonic()
        self.predict.handle(model, str(version or ""), exchange)
        try:
            ctx.response.status_code, body = await answer
        finally:
            exchange.disconnect()
        document: dict[str, Any] = orjson.loads(body)
        return document
