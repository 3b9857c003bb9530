"""The BentoML service: wire, start, drain, stop; no logic.

``bentoml serve`` imports this module in its supervisor (to read the configuration) and in each
worker, where BentoML calls ``LaneService.to_asgi`` just before uvicorn is configured and makes one
``Foveal`` inside the running event loop.
"""

import asyncio
import gc
import logging
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any

# Before BentoML is imported: it reads the variable once. Nothing of this service phones home.
os.environ.setdefault("BENTOML_DO_NOT_TRACK", "True")

import bentoml
import orjson
from _bentoml_sdk import Service
from bentoml.validators import ContentType
from starlette.types import ASGIApp, Receive, Scope, Send

from models.repository import ModelRepository
from service.asgi import OneErrorShape
from service.connection import install
from service.exchange import Exchange, Handler
from service.lane import Lane, not_ready
from service.metrics import MODEL_REFUSED, Meters
from service.pipeline.classifier import Catalog, ServingLimits, load_catalog
from service.pipeline.job import BatchLimits
from service.pipeline.session import available_cpus
from service.protocols.predict import TOP, PredictProtocol
from service.settings import load_settings

logger = logging.getLogger("foveal.app")
settings = load_settings()


class LaneService(Service[Any]):  # type: ignore[misc]  # BentoML's is untyped here
    """A BentoML service whose workers answer prediction routes in the lane."""

    def to_asgi(self, is_main: bool = True) -> ASGIApp:
        """Install the lane for the server that is about to be configured; return BentoML's app."""
        install(lane)
        return OneErrorShape(FlushedMetrics(super().to_asgi(is_main)))


class FlushedMetrics:
    """Middleware that flushes this worker's tallies before ``/metrics`` is answered."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass everything through."""
        if scope["type"] == "http" and scope["path"] == "/metrics" and running:
            running[0].meters.flush()
        await self.app(scope, receive, send)


def _log_as_bentoml() -> None:
    """Let this service's messages go where BentoML's go, in its format."""
    ours = logging.getLogger("foveal")
    ours.handlers = logging.getLogger("bentoml").handlers
    ours.setLevel(logging.INFO)
    ours.propagate = False


def _find_while_loading(path: bytes) -> Handler | None:
    return not_ready if path == b"/predict" or path.startswith(b"/models/") else None


lane = Lane(
    max_body_bytes=settings.max_body_bytes,
    receive_timeout_s=settings.receive_timeout_s,
    keep_alive_s=settings.keep_alive_s,
    drain_timeout_s=settings.drain_timeout_s,
)
lane.route(_find_while_loading)
running: "list[Foveal]" = []  # the one instance of this worker, once it is made


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
        self.decoders = ThreadPoolExecutor(
            settings.decode_threads or available_cpus(), thread_name_prefix="decode"
        )
        self.catalog = self._load()
        self.predict = PredictProtocol(
            lambda: self.catalog, self.loop, self.decoders, self.meters,
            request_timeout_s=settings.request_timeout_s,
            max_request_rows=settings.max_request_rows,
        )  # fmt: skip
        lane.route(self.predict.find)
        lane.on_drain = self._drain
        self.is_draining = False
        running[:] = [self]
        # What is loaded now lives as long as the process: the collector need not look at it again.
        # A request leaves no cycles behind, so young objects are looked at less often, too.
        gc.collect()
        gc.freeze()
        gc.set_threshold(50_000, 20, 100)

    def _load(self) -> Catalog:
        catalog = load_catalog(
            ModelRepository(settings.models),
            settings.default_model,
            settings.loaded_versions,
            ServingLimits(
                BatchLimits(
                    settings.max_batch_size,
                    settings.max_queue_rows,
                    settings.max_queue_delay_ms / 1000,
                ),
                settings.max_image_pixels,
                settings.threads,
                settings.workers,
                settings.precision,
            ),
        )
        for classifier in catalog:
            classifier.start(self.loop, self.meters.observe_batch)
            self.meters.of(classifier)
        for reference in catalog.refused:
            MODEL_REFUSED.labels(*reference.split(":")).set(1)
        return catalog

    def _drain(self) -> None:
        self.is_draining = True

    async def __is_ready__(self) -> bool:
        """Ready: every model of the repository has a version that passed its self-test."""
        names = {reference.split(":")[0] for reference in self.catalog.refused}
        missing = names - set(self.catalog.defaults)
        return not self.is_draining and bool(self.catalog.defaults) and not missing

    @bentoml.on_shutdown  # type: ignore[untyped-decorator]
    def stop(self) -> None:
        """Close sessions and threads; every accepted request has been answered by now."""
        for classifier in self.catalog:
            classifier.close()
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
            image: An encoded image: JPEG, PNG, WebP or BMP.
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
        said: dict[str, Any] = orjson.loads(body)
        return said
