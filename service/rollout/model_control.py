"""Load, reload and unload models while requests go on.

A catalog is never changed, only replaced: a request that holds a classifier of the old one keeps it
until it is answered; then the classifier is closed. Loading runs on a thread of its own, one model
at a time. Each process has its own catalog and polls the repository by itself: only the content of
the repository determines what is served, so workers need not communicate.
"""

import asyncio
import errno
import hmac
import logging
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext

from models.artifact import ArtifactError
from models.repository import ModelRepository
from models.rollout import NO_ROLLOUT, Rollout
from service.errors import (
    ForbiddenError,
    InvalidInputError,
    ModelNotFoundError,
    StorageError,
    UnauthorizedError,
)
from service.metrics.families import MODEL_REFUSED
from service.metrics.meters import Meters
from service.pipeline.classifier import Classifier
from service.rollout.catalog import NOTHING, Catalog, LoadedVersions, Refusal, load_versions
from service.rollout.loading import LoadOptions
from service.rollout.versions import VersionState, version_states

logger = logging.getLogger("foveal.model_control")

# Interval at which a replaced classifier is checked until its last answer is sent.
RETIRE_S = 0.05
# The fingerprint of no files.
_NEVER = (("", 0, 0, 0),)


class ModelControl:
    """The catalog that is served, and the operations that replace it.

    Args:
        repository: Repository.
        loaded_versions: Number of the newest versions of a model to load.
        options: Options of every version.
        meters: Metrics of the classifiers.
        catalog: Catalog of the start.
        start: Called on the loop with each new classifier.
        token: Administrator's token; empty: model control is off.
        workers: Processes of the service.
        reload_s: Interval at which each process polls the repository, seconds; 0: never.
        default_model: Overrides the repository's default model unless empty.

    Attributes:
        catalog: Catalog that is served now.
        missing: Models that had no good version when the service started, and have none yet.
        on_replace: Called after the catalog was replaced, for those that cache its contents.
        loading: Entered on the thread while it loads a model.
        on_records: Called after each poll with the shares of requests that are recorded, by model.
    """

    def __init__(  # noqa: PLR0913 - wiring, called in one place
        self,
        repository: ModelRepository,
        loaded_versions: int,
        options: LoadOptions,
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
        self._options = options
        self._meters = meters
        self._start = start
        self._token = token.encode()
        self._workers = workers
        self._reload_s = reload_s
        self._default_model = default_model
        self.on_replace: Callable[[], None] = lambda: None
        self.on_records: Callable[[Mapping[str, float]], None] = lambda _: None
        self._records: Mapping[str, float] = {}
        self.loading: Callable[[], AbstractContextManager[None]] = nullcontext
        self._unloaded: frozenset[str] = frozenset()
        self._wanted_model = catalog.default_model
        # What the start refused is tried once more: its fingerprints were not kept.
        self._refused: dict[str, dict[int, Refusal]] = {}
        for reference, reason in catalog.refused.items():
            name, _, version = reference.partition(":")
            self._refused.setdefault(name, {})[int(version)] = Refusal(reason, _NEVER)
            MODEL_REFUSED.labels(name, version).set(1)
        self._logged: dict[str, str] = {}
        self._loop = asyncio.get_running_loop()
        self._thread = ThreadPoolExecutor(1, "model-control")
        # Held from reading the catalog to its replacement: nothing else replaces it meanwhile.
        self._changing = asyncio.Lock()

    @property
    def why_not_ready(self) -> str:
        """Return which model of the start has no version yet; empty if each has one."""
        if self.missing:
            return (
                f'not ready: model "{min(self.missing)}": no version could be loaded; see the log'
            )
        return "" if self.catalog.defaults else "not ready: no model could be loaded; see the log"

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

    async def poll(self) -> None:
        """Serve what the repository holds now, except unloaded models; never raises.

        A version that cannot be loaded is refused until its files change. A model that was removed
        is still served: that is more often a mistake, or a transient state, than intended.
        """
        async with self._changing:
            try:
                names = await self._loop.run_in_executor(self._thread, self._names)
            except (ArtifactError, OSError) as error:
                self._log_once("", f"models are served as they were loaded: {error}")
                return
            self._log_once("", "")
            for name in sorted({*names, *self.catalog.defaults, *self._refused} - self._unloaded):
                await self._reload(name)
            self.missing.intersection_update(names)
            self.on_records(self._records)

    async def load(self, name: str) -> None:
        """Load or reload one model now, and try again what was refused.

        Other workers follow when they next poll.

        Raises:
            ForbiddenError: Other workers would never follow.
            ModelNotFoundError: It is not in the repository.
            InvalidInputError: The preferred version cannot be loaded; the old one is still served.
            StorageError: The repository cannot be read.
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
        """Take a model out of service; requests that hold it are answered.

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

    async def set_rollout(self, name: str, rollout: Rollout) -> None:
        """Give candidates a share of a model's requests, in this worker now.

        Other workers follow when they next poll.

        Raises:
            InvalidInputError: The model or version is missing.
            StorageError: The repository cannot be written; nothing changed.
            ForbiddenError, ModelNotFoundError: As ``load``.
        """
        try:
            await self._loop.run_in_executor(
                self._thread, self.repository.set_rollout, name, rollout
            )
        except ArtifactError as error:
            raise InvalidInputError(self._without_root(error)) from None
        except OSError as error:
            raise _storage_error(error) from None
        await self.load(name)

    def close(self) -> None:
        """Stop the thread."""
        self._thread.shutdown(wait=False)

    async def _reload(self, name: str) -> None:
        known = self._known(name)
        try:
            loaded = await self._loop.run_in_executor(self._thread, self._load_changed, name, known)
        except Exception as error:  # the other models are still reloaded
            self._log_once(name, f"{name} is served as it was loaded: {error}")
            return
        if loaded is None and known.good:
            self._log_once(name, f"{name} is gone; it is served until it is unloaded")
            return
        self._log_once(name, "")
        self._serve(name, loaded or NOTHING)

    def _log_once(self, about: str, message: str) -> None:
        """Log a message about something once, until it changes."""
        if message and self._logged.get(about) != message:
            logger.warning("%s", message)
        self._logged[about] = message

    def _names(self) -> list[str]:
        """Return the repository's models and update the default model; on the thread."""
        names = self.repository.names()
        try:
            self._records = self.repository.settings().records
            self._wanted_model = self._default_model or self.repository.default_model()
        except ArtifactError:  # they cannot be read, or no default is named: the current ones stay
            self._wanted_model = ""
        return names

    def _load_changed(self, name: str, known: LoadedVersions) -> LoadedVersions | None:
        """Load the changed versions of a model, None if there is none; on the thread."""
        if not self.repository.versions(name):
            return None
        with self.loading():
            return load_versions(self.repository, name, self._loaded_versions, self._options, known)

    def _load(self, name: str) -> LoadedVersions:
        try:
            names = ", ".join(self._names()) or "none"
            loaded = self._load_changed(name, self._known(name)._replace(refused={}))
            if loaded is None:
                raise ModelNotFoundError(f'model "{name[:80]}": expected one of {names}')
        except ArtifactError as error:
            raise InvalidInputError(self._without_root(error)) from None
        except OSError as error:
            raise _storage_error(error) from None
        return loaded

    def _without_root(self, error: ArtifactError) -> str:
        """Return an error's text for a client: paths begin at the repository."""
        return str(error).replace(f"{self.repository.root}/", "")

    def _known(self, name: str) -> LoadedVersions:
        catalog = self.catalog
        good = {c.artifact.version: c for c in catalog if c.artifact.name == name}
        default = catalog.defaults.get(name)
        version = None if default is None else default.artifact.version
        rollout = catalog.rollouts.get(name, NO_ROLLOUT)
        return LoadedVersions(good, version, self._refused.get(name, {}), 0, rollout)

    def _serve(self, name: str, loaded: LoadedVersions) -> None:
        """Replace the versions of one model in the catalog, unless nothing changed."""
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
        is_same = (loaded.good, loaded.default, loaded.rollout) == (
            known.good,
            known.default,
            known.rollout,
        )
        if is_same and (refused, default_model) == (old.refused, old.default_model):
            return
        for version, classifier in loaded.good.items():
            if classifier is not known.good.get(version):
                self._start(classifier)
        others = [c for c in old if c.artifact.name != name]
        rollouts = {**old.rollouts, name: loaded.rollout}
        self.catalog = Catalog(
            [*others, *loaded.good.values()], defaults, default_model, refused, rollouts
        )
        if loaded.rollout != known.rollout:
            logger.info("%s: rollout is %s", name, loaded.rollout.document)
        for reference in old.refused.keys() | refused.keys():
            MODEL_REFUSED.labels(*reference.split(":")).set(reference in refused)
        if loaded.default not in (None, known.default):
            logger.info("%s:%d answers", name, loaded.default)
        self.on_replace()
        for version, classifier in known.good.items():
            if classifier is not loaded.good.get(version):
                self._retire(classifier)

    def _retire(self, classifier: Classifier) -> None:
        """Close a classifier that left the catalog, after its last answer."""
        if not classifier.batcher.is_idle:
            self._loop.call_later(RETIRE_S, self._retire, classifier)
            return
        self._meters.forget(classifier)
        classifier.close()
        classifier.release()


def _storage_error(error: OSError) -> StorageError:
    """Return the error for a client, and log what it does not get to know."""
    logger.error("the repository cannot be used: %s", error)
    is_read_only = error.errno == errno.EROFS
    how = "mount it writable" if is_read_only else "see the server's log, then retry"
    return StorageError(
        f"model repository: expected to read and write it, got {error.strerror}; {how}"
    )
