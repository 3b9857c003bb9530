"""Adopt an ONNX file that was made elsewhere, from its bytes to a published version.

Chains the steps in the order that ``export`` lists. A foreign graph is one that was made elsewhere
and is not trusted: it never runs in this process, only in the sandbox.
"""

import hashlib
import logging
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray

from export.agreement import TIE, Rule
from export.agreement import TOLERANCE as END_TO_END
from export.answers import Expected, read_answers, select_answers
from export.apart import read_apart
from export.draft import Draft
from export.errors import AdoptError, ExportError, ParityError, RunError
from export.examine import Subject, Wanted, check_wanted, examine
from export.figures import halves
from export.golden import GOLDEN_IMAGES, draft_golden, encode_golden
from export.heads import check_classes
from export.interface import find_input, find_precision
from export.labels import own_labels
from export.options import Options, read_thresholds
from export.pictures import Pictures, decode_chunks, decode_file, find_pictures
from export.proof import Answers, compare
from export.publish import publish
from export.sandbox import (
    Bounds,
    run_foreign,
    run_prepared,
    run_wrapped,
    run_wrapped_sizes,
)
from export.scale import ask_scale
from export.scores import find_answer
from export.screen import screen
from export.serving import MAX_DROP, Measured, check_serving
from export.weights import MAX_BYTES, size_bytes
from export.wrap import Foreign, find_temperature, wrap
from models.artifact import ImageSpec, ModelArtifact, Precision
from models.evidence import Parity, Provenance, rounding_tolerance
from models.repository import ModelRepository, check_name

logger = logging.getLogger("foveal.adopt")

# One row alone, the smallest batch, and an odd one that fills no vector register.
BATCH_SIZES = (1, 2, 7)
# Largest difference between two probabilities: what each load's self-test allows between machines.
TOLERANCE = 1e-4
# The same for files of lower precision, whose results jump: a step of float16 is 1e-3 of a logit
# near 1; one of 256 steps in an early layer moves probabilities by hundredths.
TOLERANCES: dict[Precision, float] = {"fp32": TOLERANCE, "fp16": 5e-3, "int8": 5e-2}
SEED = 0
# Given images that are compared at every batch size; end to end all are compared.
_PARITY_IMAGES = 64


@dataclass(frozen=True, slots=True)
class Request:
    """What to adopt, and how.

    Attributes:
        file: The ONNX file.
        labels: Label of each column of its output; (): the labels that foveal wrote into it.
        options: What the graph does not state itself.
        images: Encoded images for the proof and the golden images, files or folders; (): random
            pixels.
        bounds: Resources that the graph may use during the proof.
        command: The command line, for the record.
        origin: What the user gave, for messages and the record; empty: the file.
        image: What images become, where it is known whole; None: by the options.
        expected: What the user's own pipeline answers to the images, or a file that says it.
        wanted: What to fit on the images.
        max_drop: Accuracy that it may lose against the serving version, as a share.
        force: Publish it even if it loses more, or cannot be compared.
        max_bytes: Size from which its weights are published in a file beside the graph.
    """

    file: Path
    labels: tuple[str, ...] = ()
    options: Options = field(default_factory=Options)
    images: Sequence[Path] = ()
    bounds: Bounds = field(default_factory=Bounds)
    command: str = ""
    origin: str = ""
    image: ImageSpec | None = None
    expected: Expected | Path | None = None
    wanted: Wanted = field(default_factory=Wanted)
    max_drop: float = MAX_DROP
    force: bool = False
    max_bytes: int = MAX_BYTES


def adopt(request: Request, name: str, repository: ModelRepository) -> ModelArtifact:
    """Wrap a graph made elsewhere, prove that it answers as before, publish it.

    Args:
        request: What to adopt.
        name: Name of the model.
        repository: Where to publish.

    Returns:
        The published artifact, with metrics if the images are labelled.

    Raises:
        AdoptError: The file is refused, its answers change or are not those that are expected, or
            the serving version is better.
        ArtifactError: The repository refuses the name or the files.
    """
    check_name(name)
    try:
        file_bytes = request.file.stat().st_size
        if file_bytes >= MAX_BYTES:
            raise AdoptError(
                f"expected less than {MAX_BYTES >> 20} MiB, got {file_bytes >> 20} MiB: save its "
                "weights beside it, with onnx.save_model(save_as_external_data=True)"
            )
        with tempfile.TemporaryDirectory(prefix="foveal-weights-") as folder:
            draft, pictures = _draft(request, Path(folder))
            if not request.force:
                _check_serving(request, draft, pictures, name, repository)
            return publish(draft, name, repository, request.max_bytes)
    except ExportError as error:
        raise AdoptError(f"{request.origin or request.file}: {error}") from None


def _draft(request: Request, folder: Path) -> tuple[Draft, Pictures]:
    with request.file.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    content = read_apart(request.file, folder)
    model = screen(content, request.bounds.memory_bytes // 2, (request.file.parent, folder))
    del content
    request = replace(request, bounds=request.bounds.beside(size_bytes(model)))
    foreign = _read_interface(model, request)
    labels = request.labels or own_labels(model)
    image = foreign.given.image
    pictures, expected = _read_pictures(request, labels)
    if expected is not None and expected.is_labels_only and foreign.thresholds:
        raise AdoptError(
            f"{expected.reference}: expected a probability for each label of a multi-label model, "
            "got one label a file: save what comes after the sigmoid"
        )
    check_wanted(request.wanted, pictures, foreign)
    images_NHWC = _read_images(pictures.files, image)
    golden, golden_NHWC = encode_golden(images_NHWC[:GOLDEN_IMAGES], image)
    images_NHWC[: len(golden)] = golden_NHWC
    # With answers to compare, those decide, and a missing scale is named.
    if foreign.given.is_float and not request.options.is_scaled and expected is None:
        ask_scale(foreign, images_NHWC, request.bounds, folder)
    wrapped, parity, (_, probabilities_NK) = _wrap(foreign, images_NHWC, request, folder)
    golden_NHWC, golden_NK = images_NHWC[: len(golden)], probabilities_NK[: len(golden)]
    precision = find_precision(model)
    # What a step of lower precision moves, no two pipelines share.
    step = 0.0 if precision == "fp32" else TOLERANCES[precision]
    rule = Rule(max(END_TO_END, step), max(TIE, step), foreign.thresholds)
    subject = Subject(foreign, wrapped, labels, golden_NHWC, request.bounds, folder, rule)
    found = examine(subject, pictures, expected, request.wanted)
    if found.temperature is not None:
        calibrated = found.graph.SerializeToString()
        _, golden_NK = run_wrapped(calibrated, golden_NHWC, 1, request.bounds, folder)
    draft = Draft(
        graph=found.graph,
        weights=folder,
        labels=labels,
        image=found.image or image,
        golden=draft_golden(golden, labels, golden_NK),
        parity=parity,
        provenance=_provenance(request, digest, parity, precision),
        temperature=found.temperature or find_temperature(foreign),
        lower=found.lower,
        metrics=found.metrics,
        abstain=found.abstain,
        proof=found.proof,
        task=foreign.answer.task,
        thresholds=foreign.thresholds,
        precision=precision,
    )
    return draft, pictures


def _read_pictures(request: Request, labels: tuple[str, ...]) -> tuple[Pictures, Expected | None]:
    pictures, given = find_pictures(request.images, labels), request.expected
    if isinstance(given, Path):
        said = read_answers(given, pictures.files, labels)
        targets_N = pictures.targets_N if said.targets_N is None else said.targets_N
        return Pictures(pictures.files, targets_N), said.expected
    if given is not None and given.files != pictures.files:
        given = select_answers(given, pictures.files)
    return pictures, given


def _check_serving(
    request: Request, draft: Draft, pictures: Pictures, name: str, repository: ModelRepository
) -> None:
    measured = None
    if draft.metrics is not None and pictures.targets_N is not None:
        rows = np.arange(len(pictures.files))
        if request.wanted.calibrate:
            _, rows = halves(pictures.targets_N)
        files = [pictures.files[row] for row in rows]
        measured = Measured(
            draft.metrics.accuracy,
            pictures.targets_N[rows],
            lambda image: decode_chunks(files, image, "serving version"),
            lambda file, images_NHWC: run_wrapped(
                file, images_NHWC, 8, request.bounds.beside(_bytes_of(file))
            ),
        )
    check_serving(repository, name, draft.labels, measured, request.max_drop)


def _bytes_of(file: Path) -> int:
    """Return the size of a version's graph and of the weights beside it."""
    return sum(each.stat().st_size for each in file.parent.glob(f"{file.name}*"))


def _read_interface(model: onnx.ModelProto, request: Request) -> Foreign:
    labels = request.labels or own_labels(model)
    answer = find_answer(model, request.options)
    check_classes(answer, len(labels))
    given = find_input(model, request.options)
    if request.image is not None:
        given = replace(given, image=request.image)
    thresholds = read_thresholds(request.options.threshold, answer.task, labels)
    return Foreign(model, given, answer, request.options, len(labels), thresholds)


def _wrap(
    foreign: Foreign, images_NHWC: NDArray[np.uint8], request: Request, folder: Path
) -> tuple[onnx.ModelProto, Parity, Answers]:
    """Wrap a graph and prove it: with a free batch size, or else row by row.

    Returns:
        The wrapped graph, what was measured, and its answers to each image alone.
    """
    expected = run_foreign(foreign, images_NHWC, request.bounds, folder)
    if np.ptp(expected[1], axis=0).max() < TOLERANCE:
        logger.warning(
            "%s: every image got the same answer, so the proof shows little; give real ones with "
            "--images",
            request.file,
        )
    is_fixed = foreign.given.batch is not None
    try:
        return _prove(foreign, images_NHWC, expected, request, folder)
    except (RunError, ParityError) as error:
        if not is_fixed and not isinstance(error, RunError):
            raise
        first = error
    try:
        proved = _prove(foreign, images_NHWC, expected, request, folder, by_row=True)
    except ExportError as error:
        raise error if is_fixed else first from None
    rows = foreign.given.batch or 1
    logger.warning(
        "%s: its batch size is fixed to %d in a way that cannot be undone here, so the version "
        "runs %d row%s at a time and batches do not make it faster; export it with a free one",
        request.file,
        rows,
        rows,
        "" if rows == 1 else "s",
    )
    return proved


def _prove(
    foreign: Foreign,
    images_NHWC: NDArray[np.uint8],
    expected: Answers,
    request: Request,
    folder: Path,
    *,
    by_row: bool = False,
) -> tuple[onnx.ModelProto, Parity, Answers]:
    """Compare a wrapped graph with the graph as it came."""
    wrapped = wrap(foreign, by_row=by_row)
    content = wrapped.SerializeToString()
    got = run_wrapped_sizes(content, images_NHWC, BATCH_SIZES, request.bounds, folder)
    tolerance = TOLERANCES[find_precision(foreign.model)]
    judge = partial(
        compare,
        {size: (expected, answers) for size, answers in got.items()},
        names="wrapped against foreign graph",
        thresholds=foreign.thresholds,
        advice="this graph mixes the rows of a batch, or its options are not those it was made for",
    )
    # Float16 and int8 graphs give equal probabilities to several classes: ties.
    try:
        parity = judge(tolerance=tolerance, tie=tolerance)
    except ParityError:
        moved = _moved_by_rounding(foreign, images_NHWC, expected, request, folder)
        widened = rounding_tolerance(moved)
        if widened <= tolerance:
            raise
        parity = judge(tolerance=widened, tie=widened)
        logger.warning(
            "%s: rounding each pixel's last bit moves its probabilities by up to %.2g, so a "
            "difference of %.2g after wrapping is accepted",
            request.file,
            moved,
            parity.max_probability_difference,
        )
    return wrapped, parity, got[1]


def _moved_by_rounding(
    foreign: Foreign,
    images_NHWC: NDArray[np.uint8],
    expected: Answers,
    request: Request,
    folder: Path,
) -> float:
    """Return how far the graph's own probabilities move if its float pixels are rounded otherwise.

    No wrapping can be nearer to it: the same sums in another order differ as much.
    """
    prepared = foreign.given.prepare(images_NHWC, foreign.options)
    if prepared.dtype != np.float32:
        return 0.0
    towards = (
        np.random.default_rng(SEED).choice([-np.inf, np.inf], prepared.shape).astype(np.float32)
    )
    _, moved_NK = run_prepared(foreign, np.nextafter(prepared, towards), request.bounds, folder)
    return float(np.abs(moved_NK - expected[1]).max())


def _read_images(paths: Sequence[Path], spec: ImageSpec) -> NDArray[np.uint8]:
    """Return uint8 [N, H, W, C]: the first decoded files, or random pixels if none is given."""
    if not paths:
        generator = np.random.default_rng(SEED)
        return generator.integers(0, 256, (GOLDEN_IMAGES, *spec.shape_HWC), dtype=np.uint8)
    return np.stack([decode_file(path, spec) for path in paths[:_PARITY_IMAGES]])


def _provenance(request: Request, digest: str, parity: Parity, precision: Precision) -> Provenance:
    pixels = f"{parity.images} {'given' if request.images else 'random'} images"
    name = request.origin or request.file.name
    file = name if precision == "fp32" else f"{name}, {precision}"
    return Provenance(
        git="unknown",
        command=request.command,
        seed=SEED,
        dataset=f"none: adopted from {file}, verified on {pixels}",
        dataset_sha256=digest,
        # Not by the distribution: with a GPU that is onnxruntime-gpu.
        versions={each.__name__: each.__version__ for each in (onnx, onnxruntime, np)},
        date=datetime.now(UTC).isoformat(timespec="seconds"),
    )
