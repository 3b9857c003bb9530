"""A loaded model, as every protocol holds it, and the set of those that are served.

``Classifier`` puts decode, queue, run and postprocess of one version together; ``Catalog`` finds
the classifier for a name and a version. No HTTP: protocols give bytes or arrays and a callback.
"""

import logging
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from models.artifact import ArtifactError, ModelArtifact
from models.image import ImageError, Pixels, decode_sized, read_size
from models.repository import Fingerprint, ModelRepository
from service.errors import (
    DecodeError,
    ModelNotFoundError,
    NotReadyError,
    ServiceError,
    TooLargeError,
)
from service.pipeline.batcher import Batcher, Loop
from service.pipeline.job import Batch, BatchLimits, Job, Rows
from service.pipeline.planning import Choice, PlanLimits, best_of, open_best
from service.pipeline.postprocess import Postprocessor
from service.pipeline.session import Session, available_cpus

logger = logging.getLogger("foveal.classifier")

# A batch this short runs on the event loop itself: handing it to a thread costs more than it frees.
# Measured for the prototype: 16-30 % more requests/s for 1 ms runs; at 45 ms newcomers starve.
INLINE_RUN_S = 0.002


@dataclass(frozen=True, slots=True)
class ServingLimits:
    """What bounds one classifier; units in the names."""

    batch: BatchLimits = field(default_factory=BatchLimits)
    max_image_pixels: int = 1 << 25
    threads: int = 0
    workers: int = 1
    precision: Choice = "fp32"

    @property
    def plan(self) -> PlanLimits:
        """Return what a session may choose from: threads asked for, else one or its share."""
        share = max(1, available_cpus() // self.workers)
        threads = (self.threads,) if self.threads else (1, share)
        return PlanLimits(self.precision, threads, self.batch.max_batch_size)


class Classifier:
    """One version of a model, loaded, self-tested and warm.

    Build it with ``load``; call ``start`` on the event loop's thread before the first request.

    Attributes:
        artifact: What it is.
        fingerprint: Of the files that it was loaded from.
        session: What runs it.
        limits: What bounds it.
    """

    def __init__(
        self, artifact: ModelArtifact, session: Session, limits: ServingLimits,
        fingerprint: Fingerprint = (),
    ) -> None:  # fmt: skip
        self.artifact = artifact
        self.fingerprint = fingerprint
        self.session = session
        self.limits = limits
        threshold = artifact.abstain.threshold if artifact.abstain else None
        self.postprocessor = Postprocessor(artifact.labels, threshold)
        self.full_batch_s = self._warm_up()
        self._executor: Executor | None = None
        self._batcher: Batcher | None = None

    @property
    def is_inline(self) -> bool:
        """Whether batches run on the event loop's own thread."""
        return self.full_batch_s <= INLINE_RUN_S

    @property
    def batcher(self) -> Batcher:
        """Return the queue; only a started classifier has one."""
        if self._batcher is None:
            raise NotReadyError(f'model "{self.artifact.reference}" is not started; retry')
        return self._batcher

    def start(
        self, loop: Loop, observe: Callable[["Classifier", Batch], None] | None = None
    ) -> None:
        """Open the queue on an event loop.

        Args:
            loop: The loop that all requests arrive on.
            observe: Called after each run with this classifier and the batch.
        """
        if not self.is_inline:
            self._executor = ThreadPoolExecutor(1, f"run-{self.artifact.name}")
        self._batcher = Batcher(
            self.session.run,
            self.artifact.image.shape_HWC,
            self.limits.batch,
            loop=loop,
            executor=self._executor,
            observe=None if observe is None else lambda batch: observe(self, batch),
        )

    def close(self) -> None:
        """Refuse new work and let the run that is out finish."""
        if self._batcher is not None:
            self._batcher.close()
        if self._executor is not None:
            self._executor.shutdown(wait=False)

    def release(self) -> None:
        """Let go of the closed queue, which refers back: frozen objects are never collected."""
        self._batcher = None

    def decode(self, encoded: bytes) -> Pixels:
        """Decode one image to a row of this model; may be called from any thread.

        Returns:
            uint8 [H, W, C], 0-255.

        Raises:
            TooLargeError: More pixels than the service takes.
            DecodeError: No image, or a truncated or corrupt one.
        """
        self.pixels(encoded)
        return self.decode_sized(encoded)

    def pixels(self, encoded: bytes) -> int:
        """Read from the header how many pixels an image has, and refuse what is not decoded.

        Raises:
            TooLargeError: More pixels than the service takes.
            DecodeError: No image, or none of the formats.
        """
        try:
            width, height = read_size(encoded)
        except ImageError as error:
            raise DecodeError(str(error)) from None
        if width * height > self.limits.max_image_pixels:
            raise TooLargeError(
                f"image: expected at most {self.limits.max_image_pixels} pixels, "
                f"got {width} x {height}"
            )
        return width * height

    def decode_sized(self, encoded: bytes) -> Pixels:
        """Decode one image that ``pixels`` has let through; see ``decode``."""
        try:
            return decode_sized(encoded, self.artifact.image)
        except ImageError as error:
            raise DecodeError(str(error)) from None

    def submit(self, rows: Rows, deadline: float, on_done: Callable[[Job], None]) -> Job:
        """Queue decoded rows; see ``Batcher.submit``."""
        return self.batcher.submit(rows, deadline, on_done)

    def _warm_up(self) -> float:
        """Run every size class once and return the seconds of a full batch (best of three)."""
        size = self.limits.batch.max_batch_size
        images = np.zeros((size, *self.artifact.image.shape_HWC), np.uint8)
        for rows in (1, 2, size):
            self.session.run(images[:rows])
        return best_of(self.session, images, 3)


def load(repository: ModelRepository, name: str, version: int, limits: ServingLimits) -> Classifier:
    """Load a version: verify it, choose a plan, replay its golden images, warm it up.

    Raises:
        ArtifactError: The files break the contract, or a golden image gets another answer.
        ServiceError: onnxruntime refuses the model.
    """
    started = time.perf_counter()
    fingerprint = repository.fingerprint(name, version)  # before: a change meanwhile is seen later
    artifact = repository.verify(name, version)
    session = open_best(repository, artifact, limits.plan)
    classifier = Classifier(artifact, session, limits, fingerprint)
    logger.info(
        "%s ready in %.0f ms: %s, %s, %d threads, full batch of %d in %.2f ms, runs on the %s",
        artifact.reference, (time.perf_counter() - started) * 1e3, session.plan.device,
        session.plan.precision, session.plan.threads, limits.batch.max_batch_size,
        classifier.full_batch_s * 1e3, "loop" if classifier.is_inline else "session's thread",
    )  # fmt: skip
    return classifier


class Catalog:
    """The classifiers that are served, by name and version; never changed, only replaced.

    Args:
        classifiers: All of them.
        default_versions: Name to the version behind a request that names none.
        default_model: Name behind a request that names none, "" if there is none.
        refused: ``name:version`` to the reason why it is not served.
    """

    def __init__(
        self,
        classifiers: list[Classifier],
        default_versions: dict[str, int],
        default_model: str,
        refused: dict[str, str],
    ) -> None:
        self.default_model = default_model
        self.refused = refused
        self._by_version = {(c.artifact.name, c.artifact.version): c for c in classifiers}
        self._defaults = {
            name: self._by_version[name, version] for name, version in default_versions.items()
        }

    @property
    def defaults(self) -> dict[str, Classifier]:
        """Return name to the classifier behind a request that names no version."""
        return self._defaults

    def __iter__(self) -> Iterator[Classifier]:
        """Iterate over all classifiers."""
        return iter(self._by_version.values())

    def matching(self, name: str, version: str) -> list[Classifier]:
        """Return what a name and a version mean, "" for all of them; raises as ``find`` does."""
        if not name:
            return list(self)
        found = self.find(name, version)
        return [found] if version else [c for c in self if c.artifact.name == found.artifact.name]

    def find(self, name: str = "", version: str = "") -> Classifier:
        """Find the classifier for what a request names.

        Args:
            name: Empty: the default model.
            version: Empty: the model's default version.

        Raises:
            ModelNotFoundError: None such; the message lists what there is.
            NotReadyError: The model is there but no version of it could be loaded.
        """
        name = name or self.default_model
        if not version:
            found = self._defaults.get(name)
        else:
            number = int(version) if version.isdecimal() and len(version) < 10 else 0
            found = self._by_version.get((name, number))
        if found is not None:
            return found
        served = sorted(f"{n}:{v}" for n, v in self._by_version)
        refused = next(
            (why for ref, why in self.refused.items() if ref.split(":")[0] == name), None
        )
        if refused is not None and name not in self._defaults:
            raise NotReadyError(f'model "{name}": no version could be loaded; see the log')
        wanted = f"{name}:{version}" if version else name
        raise ModelNotFoundError(
            f'model "{wanted}": expected one of {", ".join(served) or "none"}'
            if wanted else f"no default model; name one of {', '.join(served) or 'none'}"
        )  # fmt: skip


def load_catalog(
    repository: ModelRepository, default_model: str, loaded_versions: int, limits: ServingLimits
) -> Catalog:
    """Load the newest versions of every model in a repository; what fails is refused, not fatal.

    Args:
        repository: Where the models lie.
        default_model: Overrides the repository's default model unless empty.
        loaded_versions: How many of the newest versions of each model are loaded.
        limits: For every classifier.

    Raises:
        ArtifactError: There is no repository, or ``default_model`` is not in it.
    """
    classifiers: list[Classifier] = []
    defaults: dict[str, int] = {}
    refused: dict[str, str] = {}
    names = repository.names()
    for name in names:
        loaded = load_versions(repository, name, loaded_versions, limits)
        classifiers += loaded.good.values()
        refused |= {f"{name}:{v}": refusal.reason for v, refusal in loaded.refused.items()}
        if loaded.default is not None:
            defaults[name] = loaded.default
    if default_model and default_model not in names:
        raise ArtifactError(
            f"FOVEAL_DEFAULT_MODEL: expected one of {', '.join(names) or 'none'}, "
            f"got {default_model!r}"
        )
    try:
        default = default_model or repository.default_model()
    except ArtifactError as error:
        logger.warning("/predict has no model: %s", error)
        default = ""
    return Catalog(classifiers, defaults, default, refused)


class Refusal(NamedTuple):
    """Why a version is not served, and the files that it was refused for."""

    reason: str
    fingerprint: Fingerprint


class LoadedVersions(NamedTuple):
    """What is known of one model.

    Attributes:
        good: The versions that serve.
        default: Which of them answers where none is named, None if there are none.
        refused: Why others do not.
        preferred: Which should answer: the pinned one, else the newest.
    """

    good: dict[int, Classifier]
    default: int | None
    refused: dict[int, Refusal]
    preferred: int


NOTHING = LoadedVersions({}, None, {}, 0)


def load_versions(
    repository: ModelRepository, name: str, loaded_versions: int, limits: ServingLimits,
    known: LoadedVersions = NOTHING,
) -> LoadedVersions:  # fmt: skip
    """Load a model's newest good versions, and the pinned one; what fails is refused, not fatal.

    Args:
        repository: Where the model lies, in at least one version.
        name: The model's.
        loaded_versions: How many of the newest that can be served are loaded.
        limits: For every classifier.
        known: What came of the last time: versions whose files are as they were then stay as they
            are, loaded or refused; one that was loaded and cannot be loaded again goes on.
    """
    versions = repository.versions(name)
    # A pinned version that is gone is refused as any other that cannot be loaded.
    preferred = repository.settings().default_versions.get(name, versions[-1])
    good: dict[int, Classifier] = {}
    refused: dict[int, Refusal] = {}

    def take(version: int) -> bool:
        outcome = _load_if_changed(repository, name, version, limits, known)
        if isinstance(outcome, Refusal):
            refused[version] = outcome
            if version not in known.good:
                return False
            outcome = known.good[version]
        good[version] = outcome
        return True

    left = loaded_versions
    for version in reversed(versions):
        if not left:
            break
        left -= take(version)
    if preferred not in good and preferred not in refused:
        take(preferred)
    if preferred in good:
        default: int | None = preferred
    else:
        default = known.default if known.default in good else max(good, default=None)
    return LoadedVersions(dict(sorted(good.items())), default, refused, preferred)


def _load_if_changed(
    repository: ModelRepository, name: str, version: int, limits: ServingLimits,
    known: LoadedVersions,
) -> Classifier | Refusal:  # fmt: skip
    fingerprint = repository.fingerprint(name, version)
    loaded, refusal = known.good.get(version), known.refused.get(version)
    if loaded is not None and loaded.fingerprint == fingerprint:
        return loaded
    if refusal is not None and refusal.fingerprint == fingerprint:
        return refusal
    try:
        return load(repository, name, version, limits)
    except (ArtifactError, ServiceError) as error:
        reason = str(error)
    except Exception as error:  # whatever a file made a library do, the other versions serve
        logger.exception("%s:%d: loading failed", name, version)
        reason = f"{type(error).__name__}: {error}"
    if refusal is None or refusal.reason != reason:
        goes_on = "; what was loaded goes on" if loaded is not None else ""
        logger.error("%s:%d refused: %s%s", name, version, reason, goes_on)
    return Refusal(reason, fingerprint)
