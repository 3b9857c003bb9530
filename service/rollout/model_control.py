"""What is served, and how that changes while requests go on.

A catalog is never changed, only replaced: whoever found a classifier in the old one keeps it until
its answers are out; then it is closed. Loading runs on a thread of its own, one model at a time.
Each process has its own catalog and follows the repository by itself: what is served is told by the
repository's content alone, so that workers need not talk to each other.
"""

import asyncio
import hmac
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from models.artifact import ArtifactError
from models.repository import ModelRepository
from models.traffic import NO_TRAFFIC, Traffic
from service.errors import (
    ForbiddenError,
    InvalidInputError,
    ModelNotFoundError,
    UnauthorizedError,
)
from service.metrics import MODEL_REFUSED, Meters
from service.pipeline.classifier import Classifier
from service.pipeline.limits import ServingLimits
from service.rollout.catalog import NOTHING, Catalog, LoadedVersions, Refusal, load_versions
from service.rollout.versions import VersionState, version_states

logger = logging.getLogger("foveal.model_control")

# A replaced classifier is looked at this often until its last answer is out.
RETIRE_S = 0.05
# The fingerprint of no files.
_NEVER = (("", 0, 0, 0),)


class ModelControl:
    """What is served, who may change it, and how it is done.

    Args:
        repository: Where the models lie.
        loaded_versions: Newest versions of a model that are loaded.
        limits: For every classifier.
        meters: Where classifiers are counted.
        catalog: What is served now.
        start: Called on the loop with each new classifier.
        token: What an administrator must know; empty: nobody may.
        workers: Processes of the service.
        reload_s: How often each of them looks at the repository, seconds; 0: never.
        default_model: What the repository's default model is overridden by, unless empty.

    Attributes:
        catalog: What is served now.
        missing: Models that had no good version when the service started, and have none yet.
        on_replace: Called when that was replaced, for whoever remembers what it found in it.
    """

    def __init__(  # noqa: PLR0913 - wiring, called in one place
        self,
        repository: ModelRepository,
        loaded_versions: int,
        limits: ServingLimits,
        meters: Meters,
        catalog: Catalog,
        start: Callable[[Classifier], None],
        *,
        token: str,
        workers: int = 1,
        reload_s: float = 0,
        default_model: str = "",
    ) -> None:
        self.repository = repository
        self.catalog = catalog
        self.missing = {ref.split(":")[0] for ref in catalog.refused} - set(catalog.defaults)
        self._loaded_versions = loaded_versions
        self._limits = limits
        self._meters = meters
        self._start = start
        self._token = token.encode()
        self._workers = workers
        self._reload_s = reload_s
        self._default_model = default_model
        self.on_replace: Callable[[], None] = lambda: None
        self._unloaded: frozenset[str] = frozenset()
        self._wanted_model = catalog.default_model
        # What the start refused is tried once more: its fingerprints were not kept.
        self._refused: dict[str, dict[int, Refusal]] = {}
        for reference, reason in catalog.refused.items():
            name, _, version = reference.partition(":")
            self._refused.setdefault(name, {})[int(version)] = Refusal(reason, _NEVER)
            MODEL_REFUSED.labels(name, version).set(1)
        self._said: dict[str, str] = {}
        self._loop = asyncio.get_running_loop()
        self._thread = ThreadPoolExecutor(1, "model-control")
        # From a look at the catalog to its replacement, nobody else replaces it.
        self._changing = asyncio.Lock()

    def authorize(self, authorization: bytes) -> None:
        """Check a credential as header ``Authorization`` carries it.

        Raises:
            ForbiddenError: Model control is off.
            UnauthorizedError: No token, or a wrong one.
        """
        if not self._token:
            raise ForbiddenError(
                "model control is off; set FOVEAL_ADMIN_TOKEN, and send it as a Bearer token"
            )
        scheme, _, token = authorization.partition(b" ")
        is_known = hmac.compare_digest(token.strip(), self._token)
        if scheme.lower() != b"bearer" or not is_known:
            raise UnauthorizedError("authorization: expected Bearer and FOVEAL_ADMIN_TOKEN's value")

    async def versions(self) -> list[VersionState]:
        """Return every version of the repository and whether it is served."""
        return await self._loop.run_in_executor(
            self._thread,
            lambda: version_states(self.repository, self.catalog, self._unloaded),
        )

    async def look(self) -> None:
        """Serve what the repository holds now, but for models that were unloaded; never raises.

        A version that cannot be loaded is refused until its files change. A model that is gone
        altogether goes on: that is more often a mistake, or a moment, than a wish.
        """
        async with self._changing:
            try:
                names = await self._loop.run_in_executor(self._thread, self._names)
            except (ArtifactError, OSError) as error:
                self._say("", f"models are served as they were loaded: {error}")
                return
            self._say("", "")
            for name in sorted({*names, *self.catalog.defaults, *self._refused} - self._unloaded):
                await self._look_at(name)
            self.missing.intersection_update(names)

    async def load(self, name: str) -> None:
        """Look at one model now, unloaded or not, and try again what was refused.

        Other workers follow when they look the next time.

        Raises:
            ForbiddenError: Other workers would never follow.
            ModelNotFoundError: It is not in the repository.
            InvalidInputError: The version that should answer cannot; what was served still is.
        """
        if self._workers > 1 and not self._reload_s:
            raise ForbiddenError(
                f"load: expected one worker or FOVEAL_RELOAD_S above 0, got {self._workers} "
                "workers; restart the service"
            )
        async with self._changing:
            loaded = await self._loop.run_in_executor(self._thread, self._load, name)
            if loaded.default is not None:
                self._unloaded -= {name}
            self._serve(name, loaded)
        refusal = loaded.refused.get(loaded.preferred)
        if refusal is not None:
            what = f"{loaded.default} answers" if loaded.default else "no version could be loaded"
            raise InvalidInputError(
                f'model "{name}": {what}; {loaded.preferred} refused: {refusal.reason}'
            )

    async def unload(self, name: str) -> None:
        """Take a model out of service; requests that found it are answered.

        Raises:
            ForbiddenError: Other workers would go on.
            ModelNotFoundError: It is not served.
        """
        if self._workers > 1:
            raise ForbiddenError(
                f"unload: expected one worker, got {self._workers}; "
                "take the model out of the repository and restart the service"
            )
        async with self._changing:
            if all(classifier.artifact.name != name for classifier in self.catalog):
                self.catalog.find(name)
                raise ModelNotFoundError(f'model "{name}": expected a model that is served')
            self._unloaded |= {name}
            self._serve(name, NOTHING)
        logger.info("%s unloaded", name)

    async def set_traffic(self, name: str, traffic: Traffic) -> None:
        """Give candidates a share of a model's requests, in this worker now.

        Other workers follow when they look the next time.

        Raises:
            InvalidInputError: No such model or version, or the repository cannot be written.
            ForbiddenError, ModelNotFoundError: As ``load``.
        """
        try:
            await self._loop.run_in_executor(
                self._thread, self.repository.set_traffic, name, traffic
            )
        except (ArtifactError, OSError) as error:
            raise InvalidInputError(str(error)) from None
        await self.load(name)

    def close(self) -> None:
        """Stop the thread."""
        self._thread.shutdown(wait=False)

    async def _look_at(self, name: str) -> None:
        known = self._known(name)
        try:
            loaded = await self._loop.run_in_executor(self._thread, self._survey, name, known)
        except Exception as error:  # the other models are looked at all the same
            self._say(name, f"{name} is served as it was loaded: {error}")
            return
        if loaded is None and known.good:
            self._say(name, f"{name} is gone; it is served until it is unloaded")
            return
        self._say(name, "")
        self._serve(name, loaded or NOTHING)

    def _say(self, about: str, message: str) -> None:
        """Log something once, until it changes."""
        if message and self._said.get(about) != message:
            logger.warning("%s", message)
        self._said[about] = message

    def _names(self) -> list[str]:
        """Return the repository's models, and note which is to be the default; on the thread."""
        names = self.repository.names()
        try:
            self._wanted_model = self._default_model or self.repository.default_model()
        except ArtifactError:  # none named: the one that is stays
            self._wanted_model = ""
        return names

    def _survey(self, name: str, known: LoadedVersions) -> LoadedVersions | None:
        """Load what changed; on the thread. None: there is no such model."""
        if not self.repository.versions(name):
            return None
        return load_versions(self.repository, name, self._loaded_versions, self._limits, known)

    def _load(self, name: str) -> LoadedVersions:
        try:
            names = ", ".join(self._names()) or "none"
            loaded = self._survey(name, self._known(name)._replace(refused={}))
            if loaded is None:
                raise ModelNotFoundError(f'model "{name[:80]}": expected one of {names}')
        except ArtifactError as error:
            raise InvalidInputError(str(error)) from None
        return loaded

    def _known(self, name: str) -> LoadedVersions:
        catalog = self.catalog
        good = {c.artifact.version: c for c in catalog if c.artifact.name == name}
        default = catalog.defaults.get(name)
        version = None if default is None else default.artifact.version
        traffic = catalog.traffic.get(name, NO_TRAFFIC)
        return LoadedVersions(good, version, self._refused.get(name, {}), 0, traffic)

    def _serve(self, name: str, loaded: LoadedVersions) -> None:
        """Serve a catalog with these versions of one model, if it is not what is served already."""
        old, known = self.catalog, self._known(name)
        self._refused.pop(name, None)
        if loaded.refused:
            self._refused[name] = loaded.refused
        refused = {ref: why for ref, why in old.refused.items() if ref.split(":")[0] != name}
        refused |= {f"{name}:{version}": r.reason for version, r in loaded.refused.items()}
        defaults = {n: c.artifact.version for n, c in old.defaults.items() if n != name}
        if loaded.default is not None:
            defaults[name] = loaded.default
            self.missing.discard(name)
        default_model = self._wanted_model if self._wanted_model in defaults else old.default_model
        is_same = (loaded.good, loaded.default, loaded.traffic) == (
            known.good,
            known.default,
            known.traffic,
        )
        if is_same and (refused, default_model) == (old.refused, old.default_model):
            return
        for version, classifier in loaded.good.items():
            if classifier is not known.good.get(version):
                self._start(classifier)
        others = [c for c in old if c.artifact.name != name]
        traffic = {**old.traffic, name: loaded.traffic}
        self.catalog = Catalog(
            [*others, *loaded.good.values()], defaults, default_model, refused, traffic
        )
        if loaded.traffic != known.traffic:
            logger.info("%s: traffic is %s", name, loaded.traffic.document)
        for reference in old.refused.keys() | refused.keys():
            MODEL_REFUSED.labels(*reference.split(":")).set(reference in refused)
        if loaded.default not in (None, known.default):
            logger.info("%s:%d answers", name, loaded.default)
        self.on_replace()
        for version, classifier in known.good.items():
            if classifier is not loaded.good.get(version):
                self._retire(classifier)

    def _retire(self, classifier: Classifier) -> None:
        """Close a classifier that is no longer found, once its last answer is out."""
        if not classifier.batcher.is_idle:
            self._loop.call_later(RETIRE_S, self._retire, classifier)
            return
        self._meters.forget(classifier)
        classifier.close()
        classifier.release()
