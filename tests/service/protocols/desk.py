"""V2's real HTTP handlers over real tiny models, asked in this process: no socket, real loop."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from models.repository import ModelRepository
from service.errors import ServiceError
from service.lane.exchange import Exchange
from service.metrics.meters import Meters
from service.pipeline.classifier import Classifier
from service.protocols.engine import Engine
from service.protocols.limits import BodyLimits
from service.protocols.v2.http import V2Http
from service.protocols.v2.statistics import Statistics
from service.rollout.catalog import load_catalog
from service.rollout.loading import LoadOptions
from service.rollout.model_control import ModelControl
from tests.server import Answer

MAX_BODY_BYTES = 1 << 20
MAX_ROWS = 16
TOKEN = "secret"


class Desk:
    """Close it, or its loop and threads outlive the test."""

    def __init__(self, repository: Path) -> None:
        self._runner = asyncio.Runner()
        self._runner.run(self._open(ModelRepository(repository)))

    async def _open(self, repository: ModelRepository) -> None:
        loop = asyncio.get_running_loop()
        self.decoders = ThreadPoolExecutor(1)
        meters = Meters(loop)
        statistics = Statistics(meters)

        def start(classifier: Classifier) -> None:
            classifier.start(loop, statistics.observe_batch)

        catalog = load_catalog(repository, "", 2, LoadOptions())
        for classifier in catalog:
            start(classifier)
        self.control = ModelControl(
            repository, 2, LoadOptions(), meters, catalog, start, token=TOKEN, workers=1
        )
        self.engine = Engine(
            lambda: self.control.catalog,
            loop,
            self.decoders,
            meters,
            request_timeout_s=10,
            max_request_rows=MAX_ROWS,
            limits=BodyLimits(max_body_bytes=MAX_BODY_BYTES),
        )
        self.http = V2Http(self.engine, self.control, statistics, lambda: True)
        self.control.on_replace = self.http.forget

    def ask(
        self,
        path: str,
        body: bytes = b"",
        headers: Iterable[tuple[str, str]] = (),
        method: str = "POST",
    ) -> Answer:
        return self._runner.run(self._ask(path, body, headers, method))

    def ask_during(
        self,
        work: Callable[[], Awaitable[None]],
        path: str,
        body: bytes,
        headers: Iterable[tuple[str, str]],
    ) -> Answer:
        """Ask first, then do some work, then wait for the answer."""

        async def both() -> Answer:
            asking = asyncio.create_task(self._ask(path, body, headers, "POST"))
            await asyncio.sleep(0)
            await work()
            return await asking

        return self._runner.run(both())

    async def _ask(
        self, path: str, body: bytes, headers: Iterable[tuple[str, str]], method: str
    ) -> Answer:
        loop = asyncio.get_running_loop()
        answered: asyncio.Future[Answer] = loop.create_future()

        def write(_e: Exchange, status: int, body: bytes, media_type: bytes, extra: bytes) -> None:
            lines = extra.decode("latin-1").split("\r\n")[:-1]
            said = dict(line.split(": ", 1) for line in lines)
            answered.set_result(Answer(status, {"content-type": media_type.decode(), **said}, body))

        sent = [(name.lower().encode(), value.encode("latin-1")) for name, value in headers]
        exchange = Exchange(method, path.encode(), b"", sent, write)
        exchange.body = body
        exchange.content_coding = exchange.header(b"content-encoding")
        exchange.deadline_ms = exchange.header(b"x-request-timeout-ms")
        exchange.received_at = loop.time()
        handler = self.http.find(path.encode())
        assert handler is not None, f"{path} is left to BentoML"
        try:
            handler(exchange)
        except ServiceError as error:  # as the lane does
            exchange.fail(error)
        return await asyncio.wait_for(answered, 10)

    def run(self, work: Coroutine[Any, Any, None]) -> None:
        """Do some work on the loop."""
        self._runner.run(work)

    def close(self) -> None:
        self.control.close()
        self.decoders.shutdown()
        for classifier in self.control.catalog:
            classifier.close()
        self._runner.close()
