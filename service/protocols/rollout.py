"""``/models/{name}/traffic``: a model's rollout, the candidates that get a share of its requests.

``GET`` returns it; ``PUT`` sets it for all workers, through ``repository.json``.
"""

from typing import Any
from urllib.parse import unquote

import orjson

from models.rollout import read_rollout
from service.errors import InvalidInputError, MethodError
from service.lane.exchange import Exchange, Handler
from service.protocols.later import Later
from service.protocols.v2.json_body import read_document
from service.rollout.model_control import ModelControl


class RolloutProtocol:
    """The handlers of the route, for an administrator.

    Args:
        control: Checks the token, and changes what is served.
    """

    def __init__(self, control: ModelControl) -> None:
        self._control = control
        self._later = Later()

    def find(self, path: bytes) -> Handler | None:
        """Return the handler of a raw path, None if the path is not this protocol's."""
        match unquote(path.decode("latin-1")).split("/"):
            case ["", "models", name, "traffic"]:
                return lambda exchange: self._handle(exchange, name)
        return None

    def _handle(self, exchange: Exchange, name: str) -> None:
        self._control.authorize(exchange.header(b"authorization") or b"")
        if exchange.method == "PUT":
            try:
                rollout = read_rollout(
                    read_document(exchange.body, exchange.content_coding, may_be_empty=False)
                )
            except ValueError as error:
                raise InvalidInputError(str(error)) from None

            async def change() -> None:
                await self._control.set_rollout(name, rollout)
                self._respond(exchange, name)

            self._later(exchange, change())
        elif exchange.method in ("GET", "HEAD"):
            self._respond(exchange, name)
        else:
            raise MethodError(f"{exchange.method}: expected GET or PUT", "GET, HEAD, PUT")

    def _respond(self, exchange: Exchange, name: str) -> None:
        """Answer with the rollout that is in effect."""
        catalog = self._control.catalog
        default = catalog.find(name)
        document: dict[str, Any] = {"model": name, "version": default.artifact.version}
        for kind, candidate in (
            ("shadow", catalog.shadows.get(default)),
            ("canary", catalog.canaries.get(name)),
        ):
            document[kind] = candidate and {
                "version": candidate.classifier.artifact.version,
                "fraction": candidate.fraction,
            }
        exchange.respond(200, orjson.dumps(document))
