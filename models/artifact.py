"""Read and write ``model.json``: frozen dataclasses, every field checked.

``ModelArtifact.from_json`` is the only reader and ``to_json`` the only writer, so a file that loads
keeps the contract. Knows nothing about where a model lies (``repository``) or how it runs
(``service``).
"""

import dataclasses
import json
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

from models.evidence import Abstain, Gate, Golden, Metrics, Parity, Proof, Provenance, Statistics
from models.fields import FieldError, read_dataclass
from models.onnx_data import DataFile
from models.onnx_file import describe_tensors

FORMAT = 2
_READABLE = (1, 2)
# Pixels of a side of the model's input or of its resize: a row of 16,384 squared is 805 MB.
MAX_SIDE = 1 << 14
# Two classes whose recorded probabilities differ by no more may both be a golden image's answer: it
# is what a replay may differ by.
GOLDEN_TIE = 1e-4

_Integer = Literal["UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64"]
Datatype = Literal["BOOL", _Integer, "FP16", "BF16", "FP32", "FP64", "BYTES"]
Mode = Literal["RGB", "L"]
Side = Literal["both", "shorter", "longer"]
Filter = Literal["nearest", "box", "bilinear", "hamming", "bicubic", "lanczos"]
Place = Literal["centre", "top-left"]
Colour = tuple[int, ...]
Precision = Literal["fp32", "fp16", "int8"]
Task = Literal["single-label", "binary", "multi-label"]

# Fields that came later, and what they are without a value. They are optional and written only if
# set, so a version without them also loads in an older release.
_LATER: dict[str, object] = {
    **dict.fromkeys(
        ("gate", "computes", "calibration_error_before", "confusion", "abstain", "statistics")
    ),
    **dict.fromkeys(("proof", "max_pixel_difference", "data")),
    "task": "single-label",
    "thresholds": (),
    "clip_16_bits": False,
}


class ArtifactError(ValueError):
    """A model on disk breaks the contract; the message says where: expected X, got Y."""


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One input or output, in the terms of the Open Inference Protocol.

    Attributes:
        name: Its name in the graph.
        datatype: What a value is.
        shape: Its dimensions; -1 is a free one.
    """

    name: str
    datatype: Datatype
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Resize:
    """The resize of format 2: Pillow's, antialiased.

    Attributes:
        side: ``both`` sides to the size; or the ``shorter`` or the ``longer`` one, in proportion to
            the size, and the other by the picture's own proportions.
        filter: Pillow's filter.
        height: The size's height in pixels; None: the model's.
        width: The size's width in pixels; None: the model's.
        rounding: The other side of ``shorter`` and ``longer``: ``down``, as torchvision and
            transformers do, or ``half-even``, as timm's ``ResizeKeepRatio`` does.
    """

    side: Side = "both"
    filter: Filter = "bilinear"
    height: int | None = None
    width: int | None = None
    rounding: Literal["down", "half-even"] = "down"


@dataclass(frozen=True, slots=True)
class Crop:
    """The crop after the resize, to the model's size; padding where the picture is smaller.

    Attributes:
        colour: Colour of the padding, one value a channel; None: black.
        place: What is kept, and where a smaller picture stands.
        rounding: Offset of a ``centre`` by an odd number of pixels: ``half-even`` (padding: down),
            as torchvision and timm do; ``floor``, as transformers does on PIL images; ``trunc``, as
            it does on tensors.
    """

    colour: Colour | None = None
    place: Place = "centre"
    rounding: Literal["half-even", "floor", "trunc"] = "half-even"


@dataclass(frozen=True, slots=True)
class OpenCVResize:
    """The resize of format 1: OpenCV's, to exactly the model's size.

    Attributes:
        rule: ``stretch`` both sides, ``crop`` the centre, or ``pad`` with black.
        interpolation: OpenCV's filter.
    """

    rule: Literal["stretch", "crop", "pad"] = "stretch"
    interpolation: Literal["nearest", "linear", "cubic", "area"] = "area"


@dataclass(frozen=True)
class ImageSpec:
    """How encoded bytes become one row of the input.

    Attributes:
        mode: ``RGB`` or ``L`` (grey).
        height: Rows of pixels.
        width: Columns of pixels.
        resize: First step of the geometry; None: no resize. ``OpenCVResize`` in format 1 only.
        crop: Second step of the geometry.
        exif: Whether an EXIF orientation is applied.
        background: RGB colour that transparent pixels are laid over; None: transparency is dropped.
        scaled_decoding: Whether a large JPEG is decoded at 1/2, 1/4 or 1/8 of its size, the
            smallest that is still at least twice the size of the resize, and resized from there.
        clip_16_bits: Whether grey of 16 bits becomes 8 as by Pillow's ``convert``, which makes
            every value above 255 white; else its high byte counts.
    """

    mode: Mode
    height: int
    width: int
    resize: Resize | OpenCVResize | None = Resize()
    crop: Crop = Crop()
    exif: bool = True
    background: Colour | None = None
    scaled_decoding: bool = False
    clip_16_bits: bool = False

    @property
    def channels(self) -> int:
        """Return 3 for RGB, 1 for grey."""
        return 3 if self.mode == "RGB" else 1

    @property
    def shape_HWC(self) -> tuple[int, int, int]:
        """Return the shape of one decoded row."""
        return self.height, self.width, self.channels

    @cached_property
    def resized(self) -> tuple[int, int]:
        """Return (height, width) that pictures are resized to, before the crop."""
        if isinstance(self.resize, Resize):
            height, width = self.resize.height, self.resize.width
            return (
                self.height if height is None else height,
                self.width if width is None else width,
            )
        return self.height, self.width

    @cached_property
    def keeps_own_size(self) -> bool:
        """Whether a picture of exactly the model's size passes untouched."""
        return self.resize is None or self.resized == (self.height, self.width)

    @cached_property
    def least_decoded(self) -> int | None:
        """Return what a JPEG's shorter side stays at under scaled decoding; None: not scaled."""
        return 2 * max(self.resized) if self.scaled_decoding and self.resize is not None else None


@dataclass(frozen=True, slots=True)
class _ImageFormat1:
    """The ``image`` of a ``model.json`` of format 1."""

    mode: Mode
    height: int
    width: int
    resize: Literal["stretch", "crop", "pad"] = "stretch"
    interpolation: Literal["nearest", "linear", "cubic", "area"] = "area"
    scaled_decoding: bool = False


@dataclass(frozen=True, slots=True)
class ModelFile:
    """One ONNX file of the version: path within its directory, precision, digest, size, gate.

    A file of lower precision is served only with its ``gate``; the fp32 file needs none. Weights
    that one ONNX file cannot hold lie in ``data``, beside it. An adopted one is the file as it
    came: ``computes`` says in what, if not in fp32.

    Attributes:
        path: Path within the version's directory.
        precision: What the file computes in, or is the full precision of.
        sha256: Digest of the file.
        size_bytes: Its size.
        gate: What a file of lower precision measured before it was published; null for fp32.
        data: The file beside it that holds its weights, if one file cannot.
        computes: Precision of an adopted file, if not fp32.
    """

    path: str
    precision: Precision
    sha256: str
    size_bytes: int
    gate: Gate | None = None
    data: DataFile | None = None
    computes: Precision | None = None


@dataclass(frozen=True, slots=True)
class ModelArtifact:
    """One version of a model, as ``model.json`` states it.

    Attributes:
        name: Name of the model, also its directory.
        version: Positive integer, also its directory.
        labels: Class labels; the position is the index. Two may be equal.
        inputs: Exactly one: UINT8 [-1, H, W, C].
        outputs: ``logits`` and ``probabilities``, both FP32 [-1, K]; after them perhaps
            ``embedding``, FP32 [-1, D], which the service does not answer with.
        image: How bytes become a row of the input.
        files: One ONNX file a precision; fp32 is always there.
        opset: ONNX opset of the fp32 file.
        temperature: Divides the logits before the softmax, inside the graph.
        golden: Images with known answers.
        metrics: Scores, if it was evaluated.
        parity: Agreement with the network or file that it was made from, if it was measured.
        provenance: Where it came from, if known.
        abstain: When it abstains, if it may.
        statistics: Statistics of its training data, if known.
        task: What the probabilities are: of ``single-label`` a softmax, they sum to 1; of
            ``binary`` 1 - p and p of one sigmoid; of ``multi-label`` a sigmoid for each label.
        thresholds: Of ``multi-label``: least probability of each label that an image gets, 0-1, K;
            else none.
        proof: Agreement with the model's own pipeline, files in, probabilities out, if compared.
        format: Number of the format; 1 is read, too, another number is refused.
    """

    name: str
    version: int
    labels: tuple[str, ...]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    image: ImageSpec
    files: tuple[ModelFile, ...]
    opset: int
    temperature: float = 1.0
    golden: tuple[Golden, ...] = ()
    metrics: Metrics | None = None
    parity: Parity | None = None
    provenance: Provenance | None = None
    abstain: Abstain | None = None
    statistics: Statistics | None = None
    task: Task = "single-label"
    thresholds: tuple[float, ...] = ()
    proof: Proof | None = None
    format: int = field(default=FORMAT)

    def __post_init__(self) -> None:
        """Raise ArtifactError if fields contradict each other; types alone do not show it."""
        _check(self)

    @property
    def reference(self) -> str:
        """Return ``name:version``, as the command line takes it."""
        return f"{self.name}:{self.version}"

    @property
    def embedding_width(self) -> int:
        """Return D, the values of an embedding; 0 if the graph has no such output."""
        return max((1, *self.outputs[2].shape)) if len(self.outputs) > 2 else 0

    @property
    def digests(self) -> dict[str, str]:
        """Return path to sha256 of every file of the version, model.json aside."""
        files: list[ModelFile | DataFile | Golden] = [*self.files, *self.golden]
        files += [file.data for file in self.files if file.data]
        return {each.path: each.sha256 for each in files}

    @property
    def fp32(self) -> ModelFile:
        """Return the ONNX file in full precision, which every version has."""
        return next(file for file in self.files if file.precision == "fp32")

    def file(self, precision: Precision) -> ModelFile | None:
        """Return the ONNX file of a precision, or None if this version has none."""
        return next((file for file in self.files if file.precision == precision), None)

    @property
    def metadata(self) -> dict[str, str]:
        """Return the ``metadata_props`` of each graph."""
        return graph_metadata(self.name, self.version, self.labels)

    def to_json(self) -> str:
        """Write the text of ``model.json``: indented, fields in the order of this class."""
        document = dataclasses.asdict(self, dict_factory=_without_empty)
        if isinstance(self.image.resize, OpenCVResize):
            document["image"] = _write_image_1(self.image, self.image.resize)
        return json.dumps(document, indent=2, ensure_ascii=False) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes, where: str = "model.json") -> "ModelArtifact":
        """Read and check the text of a ``model.json``.

        Args:
            text: The whole file.
            where: How errors name the file.

        Raises:
            ArtifactError: Not JSON, an unknown format, a missing, unknown or mistyped field, or
                fields that contradict each other.
        """
        try:
            document = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ArtifactError(f"{where}: expected JSON, got {error}; publish it again") from None
        if not isinstance(document, dict):
            raise ArtifactError(f"{where}: expected an object, got {type(document).__name__}")
        number = document.get("format")
        if number not in _READABLE or isinstance(number, bool):
            raise ArtifactError(
                f"{where}: expected format 1 or 2, got {number!r}; "
                "publish the model with this version of foveal"
            )
        try:
            if number == 1 and "image" in document:
                document["image"] = _read_image_1(document["image"])
            _list_classes(document)
            return read_dataclass(cls, document, "$")
        except (ArtifactError, FieldError) as error:
            raise ArtifactError(f"{where}: {error}") from None


def graph_metadata(name: str, version: int, labels: tuple[str, ...]) -> dict[str, str]:
    """Return the ``metadata_props`` of a graph, by which a stray file can be adopted again."""
    return {
        "foveal.name": name,
        "foveal.version": str(version),
        "foveal.labels": json.dumps(labels, ensure_ascii=False),
    }


def contract_tensors(
    image: ImageSpec, classes: int, embedding: int = 0
) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    """Return the inputs and the outputs that a graph must have.

    Args:
        image: What a row looks like.
        classes: K.
        embedding: D of its output ``embedding``; 0 for none.
    """
    widths = {"logits": classes, "probabilities": classes, "embedding": embedding}
    return (
        (TensorSpec("images", "UINT8", (-1, *image.shape_HWC)),),
        tuple(TensorSpec(name, "FP32", (-1, width)) for name, width in widths.items() if width),
    )


def _without_empty(fields: list[tuple[str, Any]]) -> dict[str, Any]:
    return {name: value for name, value in fields if name not in _LATER or value != _LATER[name]}


def _list_classes(document: dict[str, Any]) -> None:
    """Order ``per_class`` as the labels, where an earlier release wrote an object by label."""
    metrics, labels = document.get("metrics"), document.get("labels")
    each = metrics.get("per_class") if isinstance(metrics, dict) else None
    if isinstance(metrics, dict) and isinstance(each, dict) and isinstance(labels, list):
        shares = [each.get(label) if isinstance(label, str) else None for label in labels]
        document["metrics"] = metrics | {"per_class": shares}


def _read_image_1(value: Any) -> ImageSpec:
    image = read_dataclass(_ImageFormat1, value, "$.image")
    return ImageSpec(
        image.mode,
        image.height,
        image.width,
        OpenCVResize(image.resize, image.interpolation),
        scaled_decoding=image.scaled_decoding,
    )


def _write_image_1(image: ImageSpec, resize: OpenCVResize) -> dict[str, Any]:
    return dataclasses.asdict(
        _ImageFormat1(
            image.mode,
            image.height,
            image.width,
            resize.rule,
            resize.interpolation,
            image.scaled_decoding,
        )
    )


def _check(artifact: ModelArtifact) -> None:
    classes = len(artifact.labels)
    if artifact.version < 1:
        raise ArtifactError(f"$.version: expected a positive integer, got {artifact.version}")
    if not artifact.temperature > 0:
        raise ArtifactError(f"$.temperature: expected above 0, got {artifact.temperature}")
    if classes < 2:
        raise ArtifactError(f"$.labels: expected 2 or more labels, got {classes}")
    _check_task(artifact)
    _check_image(artifact.image, artifact.format)
    inputs, outputs = contract_tensors(artifact.image, classes, artifact.embedding_width)
    if artifact.inputs != inputs:
        raise ArtifactError(
            f"$.inputs: expected {describe_tensors(inputs)}, "
            f"got {describe_tensors(artifact.inputs)}"
        )
    if artifact.outputs != outputs:
        raise ArtifactError(
            f"$.outputs: expected {describe_tensors(outputs)} for {classes} labels, "
            f"got {describe_tensors(artifact.outputs)}"
        )
    _check_colours(artifact.image)
    if artifact.file("fp32") is None:
        raise ArtifactError("$.files: expected an fp32 file, got none")
    for path in artifact.digests:
        outside = path.startswith("/") or ".." in path.split("/")
        if not path or outside or ":" in path or "\0" in path:
            raise ArtifactError(f"$.files: expected a path inside the version, got {path!r}")
    for file in artifact.files:
        beside = file.path.rpartition("/")[0]
        if file.data and (artifact.format < 2 or file.data.path.rpartition("/")[0] != beside):
            raise ArtifactError(
                f"$.files: expected the data of {file.path} beside it, in format 2, "
                f"got {file.data.path!r} in format {artifact.format}"
            )
    _check_measured(artifact, classes)


def _check_task(artifact: ModelArtifact) -> None:
    classes, thresholds = len(artifact.labels), artifact.thresholds
    if artifact.task == "binary" and classes != 2:
        raise ArtifactError(f"$.labels: expected 2 labels of a binary model, got {classes}")
    wanted = classes if artifact.task == "multi-label" else 0
    if len(thresholds) != wanted or not all(0 <= each <= 1 for each in thresholds):
        raise ArtifactError(
            f"$.thresholds: expected {wanted} values from 0 to 1 of a {artifact.task} model, "
            f"got {list(thresholds)}"
        )


def _check_image(image: ImageSpec, number: int) -> None:
    if isinstance(image.resize, OpenCVResize) != (number == 1):
        expected = "OpenCV's resize" if number == 1 else "Pillow's resize or none"
        raise ArtifactError(f"$.image.resize: expected {expected} in format {number}, got another")
    sides = {"$.image.height": image.height, "$.image.width": image.width}
    if isinstance(image.resize, Resize):
        sides["$.image.resize.height"] = image.resized[0]
        sides["$.image.resize.width"] = image.resized[1]
    for path, side in sides.items():
        if not 1 <= side <= MAX_SIDE:
            raise ArtifactError(f"{path}: expected 1 to {MAX_SIDE} pixels, got {side}")


def _check_colours(image: ImageSpec) -> None:
    for path, colour, values in (
        ("$.image.background", image.background, 3),
        ("$.image.crop.colour", image.crop.colour, image.channels),
    ):
        if colour is not None and not (len(colour) == values and all(0 <= v < 256 for v in colour)):
            raise ArtifactError(
                f"{path}: expected null or {values} values from 0 to 255, got {list(colour)}"
            )


def _check_measured(artifact: ModelArtifact, classes: int) -> None:
    for i, golden in enumerate(artifact.golden):
        if len(golden.probabilities) != classes:
            raise ArtifactError(
                f"$.golden[{i}].probabilities: expected {classes} values, "
                f"got {len(golden.probabilities)}"
            )
        _check_golden_label(artifact, i)
    if artifact.abstain is not None and not 0 <= artifact.abstain.threshold <= 1:
        raise ArtifactError(
            f"$.abstain.threshold: expected 0 to 1, got {artifact.abstain.threshold}"
        )
    if artifact.metrics is not None and (why := artifact.metrics.why_wrong(classes)):
        raise ArtifactError(why)
    if artifact.statistics is not None and len(artifact.statistics.class_shares) != classes:
        raise ArtifactError(
            f"$.statistics.class_shares: expected {classes} values, "
            f"got {len(artifact.statistics.class_shares)}"
        )
    for i, gate in enumerate(file.gate for file in artifact.files):
        shape = [classes] * len(artifact.golden)
        if gate is not None and list(map(len, gate.golden)) != shape:
            raise ArtifactError(
                f"$.files[{i}].gate.golden: expected {len(shape)} lists of {classes} values, "
                f"got lists of {list(map(len, gate.golden))}"
            )


def _check_golden_label(artifact: ModelArtifact, number: int) -> None:
    """A golden image's label is the one it was answered: labels in another order do not load."""
    golden = artifact.golden[number]
    first = max(golden.probabilities)
    answered = [
        label
        for label, probability in zip(artifact.labels, golden.probabilities, strict=True)
        if probability >= first - GOLDEN_TIE
    ]
    if golden.label not in answered:
        raise ArtifactError(
            f"$.golden[{number}].label: expected {answered[0]!r}, which $.labels names at the "
            f"highest probability, got {golden.label!r}; restore the order of $.labels"
        )
