"""Load and unload models while others serve: off unless an administrator's token is set.

A catalog is never changed, only replaced: whoever found a classifier in the old one keeps it until
its answers are out; then it is closed. Loading runs on a thread of its own, one model at a time.
Each process has its own catalog, so several workers have no model control.
"""

import asyncio
import hmac
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from models.artifact import ArtifactError
from models.repository import ModelRepository
from service.errors import (
    ForbiddenError,
    InvalidInputError,
    ModelNotFoundError,
    UnauthorizedError,
)
from service.metrics import Meters
from service.pipeline.classifier import (
    Catalog,
    Classifier,
    LoadedVersions,
    ServingLimits,
    load_versions,
)
from service.protocols.v2_documents import Document, index

logger = logging.getLogger("foveal.model_control")

# A replaced classifier is looked at this often until its last answer is out.
RETIRE_S = 0.05


class ModelControl:
    """Who may change what is served, and how it is done.

    Args:
        repository: Where the models lie.
        loaded_versions: Newest versions of a model that are loaded.
        limits: For every classifier.
        meters: Where classifiers are counted.
        catalog: What is served now.
        start: Called on the loop with each new classifier.
        token: What an administrator must know; empty: nobody may.
        workers: Processes of the service.

    Attributes:
        catalog: What is served now.
        on_replace: Called when that was replaced, for whoever remembers what it found in it.
    """

    def __init__(  # noqa: PLR0913 - wiring, called in one place
        self, repository: ModelRepository, loaded_versions: int, limits: ServingLimits,
        meters: Meters, catalog: Catalog, start: Callable[[Classifier], None], *,
        token: str, workers: int,
    ) -> None:  # fmt: skip
        self.repository = repository
        self.catalog = catalog
        self._loaded_versions = loaded_versions
        self._limits = limits
        self._meters = meters
        self._start = start
        self._token = token.encode()
        self._workers = workers
        self.on_replace: Callable[[], None] = lambda: None
        self._unloaded: frozenset[str] = frozenset()
        self._loop = asyncio.get_running_loop()
        self._thread = ThreadPoolExecutor(1, "model-control")

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
        if self._workers > 1:
            raise ForbiddenError(
                f"model control: expected one worker, got {self._workers}; "
                "change the repository and restart the service"
            )

    async def index(self, *, ready: bool) -> list[Document]:
        """Return every version of the repository and whether it is served."""
        return await self._loop.run_in_executor(
            self._thread,
            lambda: index(self.repository, self.catalog, self._unloaded, ready=ready),
        )

    async def load(self, name: str) -> None:
        """Load a model, or load it anew; requests go on meanwhile.

        Raises:
            ModelNotFoundError: It is not in the repository.
            InvalidInputError: None of its versions can be served; what was served still is.
        """
        loaded = await self._loop.run_in_executor(self._thread, self._load, name)
        for classifier in loaded.classifiers:
            self._start(classifier)
        self._unloaded -= {name}
        self._replace(name, loaded)
        logger.info("%s loaded", name)

    async def unload(self, name: str) -> None:
        """Take a model out of service; requests that found it are answered.

        Raises:
            ModelNotFoundError: It is not served.
        """
        # On the same thread, so that it takes its turn behind a load that is under way.
        await self._loop.run_in_executor(self._thread, lambda: None)
        if all(classifier.artifact.name != name for classifier in self.catalog):
            self.catalog.find(name)
            raise ModelNotFoundError(f'model "{name}": expected a model that is served')
        self._unloaded |= {name}
        self._replace(name, LoadedVersions([], None, {}))
        logger.info("%s unloaded", name)

    def close(self) -> None:
        """Stop the thread."""
        self._thread.shutdown(wait=False)

    def _load(self, name: str) -> LoadedVersions:
        try:
            if not self.repository.versions(name):
                names = ", ".join(self.repository.names()) or "none"
                raise ModelNotFoundError(f'model "{name[:80]}": expected one of {names}')
            loaded = load_versions(self.repository, name, self._loaded_versions, self._limits)
        except ArtifactError as error:
            raise InvalidInputError(str(error)) from None
        if loaded.default is None:
            raise InvalidInputError(
                f'model "{name}": no version could be loaded: {"; ".join(loaded.refused.values())}'
            )
        return loaded

    def _replace(self, name: str, loaded: LoadedVersions) -> None:
        """Serve a catalog with these versions of one model, and close those that it had."""
        old = self.catalog
        defaults = {n: c.artifact.version for n, c in old.defaults.items() if n != name}
        if loaded.default is not None:
            defaults[name] = loaded.default
        refused = {ref: why for ref, why in old.refused.items() if ref.split(":")[0] != name}
        self.catalog = Catalog(
            [*(c for c in old if c.artifact.name != name), *loaded.classifiers],
            defaults,
            old.default_model,
            refused | loaded.refused,
        )
        self.on_replace()
        for classifier in old:
            if classifier.artifact.name == name:
                self._retire(classifier)

    def _retire(self, classifier: Classifier) -> None:
        """Close a classifier that is no longer found, once its last answer is out."""
        if not classifier.batcher.is_idle:
            self._loop.call_later(RETIRE_S, self._retire, classifier)
            return
        self._meters.forget(classifier)
        classifier.close()
        classifier.release()
