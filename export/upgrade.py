"""Publish a version of format 1 again in format 2: the same graph, pictures resized by Pillow.

Needs no onnx: of a graph only the version number in its metadata changes. Says how far the answers
to pictures of other sizes are from those of format 1. Legend: N rows, H height, W width,
C channels, K classes.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from export.errors import ExportError
from export.run import open_session
from models.artifact import (
    FORMAT,
    ArtifactError,
    Colour,
    Filter,
    ImageSpec,
    ModelArtifact,
    ModelFile,
    OpenCVResize,
    Resize,
    graph_metadata,
)
from models.geometry import check_available, fit
from models.image import ImageError, decode
from models.onnx_file import replace_metadata
from models.repository import ModelRepository

Pairs = list[tuple[NDArray[np.uint8], NDArray[np.uint8]]]
"""Rows as format 1 and as format 2 makes them, uint8 [H, W, C]."""

# Pillow's nearest to each filter of OpenCV. Of 1,000 test images each of fashion-cnn and
# cifar10-cnn at 0.6 to 7 times their size, hamming keeps 98 to 99.7 % of area's labels; bilinear
# 85 to 99 %, box 66 to 99.9 %: it leaves pixels out between whole factors.
_FILTERS: dict[str, Filter] = {
    "area": "hamming",
    "linear": "bilinear",
    "cubic": "bicubic",
    "nearest": "nearest",
}
# Height and width of the pictures that are compared, in times those of the golden images.
_SCALES = ((0.6, 0.6), (1.5, 1.5), (1.5, 2.0), (2.0, 2.0), (3.3, 2.2), (7.0, 7.0))


@dataclass(frozen=True, slots=True)
class Difference:
    """How far the answers of two versions are apart.

    Attributes:
        pictures: How many pictures were compared.
        max_probability_difference: Largest absolute difference over all probabilities.
        label_changes: Pictures with another first label.
    """

    pictures: int
    max_probability_difference: float
    label_changes: int


@dataclass(frozen=True, slots=True)
class Upgrade:
    """A version that was published again.

    Attributes:
        artifact: The new version.
        of: The version that it was made of.
        golden: The golden images, against their recorded answers.
        resized: Pictures of other sizes, against format 1; None: OpenCV is not installed.
    """

    artifact: ModelArtifact
    of: ModelArtifact
    golden: Difference
    resized: Difference | None


def upgrade(
    repository: ModelRepository,
    reference: str,
    images: Sequence[Path] = (),
    background: Colour | None = None,
) -> Upgrade:
    """Publish a version of format 1 as the model's next version, in format 2.

    Args:
        repository: Holds the model.
        reference: ``name``, which is its newest version, or ``name:version``.
        images: Pictures to compare; (): enlarged and reduced golden images.
        background: Colour under transparent pixels in the new version; None: dropped, as before.

    Raises:
        ArtifactError: No such version, or it breaks the contract.
        ExportError: It is not of format 1, an image cannot be decoded, or a golden image gets
            another answer.
    """
    name, number = repository.resolve(reference)
    if ":" not in reference:
        number = repository.versions(name)[-1]
    old = repository.verify(name, number)
    if not isinstance(old.image.resize, OpenCVResize):
        raise ExportError(f"{old.reference}: expected format 1, got format {old.format}")
    spec = replace(translate(old.image, old.image.resize), background=background)
    session = open_session(repository.read_model(old, old.fp32.path))

    def answer(rows: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
        return np.concatenate([session.run(row[None]).probabilities for row in rows])

    golden_rows = [decode(repository.read_file(old, g.path), spec) for g in old.golden]
    recorded_NK = np.array([g.probabilities for g in old.golden], np.float32)
    golden = _compare(recorded_NK, answer(golden_rows))
    if golden.max_probability_difference > 1e-4 or golden.label_changes:
        raise ExportError(f"{old.reference}: expected the golden answers, got {golden}")
    try:
        check_available(old.image, name)
    except ArtifactError:
        resized = None
    else:
        pairs = (
            _decode_files(images, old.image, spec) if images else _resize(golden_rows, old, spec)
        )
        resized = _compare(*(answer(rows) for rows in zip(*pairs, strict=True)))
    return Upgrade(_publish(repository, old, spec), old, golden, resized)


def describe_upgrade(done: Upgrade) -> list[tuple[str, str]]:
    """Return what was done as (title, text) pairs."""
    resized = done.resized
    if resized is None:
        compared = "not compared: OpenCV is not installed"
    else:
        compared = (
            f"{resized.pictures} pictures: probabilities within "
            f"{resized.max_probability_difference:.2g}, {resized.label_changes} labels changed"
        )
    return [
        ("published", f"{done.artifact.reference}, format {FORMAT}, of {done.of.reference}"),
        ("golden images", f"{done.golden.pictures}: the same answers"),
        ("other sizes", compared),
    ]


def read_colour(text: str) -> Colour:
    """Read a colour, as ``255,255,255``.

    Raises:
        ExportError: Not three whole numbers from 0 to 255.
    """
    parts = text.split(",")
    if len(parts) != 3 or not all(part.isdecimal() and int(part) < 256 for part in parts):
        raise ExportError(f"background: expected R,G,B from 0 to 255, got {text!r}")
    return tuple(map(int, parts))


def translate(image: ImageSpec, resize: OpenCVResize) -> ImageSpec:
    """Return Pillow's nearest to a spec of format 1."""
    kind = _FILTERS[resize.interpolation]
    geometry = {
        "stretch": Resize("both", kind),
        "crop": Resize("shorter", kind),
        "pad": Resize("longer", kind, rounding="half-even"),
    }
    return replace(image, resize=geometry[resize.rule])


def _decode_files(paths: Sequence[Path], old: ImageSpec, new: ImageSpec) -> Pairs:
    pairs: Pairs = []
    for path in paths:
        encoded = path.read_bytes()
        try:
            pairs.append((decode(encoded, old), decode(encoded, new)))
        except ImageError as error:
            raise ExportError(f"{path}: {error}") from None
    return pairs


def _resize(rows: Sequence[NDArray[np.uint8]], old: ModelArtifact, new: ImageSpec) -> Pairs:
    """Return rows as they were, and brought back from other sizes both ways."""
    pairs: Pairs = []
    shape_HWC = old.image.shape_HWC
    for row_HWC in rows:
        picture = Image.fromarray(row_HWC[:, :, 0] if shape_HWC[2] == 1 else row_HWC)
        for down, across in _SCALES:
            size = max(1, round(across * shape_HWC[1])), max(1, round(down * shape_HWC[0]))
            pixels = np.asarray(picture.resize(size, Image.Resampling.LANCZOS))
            before, after = (fit(pixels, s).reshape(shape_HWC) for s in (old.image, new))
            pairs.append((before, after))
    return pairs


def _compare(expected_NK: NDArray[np.float32], got_NK: NDArray[np.float32]) -> Difference:
    changed_N = expected_NK.argmax(axis=1) != got_NK.argmax(axis=1)
    largest = float(np.abs(expected_NK - got_NK).max())
    return Difference(len(got_NK), largest, int(changed_N.sum()))


def _publish(repository: ModelRepository, old: ModelArtifact, spec: ImageSpec) -> ModelArtifact:
    def build(staging: Path, version: int) -> ModelArtifact:
        def write(file: ModelFile) -> ModelFile:
            metadata = graph_metadata(old.name, version, old.labels)
            content = replace_metadata(repository.read_model(old, file.path), metadata)
            (staging / file.path).parent.mkdir(parents=True, exist_ok=True)
            (staging / file.path).write_bytes(content)
            digest = hashlib.sha256(content).hexdigest()
            return replace(file, sha256=digest, size_bytes=len(content))

        for golden in old.golden:
            (staging / golden.path).parent.mkdir(parents=True, exist_ok=True)
            (staging / golden.path).write_bytes(repository.read_file(old, golden.path))
        files = tuple(write(file) for file in old.files)
        return replace(old, version=version, image=spec, files=files, format=FORMAT)

    return repository.publish(old.name, build)
