"""Adopt an ONNX file that was made elsewhere, from its bytes to a published version.

Chains the steps in the order that ``export`` lists. A foreign graph is one that was made elsewhere
and is not trusted: it never runs in this process, only in the sandbox.
"""

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version as version_of
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

from export.answers import Expected, read_answers, select_answers
from export.diagnose import find_training_mode
from export.draft import Draft
from export.errors import AdoptError, ExportError
from export.examine import Subject, Wanted, check_wanted, examine
from export.figures import halves
from export.golden import GOLDEN_IMAGES, draft_golden, encode_golden
from export.options import Options
from export.pictures import Pictures, decode_chunks, decode_file, find_pictures
from export.proof import Answers, compare
from export.publish import publish, sha256
from export.sandbox import Bounds, run_foreign, run_wrapped, run_wrapped_sizes
from export.screen import MAX_FILE_BYTES, screen
from export.serving import MAX_DROP, Measured, check_serving
from export.wrap import Foreign, GraphInput, find_answer, find_input, find_temperature, wrap
from models.artifact import ImageSpec, ModelArtifact
from models.evidence import Parity, Provenance
from models.repository import ModelRepository, check_name

logger = logging.getLogger("foveal.adopt")

# One row alone, the smallest batch, and an odd one that fills no vector register.
BATCH_SIZES = (1, 2, 7)
# Largest difference between two probabilities: what each load's self-test allows between machines.
TOLERANCE = 1e-4
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
        expected: What the user's own pipeline answers to the images, or a file that says it.
        wanted: What to fit on the images.
        max_drop: Accuracy that it may lose against the serving version, as a share.
        force: Publish it even if it loses more, or cannot be compared.
    """

    file: Path
    labels: tuple[str, ...] = ()
    options: Options = field(default_factory=Options)
    images: Sequence[Path] = ()
    bounds: Bounds = field(default_factory=Bounds)
    command: str = ""
    expected: Expected | Path | None = None
    wanted: Wanted = field(default_factory=Wanted)
    max_drop: float = MAX_DROP
    force: bool = False


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
        draft, pictures = _draft(request)
        if not request.force:
            _check_serving(request, draft, pictures, name, repository)
        return publish(draft, name, repository)
    except ExportError as error:
        raise AdoptError(f"{request.file}: {error}") from None


def _draft(request: Request) -> tuple[Draft, Pictures]:
    size_bytes = request.file.stat().st_size
    if size_bytes > MAX_FILE_BYTES:
        raise AdoptError(f"expected at most {MAX_FILE_BYTES >> 20} MiB, got {size_bytes >> 20} MiB")
    content = request.file.read_bytes()
    model = screen(content, request.bounds.memory_bytes // 2)
    norm = find_training_mode(model)
    if norm is not None:
        raise AdoptError(
            f'graph: expected a model for inference, got batch norm "{norm}" in training mode; '
            "call model.eval() and export it again"
        )
    labels = request.labels or _own_labels(model)
    foreign = Foreign(
        model,
        find_input(model, request.options),
        find_answer(model, request.options),
        request.options,
        len(labels),
    )
    image = foreign.given.image
    pictures, expected = _read_pictures(request, labels)
    check_wanted(request.wanted, pictures)
    images_NHWC = _read_images(pictures.files, image)
    golden, golden_NHWC = encode_golden(images_NHWC[:GOLDEN_IMAGES], image)
    images_NHWC[: len(golden)] = golden_NHWC
    wrapped = wrap(foreign)
    parity, (_, probabilities_NK) = _prove(foreign, wrapped, images_NHWC, request)
    golden_NHWC, golden_NK = images_NHWC[: len(golden)], probabilities_NK[: len(golden)]
    subject = Subject(foreign, wrapped, labels, golden_NHWC, request.bounds)
    found = examine(subject, pictures, expected, request.wanted)
    if found.temperature is not None:
        calibrated = found.graph.SerializeToString()
        _, golden_NK = run_wrapped(calibrated, golden_NHWC, 1, request.bounds)
    draft = Draft(
        graph=found.graph,
        labels=labels,
        image=image,
        golden=draft_golden(golden, labels, golden_NK),
        parity=parity,
        provenance=_provenance(request, content, parity),
        temperature=found.temperature or find_temperature(foreign),
        lower=found.lower,
        metrics=found.metrics,
        abstain=found.abstain,
        proof=found.proof,
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
            lambda content, images_NHWC: run_wrapped(content, images_NHWC, 8, request.bounds),
        )
    check_serving(repository, name, draft.labels, measured, request.max_drop)


def _prove(
    foreign: Foreign, wrapped: onnx.ModelProto, images_NHWC: NDArray[np.uint8], request: Request
) -> tuple[Parity, Answers]:
    """Compare the wrapped graph with the graph as it came.

    Returns:
        What was measured, and the wrapped graph's answers to each image alone.
    """
    expected = run_foreign(foreign, images_NHWC, request.bounds)
    _check_sums(expected)
    content = wrapped.SerializeToString()
    got = run_wrapped_sizes(content, images_NHWC, BATCH_SIZES, request.bounds)
    parity = compare(
        {size: (expected, answers) for size, answers in got.items()},
        names="wrapped against foreign graph",
        tolerance=TOLERANCE,
        # Float16 graphs give equal probabilities to several classes.
        tie=TOLERANCE,
        advice=_advice(foreign.given),
    )
    if np.ptp(expected[1], axis=0).max() < TOLERANCE:
        logger.warning(
            "%s: every image got the same answer, so the proof shows little; give real ones with "
            "--images",
            request.file,
        )
    return parity, got[1]


def _check_sums(expected: Answers) -> None:
    _, probabilities_NK = expected
    sums_N = probabilities_NK.sum(axis=1)
    # Written so that NaN, which compares as false, is refused too.
    if not (np.abs(sums_N - 1).max() < 1e-3 and probabilities_NK.min() >= -1e-6):
        raise AdoptError(
            f"expected probabilities that sum to 1, got {sums_N.min():.4g} to {sums_N.max():.4g}; "
            "give --gives logits if the output is before the softmax"
        )


def _advice(given: GraphInput) -> str:
    if given.batch is None:
        return "this graph mixes the rows of a batch, or its options are not those it was made for"
    return (
        f"its batch size is fixed to {given.batch} in a way that cannot be undone here; export it "
        "with a free batch size"
    )


def _read_images(paths: Sequence[Path], spec: ImageSpec) -> NDArray[np.uint8]:
    """Return uint8 [N, H, W, C]: the first decoded files, or random pixels if none is given."""
    if not paths:
        generator = np.random.default_rng(SEED)
        return generator.integers(0, 256, (GOLDEN_IMAGES, *spec.shape_HWC), dtype=np.uint8)
    return np.stack([decode_file(path, spec) for path in paths[:_PARITY_IMAGES]])


def _own_labels(model: onnx.ModelProto) -> tuple[str, ...]:
    """Return the labels that ``publish.stamp`` wrote into a graph."""
    for pair in model.metadata_props:
        if pair.key == "foveal.labels":
            try:
                labels = json.loads(pair.value)
            except ValueError:
                break
            if isinstance(labels, list) and all(isinstance(label, str) for label in labels):
                return tuple(labels)
    raise AdoptError("expected --labels, as the file does not name its classes")


def _provenance(request: Request, content: bytes, parity: Parity) -> Provenance:
    pixels = f"{parity.images} {'given' if request.images else 'random'} images"
    return Provenance(
        git="unknown",
        command=request.command,
        seed=SEED,
        dataset=f"none: adopted from {request.file.name}, verified on {pixels}",
        dataset_sha256=sha256(content),
        versions={name: version_of(name) for name in ("onnx", "onnxruntime", "numpy")},
        date=datetime.now(UTC).isoformat(timespec="seconds"),
    )
