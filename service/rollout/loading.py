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
from models.machine import Machine, available_cpus
from models.measured import Measurement, read_measurement, write_measurement
from models.repository import Fingerprint, ModelRepository
from models.tuned import Tuning, read_tuning
from service.pipeline.batcher import LOWER
from service.pipeline.classifier import Brownout, Classifier
from service.pipeline.limits import BatchLimits, ServingLimits
from service.session.formats import Choice, Variant
from service.session.gpu.cuda_runtime import CudaError
from service.session.gpu.photographs import Photographs
from service.session.machine import this_machine
from service.session.measuring import best_of, largest_batch
from service.session.planning import (
    DeviceOptions,
    PlanChoices,
    open_again,
    open_best,
    open_lower,
)
from service.session.progress import MODEL_S, Budget, Progress
from service.session.session import Session

logger = logging.getLogger("foveal.loading")

# What was measured is kept for the next start if a full batch takes longer, seconds. Small networks
# are measured in less than that, and a start on a busy machine must not decide for all later ones.
# On a GPU it is always kept: each format, layout and bucket has its algorithms searched.
KEPT_BATCH_S = 2.0


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
        has_brownout: Whether an int8 file is loaded, too, and answers in a brownout.
        keeps_measurements: Whether what was measured is written beside the model.
        photographs: The card's decoder of JPEGs; None: the CPU decodes them.
        is_polling: Whether changes of the repository are followed, as a promotion needs.
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
    has_brownout: bool = False
    keeps_measurements: bool = True
    photographs: Photographs | None = None
    is_polling: bool = True

    @property
    def limits(self) -> ServingLimits:
        """Return the bounds of the classifier."""
        return ServingLimits(self.batch, self.max_image_pixels, self.instances)

    @property
    def asked(self) -> str:
        """Return what a measurement depends on besides the machine and the file."""
        choices = self.choices
        threads = " or ".join(map(str, sorted(set(choices.threads))))
        buckets = ", ".join(map(str, self.device.buckets)) or "none"
        is_gpu = self.device.selected.device != "cpu"
        tf32 = f", TF32 {self.device.tf32}" if is_gpu else ""
        return (
            f"{choices.precision}{tf32}, {self.instances} x {threads} threads, "
            f"batches up to {choices.rows}, buckets {buckets}"
        )

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
    sessions, full_batch_s, is_kept = _open(repository, artifact, options, progress)
    session = sessions[0]
    brownout = _open_brownout(repository, artifact, options, session, progress)
    steps = progress.summary
    classifier = Classifier(
        artifact,
        sessions,
        options.limits,
        full_batch_s=full_batch_s,
        fingerprint=fingerprint,
        tuned=options.tuned,
        brownout=brownout,
        card=options.photographs.of(artifact.image) if options.photographs else None,
    )
    _check_unchanged(repository, artifact, fingerprint)
    logger.info(
        "%s ready in %.0f ms%s: %s, %s, %d x %d threads, full batch of %d in %.2f ms, runs on the "
        "%s, images resized by %s%s%s%s",
        artifact.reference,
        (time.perf_counter() - started) * 1e3,
        f" ({steps})" if steps else "",
        session.plan.device,
        session.plan.format + (" nhwc" if session.plan.layout == "nhwc" else ""),
        options.instances,
        session.plan.threads,
        options.batch.max_batch_size,
        classifier.full_batch_s * 1e3,
        "loop" if classifier.is_inline else "session's thread",
        classifier.resampler,
        ", as measured before" if is_kept else "",
        f", as tuned on {options.tuned.date}" if options.tuned else "",
        f", in a brownout {LOWER} in {brownout.full_batch_s * 1e3:.2f} ms" if brownout else "",
    )
    return classifier


def _open(
    repository: ModelRepository,
    artifact: ModelArtifact,
    options: LoadOptions,
    progress: Progress,
) -> tuple[list[Session], float, bool]:
    """Open warm sessions, by what an earlier start measured or by measuring.

    Returns:
        Sessions, seconds of a full batch, and whether an earlier start measured them.
    """
    machine = _machine(options)
    kept = read_measurement(repository, artifact, machine, options.asked) if machine else None
    choices = options.choices
    if kept is not None:
        choices = _as_kept(choices, kept)
    session = open_best(repository, artifact, choices, progress)
    # Threads of its own are a session's: runs at once would share them. A run on one thread is
    # on its caller's, and one session serves them all.
    others = options.instances - 1 if session.plan.threads > 1 else 0
    sessions = [session, *(open_again(repository, artifact, session) for _ in range(others))]
    progress.begin("warm-up")
    if kept is not None:  # the golden images have warmed the first session
        for other in sessions[1:]:
            other.run(np.zeros((1, *artifact.image.shape_HWC), np.uint8))
        return sessions, kept.full_batch_s, True
    full_batch_s = _warm_up(sessions, artifact, options.batch.max_batch_size, progress)
    plan = session.plan
    is_asked = plan.device == options.device.selected.device
    is_dear = plan.device != "cpu" or full_batch_s > KEPT_BATCH_S
    if machine and is_asked and options.keeps_measurements and is_dear:
        found = Measurement(
            artifact.fp32.sha256,
            machine,
            options.asked,
            plan.precision,
            plan.threads,
            full_batch_s,
            tf32=plan.tf32,
            layout=plan.layout,
            buckets=plan.buckets,
        )
        write_measurement(repository, artifact, found)
    return sessions, full_batch_s, False


def _as_kept(choices: PlanChoices, kept: Measurement) -> PlanChoices:
    """Return the choices that leave only what an earlier start chose."""
    if choices.device.selected.device == "cpu":
        return replace(choices, precision=kept.precision, threads=(kept.threads,))
    return replace(
        choices,
        variant=Variant(kept.precision, kept.tf32, kept.layout),
        device=replace(choices.device, buckets=kept.buckets or choices.device.buckets),
    )


def _open_brownout(
    repository: ModelRepository,
    artifact: ModelArtifact,
    options: LoadOptions,
    session: Session,
    progress: Progress,
) -> Brownout | None:
    """Open warm sessions on the int8 file, on as many threads; None if nothing can be gained."""
    plan = session.plan
    if not options.has_brownout or plan.precision == LOWER:
        return None
    if plan.device != "cpu":
        logger.warning(
            "%s: FOVEAL_BROWNOUT: expected a plan for the CPU, got %s; it has no brownout",
            artifact.reference,
            plan.device,
        )
        return None
    choices = replace(options.choices, threads=(plan.threads,))
    lower = open_lower(repository, artifact, LOWER, choices, progress)
    if lower is None:
        return None
    others = options.instances - 1 if plan.threads > 1 else 0
    sessions = [lower, *(open_again(repository, artifact, lower) for _ in range(others))]
    progress.begin("warm-up")
    full_batch_s = _warm_up(sessions, artifact, options.batch.max_batch_size, progress)
    return Brownout(sessions, full_batch_s)


def _machine(options: LoadOptions) -> Machine | None:
    """Return the machine, None if its GPU does not answer: then nothing is kept."""
    try:
        return this_machine(options.workers, options.device.selected)
    except CudaError:
        return None


def _check_unchanged(
    repository: ModelRepository, artifact: ModelArtifact, before: Fingerprint
) -> None:
    """Check that what was opened is what was checked: onnxruntime reads the file by itself."""
    now = repository.fingerprint(artifact.name, artifact.version)
    plan = str(repository.plan_path(artifact.name, artifact.version))
    if any(path != plan for path, *_ in {*before} ^ {*now}):
        raise ArtifactError(f"{artifact.reference}: its files changed while it was loaded; retry")


def _warm_up(
    sessions: Sequence[Session], artifact: ModelArtifact, most: int, progress: Progress
) -> float:
    """Run rising sizes within the budget; return the seconds of a full batch, best of four.

    Where a full batch does not fit, a smaller one is measured, and the full one takes as many times
    longer as it has more rows. What the choice of threads measured is not measured again.
    """
    budget, (first, *others) = progress.budget, sessions
    rows, seconds = first.measured
    if not rows:
        images_NHWC, seconds = largest_batch(first, artifact, most, len(others) + 3, budget)
        rows = len(images_NHWC)
        if seconds < budget.left_s:
            seconds = min(seconds, best_of(first, images_NHWC, 2, budget))
    for other in others:
        some = rows if seconds < budget.left_s else 1
        best_of(other, np.zeros((some, *artifact.image.shape_HWC), np.uint8), 0, budget)
    return seconds * most / rows


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
