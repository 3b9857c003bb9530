"""Choose a version's plan on this machine (file, threads), check it, open the session.

The fp32 file is the reference. A file of lower precision is used only if it passed its gate where
it was made and replays its own golden answers here; otherwise fp32 answers and the log
says why. Knows no requests and no queues.
"""

import logging
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from models.artifact import ArtifactError, ModelArtifact, Precision
from models.evidence import rounding_tolerance
from models.geometry import check_available
from models.image import decode
from models.machine import multiplies_whole
from models.repository import ModelRepository
from service.errors import InferenceError
from service.session.buckets import default_buckets, fit_buckets
from service.session.formats import (
    PRECISION_GAIN,
    Choice,
    Tf32,
    Variant,
    choose_variant,
    variants,
)
from service.session.measuring import best_of, blank, largest_batch
from service.session.plans import MeasuredRun, Plan, SelectedDevice
from service.session.progress import Budget, Progress
from service.session.session import Session

logger = logging.getLogger("foveal.planning")

# Probabilities of a golden image may differ this much from the recorded ones of the same precision.
# fp32: CPU kernels of other instruction sets sum in another order; exports are verified to 1e-5
# where they are made. int8: one value rounded to the next of 256 steps; onnxruntime's integer
# kernels and its float emulation of the same fashion-cnn differ by at most 0.0094 on 10,000 images.
# fp16: eleven bits, as TF32 has.
GOLDEN_TOLERANCE: dict[Precision, float] = {"fp32": 1e-4, "fp16": 1e-2, "int8": 2e-2}
# More threads must make a full batch this much faster to be worth taking from decode and HTTP.
THREADS_GAIN = 1.15
# A row that takes this long on all threads is that of a network which more threads make faster; to
# measure it would mean to open the file again, and to run batches of seconds.
LONG_ROW_S = 0.02
# A load replays golden images until this time has passed, two in any case; all of them where a
# model is verified offline. A row of a ViT-L takes seconds.
GOLDEN_S = 6.0
_LEAST_GOLDEN = 2
# What one format and layout may be measured on a GPU, seconds: searching its algorithms takes more.
_VARIANT_S = 1.0
_RUNS = 4  # of which the shortest counts; one more before them does not


class OtherProcessorError(ArtifactError):
    """This processor computes a file otherwise than the one that it was made for."""


@dataclass(frozen=True, slots=True)
class DeviceOptions:
    """What a plan may use of the device that sessions run on.

    Attributes:
        selected: Device.
        error: Error message if the device is unavailable, else empty; then no session is opened.
        buckets: Batch sizes that are run; empty: chosen by measurement on a GPU, none on a CPU.
        tf32: Whether products may be rounded to TF32.
        memory_bytes: Memory of a GPU that all sessions together may hold; 0: no limit.
        engine_cache: As in ``Plan``.
    """

    selected: SelectedDevice = field(default_factory=SelectedDevice)
    error: str = ""
    buckets: tuple[int, ...] = ()
    tf32: Tf32 = "off"
    memory_bytes: int = 0
    engine_cache: Path | None = None

    @property
    def chooses(self) -> bool:
        """Whether buckets are chosen by measurement."""
        return self.selected.device != "cpu" and not self.buckets

    def variant(self, precision: Precision) -> Variant:
        """Return how a file is computed where there is nothing to choose."""
        return Variant(precision, self.selected.device != "cpu" and self.tf32 == "on")

    def plan(self, variant: Variant, threads: int, rows: int, row_shape: tuple[int, ...]) -> Plan:
        """Return the plan for a file, with the buckets to choose from.

        Args:
            variant: The file's precision, and how it is computed.
            threads: Threads of one run on a CPU.
            rows: Rows of the largest batch.
            row_shape: (H, W, C) of each row.

        Raises:
            InferenceError: The device is unavailable.
        """
        if self.error:
            raise InferenceError(self.error)
        buckets = self.buckets or (default_buckets(rows) if self.chooses else ())
        if buckets:
            buckets = fit_buckets(buckets, rows)
        if self.selected.device == "cpu":
            return Plan("cpu", variant.precision, threads, "bound" if buckets else "plain", buckets)
        return Plan(
            self.selected.device,
            variant.precision,
            1,
            "graph",
            buckets,
            self.selected.index,
            variant.tf32,
            self.memory_bytes,
            self.engine_cache,
            row_shape,
            variant.layout,
        )


@dataclass(frozen=True, slots=True)
class PlanChoices:
    """What a plan is chosen from.

    Attributes:
        precision: File to run; ``auto``: the fastest, by measurement.
        threads: Numbers of threads to choose from, by measurement if there are several.
        rows: Rows of a full batch, which is measured.
        device: Device, and what may be used of it.
        variant: What an earlier start chose by measurement on a GPU; None: nothing is known.
    """

    precision: Choice = "fp32"
    threads: tuple[int, ...] = (1,)
    rows: int = 64
    device: DeviceOptions = field(default_factory=DeviceOptions)
    variant: Variant | None = None


def open_best(
    repository: ModelRepository,
    artifact: ModelArtifact,
    choices: PlanChoices,
    progress: Progress | None = None,
) -> Session:
    """Open the session that answers for a version, its golden images replayed.

    If the device was selected by ``auto``, a version that it cannot run falls back to the CPU and a
    warning is logged.

    Args:
        repository: Repository that holds the version.
        artifact: The verified version.
        choices: What its plan is chosen from.
        progress: Is told each step, and bounds what is measured; None: without a limit.

    Raises:
        ArtifactError: The fp32 file is needed and a golden image gets another answer, or what
            resizes pictures for the version is not installed.
        InferenceError: The fp32 file is needed and onnxruntime refuses it.
    """
    check_available(artifact.image, artifact.name)
    progress = progress or Progress()
    selected = choices.device.selected
    reason = selected.reason if selected.is_fallback else ""
    try:
        session = _open_best(repository, artifact, choices, progress)
    except (ArtifactError, InferenceError) as error:
        if selected.asked != "auto" or selected.device == "cpu":
            raise
        reason = str(error)
        cpu = DeviceOptions(buckets=choices.device.buckets)
        session = _open_best(repository, artifact, replace(choices, device=cpu), progress)
        logger.warning(
            "%s: the CPU runs it, %s cannot: %s", artifact.reference, selected.device, reason
        )
    session.asked, session.fallback = selected.asked, reason
    return session


def _open_best(
    repository: ModelRepository,
    artifact: ModelArtifact,
    choices: PlanChoices,
    progress: Progress,
) -> Session:
    if choices.device.selected.device == "cuda" and not choices.device.error:
        return _open_on_cuda(repository, artifact, choices, progress)
    reference = choices.device.variant("fp32")
    if choices.precision in ("int8", "fp16"):
        lower = open_lower(repository, artifact, choices.precision, choices, progress)
        return lower or _open_file(repository, artifact, choices, progress, reference)
    best = _open_file(repository, artifact, choices, progress, reference)
    if choices.precision == "fp32":
        return best
    progress.begin("measuring")
    runs = len(artifact.files) * (_RUNS + 1)
    images_NHWC, _ = largest_batch(best, artifact, choices.rows, runs, progress.budget)
    best_s = best_of(best, images_NHWC, _RUNS, progress.budget) / PRECISION_GAIN
    for file in artifact.files:
        session = (
            open_lower(repository, artifact, file.precision, choices, progress)
            if file.gate
            else None
        )
        progress.begin("measuring")
        seconds = best_of(session, images_NHWC, _RUNS, progress.budget) if session else float("inf")
        if session and seconds < best_s:
            best, best_s = session, seconds
    return best


def _open_on_cuda(
    repository: ModelRepository,
    artifact: ModelArtifact,
    choices: PlanChoices,
    progress: Progress,
) -> Session:
    """Open the format and layout that an earlier start chose, or that measures best."""
    asked, device = choices.precision, choices.device
    gated = {file.precision for file in artifact.files if file.gate}
    if asked in ("fp16", "int8") and asked not in gated:
        _warn_no_file(artifact, asked)
        asked = "fp32"
    found = variants("cuda", asked, device.tf32, gated)
    base = variants("cuda", "fp32", device.tf32, ())[0]
    if choices.variant is not None and choices.variant.precision in {*gated, "fp32"}:
        chosen = choices.variant
    elif len(found) > 1:
        seconds = measure_variants(repository, artifact, choices, found, progress)
        chosen = choose_variant(seconds) if seconds else base
        times = ", ".join(f"{each} {s * 1e3:.2f} ms" for each, s in seconds.items())
        logger.info(
            "%s: batches of %d: %s; %s runs", artifact.reference, choices.rows, times, chosen
        )
    else:
        (chosen,) = found
    try:
        return _open_file(repository, artifact, choices, progress, chosen)
    except (ArtifactError, InferenceError) as error:
        if chosen == base:
            raise
        logger.warning("%s does not run here, %s answers instead: %s", chosen, base, error)
        return _open_file(repository, artifact, choices, progress, base)


def measure_variants(
    repository: ModelRepository,
    artifact: ModelArtifact,
    choices: PlanChoices,
    found: Sequence[Variant],
    progress: Progress,
) -> dict[Variant, float]:
    """Measure formats and layouts on a GPU, one after the other, as a full batch alone.

    What does not open, or answers golden images otherwise, is left out, with a warning.

    Returns:
        Seconds of the shortest run of a full batch, with its copies, by variant.
    """
    device = replace(choices.device, buckets=(choices.rows,))
    golden_s = GOLDEN_S if progress.is_bounded else math.inf
    seconds: dict[Variant, float] = {}
    for variant in found:
        session = None  # let go first: two would share the device's memory
        try:
            progress.begin(f"trying {variant}")
            plan = device.plan(variant, 1, choices.rows, artifact.image.shape_HWC)
            path = _path(repository, artifact, variant.precision)
            session = Session(path, replace(plan, binding="bound"))
            self_test(repository, artifact, session, golden_s)
            images_NHWC = blank(artifact, choices.rows)
            seconds[variant] = best_of(session, images_NHWC, _RUNS, Budget(_VARIANT_S))
        except (ArtifactError, InferenceError) as error:
            logger.warning("%s: %s cannot be used here: %s", artifact.reference, variant, error)
    return seconds


def open_all(repository: ModelRepository, artifact: ModelArtifact) -> Iterator[Session]:
    """Open every file of a version in turn, its golden images replayed.

    Raises:
        ArtifactError: A golden image gets another answer.
        InferenceError: onnxruntime refuses a file.
    """
    for file in artifact.files:
        if file.gate or file.precision == "fp32":
            yield _open_file(
                repository, artifact, PlanChoices(), Progress(), Variant(file.precision)
            )


def open_again(repository: ModelRepository, artifact: ModelArtifact, session: Session) -> Session:
    """Open another session on the file and the plan of an open one, with threads of its own."""
    return Session(_path(repository, artifact, session.plan.precision), session.plan)


def self_test(
    repository: ModelRepository,
    artifact: ModelArtifact,
    session: Session,
    most_s: float = math.inf,
) -> float:
    """Replay the golden images through decoder and session.

    Args:
        repository: Repository that holds the version.
        artifact: The version.
        session: Session on one of its files.
        most_s: Time after which no further one is replayed; two are in any case.

    Returns:
        Seconds of the shortest run of one row.

    Raises:
        ArtifactError: A probability is off by more than the precision's ``GOLDEN_TOLERANCE``, and
            by more than another order of its sums may move it.
    """
    file = artifact.file(session.plan.precision)
    gate = file.gate if file else None
    tolerance = GOLDEN_TOLERANCE[session.plan.precision]
    if session.plan.tf32:
        tolerance = max(tolerance, GOLDEN_TOLERANCE["fp16"])
    # What wrapping moved, which is rounding, another machine's kernels may move as well.
    if artifact.parity is not None:
        moved = artifact.parity.max_probability_difference
        tolerance = max(tolerance, rounding_tolerance(moved))
    until = time.perf_counter() + most_s
    row_s = math.inf
    for i, golden in enumerate(artifact.golden):
        if i >= _LEAST_GOLDEN and time.perf_counter() > until:
            logger.warning(
                "%s: %d of %d golden images replayed in %.0f s; `foveal models verify` replays all",
                artifact.reference,
                i,
                len(artifact.golden),
                most_s,
            )
            break
        row_HWC = decode(repository.read_file(artifact, golden.path), artifact.image)
        started = time.perf_counter()
        got_K = session.run(row_HWC[None]).probabilities[0]
        row_s = min(row_s, time.perf_counter() - started)
        recorded = gate.golden[i] if gate else golden.probabilities
        difference = float(np.abs(got_K - np.asarray(recorded, np.float32)).max())
        if not difference <= tolerance:
            kind = OtherProcessorError if _is_other(session.plan.precision) else ArtifactError
            raise kind(
                f"{artifact.reference}: golden image {golden.path}: expected the recorded "
                f"probabilities within {tolerance}, got a difference of {difference:.2g} in "
                f"{session.plan.precision}; {_how_to_mend(session.plan.precision)}"
            )
    return row_s if artifact.golden else best_of(session, blank(artifact, 1), 0)


def _is_other(precision: Precision) -> bool:
    """Return whether this processor computes files of a precision otherwise than newer ones."""
    return precision == "int8" and not multiplies_whole()


def _how_to_mend(precision: Precision) -> str:
    """Return what to do about answers that are not the recorded ones."""
    if _is_other(precision):
        return "this CPU lacks VNNI, which the file wants: it serves fp32, or export int8 on it"
    return "export the model again on this version of onnxruntime"


def open_lower(
    repository: ModelRepository,
    artifact: ModelArtifact,
    precision: Precision,
    choices: PlanChoices,
    progress: Progress,
) -> Session | None:
    """Open a file of lower precision; None and a warning if it cannot be trusted here.

    Args:
        repository: Repository that holds the version.
        artifact: The verified version.
        precision: Precision of the file.
        choices: What its plan is chosen from.
        progress: Is told each step, and bounds what is measured.
    """
    file = artifact.file(precision)
    if file is None or file.gate is None:
        _warn_no_file(artifact, precision)
        return None
    try:
        variant = choices.device.variant(precision)
        return _open_file(repository, artifact, choices, progress, variant)
    except (ArtifactError, InferenceError) as error:
        logger.warning("%s does not run here, fp32 answers instead: %s", precision, error)
        return None


def _warn_no_file(artifact: ModelArtifact, precision: Precision) -> None:
    has = ", ".join(f.precision for f in artifact.files if f.gate or f.precision == "fp32")
    logger.warning(
        "%s: expected an %s file that passed its gate, got %s; fp32 answers instead, export with "
        "--precision %s to change that",
        artifact.reference,
        precision,
        has,
        precision,
    )


def _open_file(
    repository: ModelRepository,
    artifact: ModelArtifact,
    choices: PlanChoices,
    progress: Progress,
    variant: Variant,
) -> Session:
    """Open one file on the number of threads that pays, and replay the golden images."""
    path = _path(repository, artifact, variant.precision)
    device, shape = choices.device, artifact.image.shape_HWC
    most, *others = (
        sorted(set(choices.threads), reverse=True) if device.selected.device == "cpu" else [1]
    )
    golden_s = GOLDEN_S if progress.is_bounded else math.inf

    def opened(threads: int) -> tuple[Session, float]:
        progress.begin("opening")
        plan = device.plan(variant, threads, choices.rows, shape)
        session = Session(path, plan, choose=device.chooses)
        progress.begin("self-test")
        return session, self_test(repository, artifact, session, golden_s)

    best, row_s = opened(most)
    for count in others:
        if row_s > LONG_ROW_S:
            break
        fewer, row_s = opened(count)
        progress.begin("measuring")
        runs = 2 * (_RUNS + 1)
        images_NHWC, _ = largest_batch(fewer, artifact, choices.rows, runs, progress.budget)
        rows = len(images_NHWC)
        for session in (fewer, best):
            run_s = best_of(session, images_NHWC, _RUNS, progress.budget)
            session.measured = MeasuredRun(rows, run_s)
        if fewer.measured.seconds <= THREADS_GAIN * best.measured.seconds:
            best = fewer
    return best


def _path(repository: ModelRepository, artifact: ModelArtifact, precision: Precision) -> Path:
    file = artifact.file(precision)
    assert file is not None, "only files that the version has are opened; this is a bug"
    return repository.path(artifact.name, artifact.version) / file.path
