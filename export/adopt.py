"""Adopt an ONNX file that was made elsewhere, from its bytes to a published version.

Chains the steps in the order that ``export`` lists. A foreign graph is one that was made elsewhere
and is not trusted: it never runs in this process, only in the sandbox.
"""

import dataclasses
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

from export.answers import Expected
from export.draft import Draft
from export.errors import AdoptError, ExportError
from export.golden import GOLDEN_IMAGES, draft_golden, encode_golden
from export.options import Options
from export.proof import Answers, compare
from export.publish import publish, sha256
from export.sandbox import Bounds, run_foreign, run_wrapped
from export.screen import MAX_FILE_BYTES, screen
from export.wrap import Foreign, GraphInput, find_answer, find_input, find_temperature, wrap
from models.artifact import ImageSpec, ModelArtifact
from models.evidence import Parity, Provenance
from models.image import ImageError, decode
from models.repository import ModelRepository, check_name

logger = logging.getLogger("foveal.adopt")

# One row alone, the smallest batch, and an odd one that fills no vector register.
BATCH_SIZES = (1, 2, 7)
# Largest difference between two probabilities: what each load's self-test allows between machines.
TOLERANCE = 1e-4
SEED = 0


@dataclass(frozen=True, slots=True)
class Request:
    """What to adopt, and how.

    Attributes:
        file: The ONNX file.
        labels: Label of each column of its output; (): the labels that foveal wrote into it.
        options: What the graph does not state itself.
        images: Encoded images for the proof and the golden images; (): random pixels.
        bounds: Resources that the graph may use during the proof.
        command: The command line, for the record.
        origin: What the user gave, for messages and the record; empty: the file.
        image: What images become, where it is known whole; None: by the options.
        expected: Answers of the model's own pipeline to the images, if known.
    """

    file: Path
    labels: tuple[str, ...] = ()
    options: Options = field(default_factory=Options)
    images: Sequence[Path] = ()
    bounds: Bounds = field(default_factory=Bounds)
    command: str = ""
    origin: str = ""
    image: ImageSpec | None = None
    expected: Expected | None = None


def adopt(request: Request, name: str, repository: ModelRepository) -> ModelArtifact:
    """Wrap a graph made elsewhere, prove that it answers as before, publish it.

    Args:
        request: What to adopt.
        name: Name of the model.
        repository: Where to publish.

    Returns:
        The published artifact: without metrics, as nothing was measured on labelled images.

    Raises:
        AdoptError: The file is refused, or its answers change.
        ArtifactError: The repository refuses the name or the files.
    """
    check_name(name)
    try:
        return publish(_draft(request), name, repository)
    except ExportError as error:
        raise AdoptError(f"{request.origin or request.file}: {error}") from None


def _draft(request: Request) -> Draft:
    size_bytes = request.file.stat().st_size
    if size_bytes > MAX_FILE_BYTES:
        raise AdoptError(f"expected at most {MAX_FILE_BYTES >> 20} MiB, got {size_bytes >> 20} MiB")
    content = request.file.read_bytes()
    model = screen(content, request.bounds.memory_bytes // 2)
    labels = request.labels or _own_labels(model)
    given = find_input(model, request.options)
    if request.image is not None:
        given = dataclasses.replace(given, image=request.image)
    foreign = Foreign(
        model,
        given,
        find_answer(model, request.options),
        request.options,
        len(labels),
    )
    image = foreign.given.image
    images_NHWC = _read_images(request.images, image)
    golden, golden_NHWC = encode_golden(images_NHWC[:GOLDEN_IMAGES], image)
    images_NHWC[: len(golden)] = golden_NHWC
    wrapped = wrap(foreign)
    parity, (_, probabilities_NK) = _prove(foreign, wrapped, images_NHWC, request)
    return Draft(
        graph=wrapped,
        labels=labels,
        image=image,
        golden=draft_golden(golden, labels, probabilities_NK[: len(golden)]),
        parity=parity,
        provenance=_provenance(request, content, parity),
        temperature=find_temperature(foreign),
    )


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
    got = {size: run_wrapped(content, images_NHWC, size, request.bounds) for size in BATCH_SIZES}
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
    """Return uint8 [N, H, W, C]: the decoded files, or random pixels if no file is given."""
    if not paths:
        generator = np.random.default_rng(SEED)
        return generator.integers(0, 256, (GOLDEN_IMAGES, *spec.shape_HWC), dtype=np.uint8)
    rows = []
    for path in paths:
        try:
            rows.append(decode(path.read_bytes(), spec))
        except ImageError as error:
            raise AdoptError(f"{path}: {error}") from None
    return np.stack(rows)


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
        dataset=f"none: adopted from {request.origin or request.file.name}, verified on {pixels}",
        dataset_sha256=sha256(content),
        versions={name: version_of(name) for name in ("onnx", "onnxruntime", "numpy")},
        date=datetime.now(UTC).isoformat(timespec="seconds"),
    )
