"""Adopt one file, from bytes to a published version.

``options -> screen -> wrap -> verify -> publish``. The bytes that were verified are the bytes that
are published.
"""

import hashlib
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

from export.errors import AdoptError
from export.options import Options
from export.proof import BATCH_SIZES, TOLERANCE, Answers, compare, run_foreign, run_wrapped
from export.sandbox import Bounds
from export.screen import MAX_FILE_BYTES, screen
from export.wrap import Foreign, find_answer, find_input, find_temperature, wrap
from models.artifact import (
    Golden,
    ImageSpec,
    ModelArtifact,
    ModelFile,
    Parity,
    Provenance,
    TensorSpec,
)
from models.image import ImageError, decode, encode_png
from models.repository import ModelRepository

logger = logging.getLogger("foveal.adopt")

GOLDEN_IMAGES = 8
SEED = 0


@dataclass(frozen=True, slots=True)
class Request:
    """What is to be adopted.

    Attributes:
        file: The ONNX file.
        labels: Label of each column of its output, () to take those that foveal wrote into it.
        options: What the graph does not say of itself.
        images: Encoded images to verify on and to keep as golden ones; none: random pixels.
        bounds: What the graph may use while it is verified.
        command: The command line, for the record.
    """

    file: Path
    labels: tuple[str, ...] = ()
    options: Options = field(default_factory=Options)
    images: Sequence[Path] = ()
    bounds: Bounds = field(default_factory=Bounds)
    command: str = ""


def adopt(request: Request, name: str, repository: ModelRepository) -> ModelArtifact:
    """Wrap a foreign graph, prove that it answers as before, publish it as the next version.

    Args:
        request: What is to be adopted.
        name: Name of the model.
        repository: Where to publish.

    Returns:
        The published artifact: without metrics, as nothing was measured on labelled images.

    Raises:
        AdoptError: The file is refused, or its answers change.
        ArtifactError: The repository refuses the name or what was built.
    """
    try:
        return _adopt(request, name, repository)
    except AdoptError as error:
        raise AdoptError(f"{request.file}: {error}") from None


def _adopt(request: Request, name: str, repository: ModelRepository) -> ModelArtifact:
    size_bytes = request.file.stat().st_size
    if size_bytes > MAX_FILE_BYTES:
        raise AdoptError(f"expected at most {MAX_FILE_BYTES >> 20} MiB, got {size_bytes >> 20}")
    content = request.file.read_bytes()
    model = screen(content, request.bounds.memory_bytes // 2)
    labels = request.labels or _own_labels(model)
    foreign = Foreign(
        model,
        find_input(model, request.options),
        find_answer(model, request.options),
        request.options,
        len(labels),
    )
    image = foreign.given.image
    images_NHWC = _read_images(request.images, image)
    expected = run_foreign(foreign, images_NHWC, request.bounds)
    wrapped = wrap(foreign)
    bare = wrapped.SerializeToString()
    got = {size: run_wrapped(bare, images_NHWC, size, request.bounds) for size in BATCH_SIZES}
    parity = compare(expected, got, foreign.given)
    if np.ptp(expected.probabilities_NK, axis=0).max() < TOLERANCE:
        logger.warning(
            "%s: every image got the same answer, so the proof shows little; give real ones with "
            "--images",
            request.file,
        )

    def build(staging: Path, version: int) -> ModelArtifact:
        _stamp(wrapped, name, version, labels)
        stamped = wrapped.SerializeToString()
        (staging / "model.onnx").write_bytes(stamped)
        return ModelArtifact(
            name=name,
            version=version,
            labels=labels,
            inputs=(TensorSpec("images", "UINT8", (-1, *image.shape_HWC)),),
            outputs=tuple(
                TensorSpec(output, "FP32", (-1, len(labels)))
                for output in ("logits", "probabilities")
            ),
            image=image,
            files=(ModelFile("model.onnx", "fp32", _sha256(stamped), len(stamped)),),
            opset=next(o.version for o in wrapped.opset_import if o.domain in ("", "ai.onnx")),
            temperature=find_temperature(foreign),
            golden=_write_golden(staging, images_NHWC, got[1], labels),
            parity=parity,
            provenance=_provenance(request, content, parity),
        )

    return repository.publish(name, build)


def _read_images(paths: Sequence[Path], spec: ImageSpec) -> NDArray[np.uint8]:
    """Return uint8 [N, H, W, C]: the files, or random pixels where there are none."""
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
    """Return the labels that ``export`` wrote into a file of ours."""
    for pair in model.metadata_props:
        if pair.key == "foveal.labels":
            try:
                labels = json.loads(pair.value)
            except ValueError:
                break
            if isinstance(labels, list) and all(isinstance(label, str) for label in labels):
                return tuple(labels)
    raise AdoptError("expected --labels, the file does not name its classes itself")


def _stamp(model: onnx.ModelProto, name: str, version: int, labels: tuple[str, ...]) -> None:
    """Write name, version and labels into the model, as ``export`` does."""
    onnx.helper.set_model_props(
        model,
        {
            "foveal.name": name,
            "foveal.version": str(version),
            "foveal.labels": json.dumps(labels, ensure_ascii=False),
        },
    )


def _write_golden(
    staging: Path, images_NHWC: NDArray[np.uint8], answers: Answers, labels: tuple[str, ...]
) -> tuple[Golden, ...]:
    """Write golden images with what the wrapped graph says to each, alone; label: its first."""
    (staging / "golden").mkdir()
    golden = []
    for i, image in enumerate(images_NHWC[:GOLDEN_IMAGES]):
        encoded = encode_png(image)
        path = f"golden/{i}.png"
        (staging / path).write_bytes(encoded)
        probabilities = answers.probabilities_NK[i]
        golden.append(
            Golden(
                path,
                _sha256(encoded),
                labels[int(probabilities.argmax())],
                tuple(float(p) for p in probabilities),
            )
        )
    return tuple(golden)


def _provenance(request: Request, content: bytes, parity: Parity) -> Provenance:
    pixels = f"{parity.images} {'given' if request.images else 'random'} images"
    return Provenance(
        git="unknown",
        command=request.command,
        seed=SEED,
        dataset=f"none: adopted from {request.file.name}, verified on {pixels}",
        dataset_sha256=_sha256(content),
        versions={name: version_of(name) for name in ("onnx", "onnxruntime", "numpy")},
        date=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
