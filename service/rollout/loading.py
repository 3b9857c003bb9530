"""Load a version: verify it, choose how it runs, replay its golden images, warm it up.

What was set explicitly counts first, then the version's tuning, then the defaults. A tuning that
was made for other bytes or another machine is not followed, and one that cannot be read is not
fatal: the log says why once a load.
"""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from models.artifact import ArtifactError, ModelArtifact
from models.machine import available_cpus
from models.repository import ModelRepository
from models.tuned import Tuning, read_tuning
from service.pipeline.classifier import Classifier
from service.pipeline.limits import BatchLimits, ServingLimits
from service.session.machine import this_machine
from service.session.planning import (
    Choice,
    DeviceOptions,
    PlanChoices,
    best_of,
    open_again,
    open_best,
)
from service.session.progress import MODEL_S, Budget, Progress
from service.session.session import Session

logger = logging.getLogger("foveal.loading")


@dataclass(frozen=True, slots=True)
class LoadOptions:
    """How versions are loaded and served; units are in the names.

    Attributes:
        batch: Bounds of the queue and of batches.
        max_image_pixels: Pixels of an image that is decoded, at most.
        threads: onnxruntime's threads of one run; 0: one or this instance's share of the cores,
            by measurement.
        workers: Processes of the service, which share the cores.
        precision: File to run.
        instances: Runs at once.
        device: Device, and how it is used.
        explicit: Names of the settings that no tuning changes.
        tuned: Tuning that the others come from; None: they are the defaults.
        budget: What all models of a start may measure together; None: each by itself.
        tell: Called with the version and the step of a load as it begins.
    """

    batch: BatchLimits = field(default_factory=BatchLimits)
    max_image_pixels: int = 1 << 25
    threads: int = 0
    workers: int = 1
    precision: Choice = "fp32"
    instances: int = 1
    device: DeviceOptions = field(default_factory=DeviceOptions)
    explicit: frozenset[str] = frozenset()
    tuned: Tuning | None = None
    budget: Budget | None = None
    tell: Callable[[str], None] = lambda _: None

    @property
    def limits(self) -> ServingLimits:
        """Return the bounds of the classifier."""
        return ServingLimits(self.batch, self.max_image_pixels, self.instances)

    @property
    def choices(self) -> PlanChoices:
        """Return what the session's plan is chosen from."""
        share = max(1, available_cpus() // (self.workers * self.instances))
        threads = (self.threads,) if self.threads else (1, share)
        return PlanChoices(self.precision, threads, self.batch.max_batch_size, self.device)


def load(repository: ModelRepository, name: str, version: int, options: LoadOptions) -> Classifier:
    """Load a version: verify it, choose how it runs, replay its golden images, warm it up.

    Args:
        repository: Repository that holds it.
        name: Name of the model.
        version: Its number.
        options: Settings; the version's own tuning replaces those that were not set.

    Raises:
        ArtifactError: The files break the contract, or a golden image gets another answer.
        ServiceError: onnxruntime refuses the model.
    """
    started = time.perf_counter()
    fingerprint = repository.fingerprint(name, version)  # before: a change meanwhile is seen later
    progress = Progress(
        Budget(MODEL_S, options.budget), lambda step: options.tell(f"{name}:{version}, {step}")
    )
    progress.begin("reading")
    artifact = repository.verify(name, version)
    options = _tuned(repository, artifact, options)
    session = open_best(repository, artifact, options.choices, progress)
    # Threads of its own are a session's: runs at once would share them. A run on one thread is
    # on its caller's, and one session serves them all.
    others = options.instances - 1 if session.plan.threads > 1 else 0
    sessions = [session, *(open_again(repository, artifact, session) for _ in range(others))]
    progress.begin("warm-up")
    classifier = Classifier(
        artifact,
        sessions,
        options.limits,
        full_batch_s=_warm_up(sessions, artifact, options.batch.max_batch_size, progress),
        fingerprint=fingerprint,
        tuned=options.tuned,
    )
    plan = str(repository.plan_path(name, version))
    if any(file[0] != plan for file in {*fingerprint} ^ {*repository.fingerprint(name, version)}):
        # What was checked is not what was opened.
        raise ArtifactError(f"{artifact.reference}: its files changed while it was loaded; retry")
    logger.info(
        "%s ready in %.0f ms%s: %s, %s, %d x %d threads, full batch of %d in %.2f ms, runs on the "
        "%s%s",
        artifact.reference,
        (time.perf_counter() - started) * 1e3,
        f" ({steps})" if (steps := progress.summary) else "",
        session.plan.device,
        session.plan.precision,
        options.instances,
        session.plan.threads,
        options.batch.max_batch_size,
        classifier.full_batch_s * 1e3,
        "loop" if classifier.is_inline else "session's thread",
        f", as tuned on {options.tuned.date}" if options.tuned else "",
    )
    return classifier


def _warm_up(
    sessions: Sequence[Session], artifact: ModelArtifact, most: int, progress: Progress
) -> float:
    """Run the size classes within the budget; return the seconds of a full batch, best of three.

    Where a full batch does not fit, a smaller one is measured, and the full one takes as many times
    longer as it has more rows.
    """
    images_NHWC = np.zeros((most, *artifact.image.shape_HWC), np.uint8)
    budget = progress.budget
    row_s = max(best_of(session, images_NHWC[:1], 0, budget) for session in sessions)
    rows = budget.rows(row_s, most, len(sessions) + 4)
    if row_s > budget.left_s:
        return row_s * most
    for session in sessions:
        for size in {min(2, rows), rows}:
            best_of(session, images_NHWC[:size], 0, budget)
    return best_of(sessions[0], images_NHWC[:rows], 3, budget) * most / rows


def _tuned(
    repository: ModelRepository, artifact: ModelArtifact, options: LoadOptions
) -> LoadOptions:
    """Return the options of one version: its tuning's, if one was made here, unless set."""
    try:
        tuned = read_tuning(repository, artifact.name, artifact.version)
    except ArtifactError as error:
        logger.warning("%s is served without a tuning: %s", artifact.reference, error)
        return options
    if tuned is None:
        return options
    why = tuned.mismatch(artifact, this_machine(options.workers, options.device.selected))
    if why is not None:
        logger.warning(
            "%s is served without its tuning: %s; tune it again", artifact.reference, why
        )
        return options
    return _merge(options, tuned)


def _merge(options: LoadOptions, tuned: Tuning) -> LoadOptions:
    def is_free(name: str) -> bool:
        return name not in options.explicit

    batch = options.batch
    if is_free("max_batch_size"):
        batch = replace(batch, max_batch_size=tuned.max_batch_size)
    if is_free("max_queue_delay_ms"):
        batch = replace(batch, max_queue_delay_s=tuned.max_queue_delay_ms / 1000)
    device = options.device
    if is_free("buckets") and tuned.buckets:
        device = replace(device, buckets=tuned.buckets)
    return replace(
        options,
        batch=batch,
        device=device,
        precision=tuned.precision if is_free("precision") else options.precision,
        threads=tuned.threads if is_free("threads") else options.threads,
        instances=tuned.instances if is_free("instances") else options.instances,
        tuned=tuned,
    )
