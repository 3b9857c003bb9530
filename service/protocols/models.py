"""``GET /models`` and what is below it: which models answer, the card of a version, golden images.

The card is what ``model.json`` says about a version for people: labels, scores, parity, proof and
origin, without digests, paths and commands; and how it runs here. Fields have the names that they
have in ``model.json``.
"""

import asyncio
import dataclasses
from collections.abc import Callable
from typing import Any
from urllib.parse import unquote

import orjson

from models.artifact import ArtifactError, ModelArtifact
from models.describe import geometry_steps
from service.errors import MethodError, ModelNotFoundError, StorageError
from service.lane.exchange import Exchange, Handler
from service.pipeline.classifier import Classifier
from service.protocols.engine import Engine
from service.protocols.later import Later
from service.rollout.catalog import Candidate, Catalog
from service.rollout.model_control import ModelControl

Document = dict[str, Any]

_PNG = b"image/png"
# A golden image never changes, as its version does not.
_KEPT = b"cache-control: private, max-age=3600, immutable\r\n"
_MEASURED = ("metrics", "parity", "proof", "abstain", "statistics")


class ModelsProtocol:
    """The handlers of the routes.

    Args:
        engine: What all protocols share.
        control: Its repository has the golden images.
    """

    def __init__(self, engine: Engine, control: ModelControl) -> None:
        self._engine = engine
        self._control = control
        self._later = Later()

    def find(self, path: bytes) -> Handler | None:
        """Return the handler of a raw path, None if the path is not this protocol's."""
        if not path.startswith(b"/models"):
            return None
        match unquote(path.decode("latin-1")).split("/"):
            case ["", "models"]:
                return _get(lambda exchange: _respond(exchange, index(self._engine.catalog())))
            case ["", "models", name] if name:
                return _get(lambda exchange: self._card(exchange, name, ""))
            case ["", "models", name, "versions", version] if name and version:
                return _get(lambda exchange: self._card(exchange, name, version))
            case ["", "models", name, "versions", version, "golden", number] if name and version:
                return _get(lambda exchange: self._golden(exchange, name, version, number))
        return None

    def _card(self, exchange: Exchange, name: str, version: str) -> None:
        engine = self._engine
        document = card(engine.catalog().find(name, version))
        limits = engine.limits.max_body_bytes
        document["limits"] = {"images": engine.max_request_rows, "body_bytes": limits}
        _respond(exchange, document)

    def _golden(self, exchange: Exchange, name: str, version: str, number: str) -> None:
        artifact = self._engine.catalog().find(name, version).artifact
        count = len(artifact.golden)
        if not (number.isascii() and number.isdecimal() and int(number[:9]) < count):
            raise ModelNotFoundError(
                f"golden image {number[:40]!r}: expected a number below {count}"
            )
        path = artifact.golden[int(number)].path

        async def read() -> None:
            loop = asyncio.get_running_loop()
            repository = self._control.repository
            try:
                png = await loop.run_in_executor(None, repository.read_file, artifact, path)
            except ArtifactError as error:
                raise StorageError(f"golden image {number}: it can't be read") from error
            exchange.respond(200, png, _PNG, _KEPT)

        self._later(exchange, read())


def index(catalog: Catalog) -> Document:
    """Return the models that answer, sorted by name, with their versions and candidates."""
    defaults = catalog.defaults
    versions: dict[str, list[int]] = {name: [] for name in sorted(defaults)}
    for classifier in catalog:
        artifact = classifier.artifact
        versions.setdefault(artifact.name, []).append(artifact.version)
    return {
        "default": catalog.default_model,
        "models": [
            {
                "name": name,
                "version": defaults[name].artifact.version if name in defaults else None,
                "versions": sorted(numbers),
                "shadow": _share(catalog.shadows.get(defaults[name])) if name in defaults else None,
                "canary": _share(catalog.canaries.get(name)),
            }
            for name, numbers in versions.items()
        ],
    }


def _share(candidate: Candidate | None) -> Document | None:
    if candidate is None:
        return None
    version = candidate.classifier.artifact.version
    return {"version": version, "fraction": candidate.fraction}


def card(classifier: Classifier) -> Document:
    """Return what people want to know about one version."""
    artifact, plan = classifier.artifact, classifier.session.plan
    document: Document = {
        "model": artifact.name,
        "version": artifact.version,
        "task": artifact.task,
        "labels": classifier.names,
        "thresholds": artifact.thresholds or None,
        "temperature": artifact.temperature,
        "image": {
            "mode": artifact.image.mode,
            "height": artifact.image.height,
            "width": artifact.image.width,
            "geometry": geometry_steps(artifact.image),
        },
        "files": [
            {"precision": file.precision, "size_bytes": file.size_bytes} for file in artifact.files
        ],
        "golden": [image.label for image in artifact.golden],
        "provenance": _provenance(artifact),
        "runs_on": {"device": plan.device, "precision": plan.precision, "threads": plan.threads},
    }
    for name in _MEASURED:
        measured = getattr(artifact, name)
        document[name] = None if measured is None else dataclasses.asdict(measured)
    return document


def _provenance(artifact: ModelArtifact) -> Document | None:
    origin = artifact.provenance
    if origin is None:
        return None
    return {"dataset": origin.dataset, "date": origin.date, "seed": origin.seed}


def _get(handler: Callable[[Exchange], None]) -> Handler:
    """Return a handler that refuses other methods than GET and HEAD."""

    def check(exchange: Exchange) -> None:
        if exchange.method not in ("GET", "HEAD"):
            raise MethodError(f"{exchange.method}: expected GET", "GET, HEAD")
        handler(exchange)

    return check


def _respond(exchange: Exchange, document: Document) -> None:
    exchange.respond(200, orjson.dumps(document))
