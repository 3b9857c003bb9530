"""The routes of the Open Inference Protocol V2 over HTTP, as specified and as Triton's clients do.

Health, metadata and model control. ``http_infer`` answers ``infer``, ``documents`` makes what is
reported about models.
"""

from collections.abc import Callable
from typing import Any
from urllib.parse import unquote

import orjson

from service.errors import (
    InvalidInputError,
    MethodError,
    NotReadyError,
    no_such_route,
)
from service.lane.exchange import Exchange, Handler
from service.protocols.engine import Engine, remember
from service.protocols.later import Later
from service.protocols.v2.documents import (
    model_config,
    model_metadata,
    repository_index,
    server_metadata,
)
from service.protocols.v2.http_infer import InferRoute
from service.protocols.v2.json_body import read_document
from service.protocols.v2.statistics import Statistics
from service.rollout.catalog import Catalog
from service.rollout.model_control import ModelControl


class V2Http:
    """The handlers of the protocol.

    Args:
        engine: What all protocols share.
        control: Checks the token, and changes what is served.
        statistics: Counts of all protocols.
        is_ready: Returns whether the service accepts requests.
    """

    def __init__(
        self,
        engine: Engine,
        control: ModelControl,
        statistics: Statistics,
        is_ready: Callable[[], bool],
    ) -> None:
        self.engine = engine
        self.control = control
        self.statistics = statistics
        self.is_ready = is_ready
        self._fixed: dict[tuple[str, ...], Handler] = {
            (): _get(self._server),
            ("health", "live"): live,
            ("health", "ready"): _get(self._ready),
            ("models", "stats"): _get(self._all_statistics),
            ("repository", "index"): _post(self._index),
        }
        self._about_model: dict[tuple[str, ...], Callable[[Exchange, str, str], None]] = {
            (): self._metadata,
            ("ready",): self._model_ready,
            ("config",): self._config,
            ("stats",): self._statistics,
        }
        self._routes: dict[bytes, Handler] = {}
        self._later = Later()

    def find(self, path: bytes) -> Handler | None:
        """Return the handler of a raw path, None if the path is not this protocol's."""
        handler = self._routes.get(path)
        if handler is None and (path == b"/v2" or path.startswith(b"/v2/")):
            handler = self._route([unquote(p) for p in path[3:].decode("latin-1").split("/")[1:]])
            remember(self._routes, path, handler)
        return handler

    def forget(self) -> None:
        """Drop every route with its target: an unloaded model must not be kept in memory."""
        self._routes.clear()

    def _route(self, parts: list[str]) -> Handler:
        if parts and not parts[-1]:
            parts.pop()
        fixed = self._fixed.get(tuple(parts))
        if fixed is not None:
            return fixed
        match parts:
            case ["models", name, "versions", version, *rest]:
                return self._model_route(name, version, rest)
            case ["models", name, *rest]:
                return self._model_route(name, "", rest)
            case ["repository", "models", name, "load"]:
                return _post(lambda exchange: self._load(exchange, name))
            case ["repository", "models", name, "unload"]:
                return _post(lambda exchange: self._unload(exchange, name))
        return _unknown

    def _model_route(self, name: str, version: str, rest: list[str]) -> Handler:
        if rest == ["infer"]:
            return InferRoute(self.engine, name, version)
        answer = self._about_model.get(tuple(rest))
        if answer is None:
            return _unknown
        return _get(lambda exchange: answer(exchange, name, version))

    def _server(self, exchange: Exchange) -> None:
        _respond(exchange, server_metadata())

    def _ready(self, exchange: Exchange) -> None:
        if not self.is_ready():
            raise NotReadyError("not ready: loading, draining, or a model has no good version")
        _respond(exchange, {"ready": True})

    def _metadata(self, exchange: Exchange, name: str, version: str) -> None:
        catalog = self._catalog
        _respond(exchange, model_metadata(catalog, catalog.find(name, version)))

    def _model_ready(self, exchange: Exchange, name: str, version: str) -> None:
        found = self._catalog.find(name, version)
        _respond(exchange, {"name": found.artifact.name, "ready": True})

    def _config(self, exchange: Exchange, name: str, version: str) -> None:
        _respond(exchange, model_config(self._catalog.find(name, version)))

    def _statistics(self, exchange: Exchange, name: str, version: str) -> None:
        found = self._catalog.matching(name, version)

        async def answer() -> None:
            _respond(exchange, await self.statistics.of(found))

        self._later(exchange, answer())

    def _all_statistics(self, exchange: Exchange) -> None:
        self._statistics(exchange, "", "")

    @property
    def _catalog(self) -> Catalog:
        return self.engine.catalog()

    def _index(self, exchange: Exchange) -> None:
        document = read_document(exchange.body, exchange.content_coding)
        ready = document.get("ready", False)
        if type(ready) is not bool:
            raise InvalidInputError('body: expected "ready" to be a boolean')

        async def answer() -> None:
            states = await self.control.versions()
            exchange.respond(200, orjson.dumps(repository_index(states, ready=ready)))

        self._later(exchange, answer())

    def _load(self, exchange: Exchange, name: str) -> None:
        self.control.authorize(exchange.header(b"authorization") or b"")
        document = read_document(exchange.body, exchange.content_coding)
        if document.get("parameters"):
            raise InvalidInputError(
                "parameters: expected none: models come from the repository, "
                "where `foveal models` puts them"
            )

        async def load() -> None:
            await self.control.load(name)
            exchange.respond(200, b"{}")

        self._later(exchange, load())

    def _unload(self, exchange: Exchange, name: str) -> None:
        self.control.authorize(exchange.header(b"authorization") or b"")
        read_document(exchange.body, exchange.content_coding)

        async def unload() -> None:
            await self.control.unload(name)
            exchange.respond(200, b"{}")

        self._later(exchange, unload())


def _get(handler: Handler) -> Handler:
    """Return a handler that refuses other methods than GET and HEAD."""

    def check(exchange: Exchange) -> None:
        if exchange.method not in ("GET", "HEAD"):
            raise MethodError(f"{exchange.method}: expected GET", "GET, HEAD")
        handler(exchange)

    return check


def _post(handler: Handler) -> Handler:
    """Return a handler that refuses other methods than POST."""

    def check(exchange: Exchange) -> None:
        if exchange.method != "POST":
            raise MethodError(f"{exchange.method}: expected POST", "POST")
        handler(exchange)

    return check


def _live(exchange: Exchange) -> None:
    _respond(exchange, {"live": True})


live = _get(_live)  # the one route that needs no model


def _unknown(exchange: Exchange) -> None:
    raise no_such_route(exchange.method, exchange.path.decode("latin-1"))


def _respond(exchange: Exchange, document: dict[str, Any]) -> None:
    exchange.respond(200, orjson.dumps(document))
