"""A real ONNX model of a few nodes whose answer is a closed form of the pixels.

Logit k is ``gain`` times the sum of the pixels of the k-th horizontal stripe, exactly: every answer
proves which row it came from. Of the other tasks it is less ``CENTRE``, a grey stripe's sum: each
label's sigmoid is about a half. Built without torch.
"""

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from models.artifact import (
    ImageSpec,
    ModelArtifact,
    ModelFile,
    Precision,
    Resize,
    Task,
    TensorSpec,
)
from models.evidence import Gate, Golden
from models.image import encode_png
from models.repository import ModelRepository

SIDE = 8
LABELS = ("top", "upper", "lower", "bottom")
# Softmax of sums of up to 16 * 255 would be all ones and zeros; this keeps digits to compare.
TEMPERATURE = 1000.0
CENTRE = 16 * 127.5
# Of multi-label: about one of two images gets each label; some get all, some none.
THRESHOLDS = (0.5, 0.45, 0.55, 0.5)
BINARY_LABELS = ("dark", "light")


def tiny_logits(images_NHWC: NDArray[np.uint8], gain: float = 1.0) -> NDArray[np.float32]:
    """The closed form: float32 [N, 4], whole numbers for a whole gain."""
    stripes = images_NHWC.reshape(len(images_NHWC), len(LABELS), -1)
    logits: NDArray[np.float32] = stripes.astype(np.float32).sum(axis=2) * np.float32(gain)
    return logits


def tiny_probabilities(
    images_NHWC: NDArray[np.uint8], gain: float = 1.0, task: Task = "single-label"
) -> NDArray[np.float64]:
    if task != "single-label":
        scaled = (tiny_logits(images_NHWC, gain).astype(np.float64) - CENTRE) / TEMPERATURE
        sigmoids = 1 / (1 + np.exp(-scaled))
        return (
            sigmoids if task == "multi-label" else np.hstack([1 - sigmoids[:, :1], sigmoids[:, :1]])
        )
    scaled = tiny_logits(images_NHWC, gain).astype(np.float64) / TEMPERATURE
    powers = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    probabilities: NDArray[np.float64] = powers / powers.sum(axis=1, keepdims=True)
    return probabilities


def random_images(count: int, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (count, SIDE, SIDE, 1), dtype=np.uint8)


def tiny_model(
    labels: tuple[str, ...] = LABELS, gain: float = 1.0, *, is_slow: bool = False
) -> onnx.ModelProto:
    """The closed form as a graph; a slow one first does the work of a large matrix, for nothing."""
    classes = len(labels)
    constants = [
        numpy_helper.from_array(np.array([-1, classes, SIDE * SIDE // classes]), "stripes"),
        numpy_helper.from_array(np.array([2]), "last"),
        numpy_helper.from_array(np.array(TEMPERATURE, np.float32), "temperature"),
        numpy_helper.from_array(np.array(gain, np.float32), "gain"),
    ]
    nodes = [
        helper.make_node("Cast", ["images"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("Reshape", ["floats", "stripes"], ["striped"]),
        helper.make_node("ReduceSum", ["striped", "last"], ["sums"], keepdims=0),
        helper.make_node("Mul", ["sums", "gain"], ["scores" if is_slow else "logits"]),
        *(_wasted_work(constants) if is_slow else []),
        helper.make_node("Div", ["logits", "temperature"], ["scaled"]),
        helper.make_node("Softmax", ["scaled"], ["probabilities"], axis=1),
    ]
    return _model(nodes, classes, constants)


def model_without_black() -> onnx.ModelProto:
    """The tiny model with logits x * x / x: the same, but NaN for a black stripe."""
    model = tiny_model()
    graph = model.graph
    (mul,) = [node for node in graph.node if node.op_type == "Mul"]
    mul.output[0] = "gained"
    position = list(graph.node).index(mul) + 1
    for node in (
        helper.make_node("Div", ["squared", "gained"], ["logits"]),
        helper.make_node("Mul", ["gained", "gained"], ["squared"]),
    ):
        graph.node.insert(position, node)
    return model


def _model(
    nodes: list[onnx.NodeProto], classes: int, constants: list[TensorProto]
) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("images", TensorProto.UINT8, ["N", SIDE, SIDE, 1])],
        [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", classes])
            for name in ("logits", "probabilities")
        ],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model)
    return model


def task_model(task: Task, gain: float = 1.0) -> onnx.ModelProto:
    """The closed form of another task: a sigmoid for each stripe, or for the first one alone."""
    is_binary = task == "binary"
    constants = [
        numpy_helper.from_array(np.array([-1, len(LABELS), SIDE * SIDE // len(LABELS)]), "stripes"),
        numpy_helper.from_array(np.array([2]), "last"),
        numpy_helper.from_array(np.array([1]), "second"),
        numpy_helper.from_array(np.array([0]), "zero"),
        numpy_helper.from_array(np.array(TEMPERATURE, np.float32), "temperature"),
        numpy_helper.from_array(np.array(gain, np.float32), "gain"),
        numpy_helper.from_array(np.array(CENTRE, np.float32), "centre"),
        numpy_helper.from_array(np.array(1, np.float32), "one"),
    ]
    nodes = [
        helper.make_node("Cast", ["images"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("Reshape", ["floats", "stripes"], ["striped"]),
        helper.make_node("ReduceSum", ["striped", "last"], ["sums"], keepdims=0),
        helper.make_node("Mul", ["sums", "gain"], ["gained"]),
        helper.make_node("Sub", ["gained", "centre"], ["centred" if is_binary else "logits"]),
    ]
    if is_binary:
        nodes += [
            helper.make_node("Slice", ["centred", "zero", "second", "second"], ["logit"]),
            helper.make_node("Sub", ["logit", "logit"], ["nothing"]),
            helper.make_node("Concat", ["nothing", "logit"], ["logits"], axis=1),
            helper.make_node("Div", ["logit", "temperature"], ["scaled"]),
            helper.make_node("Sigmoid", ["scaled"], ["p"]),
            helper.make_node("Sub", ["one", "p"], ["rest"]),
            helper.make_node("Concat", ["rest", "p"], ["probabilities"], axis=1),
        ]
    else:
        nodes += [
            helper.make_node("Div", ["logits", "temperature"], ["scaled"]),
            helper.make_node("Sigmoid", ["scaled"], ["probabilities"]),
        ]
    return _model(nodes, 2 if is_binary else len(LABELS), constants)


def _wasted_work(constants: list[TensorProto]) -> list[onnx.NodeProto]:
    """Nodes that add nothing to the scores, in about a megaflop a row."""
    constants.append(numpy_helper.from_array(np.zeros((16, 8192), np.float32), "zeros"))
    return [
        helper.make_node("MatMul", ["striped", "zeros"], ["wide"]),
        helper.make_node("ReduceSum", ["wide", "last"], ["nothing"], keepdims=0),
        helper.make_node("Add", ["scores", "nothing"], ["logits"]),
    ]


def build_tiny(
    folder: Path,
    name: str,
    version: int,
    model: onnx.ModelProto,
    gain: float = 1.0,
    lower: dict[Precision, float] | None = None,
    *,
    task: Task = "single-label",
    labels: tuple[str, ...] = (),
) -> ModelArtifact:
    """Write the files of a version into a folder and return the artifact that describes them.

    ``lower`` gives files of lower precision, each with a gain of its own: who answers is seen.
    """
    content = model.SerializeToString()
    (folder / "model.onnx").write_bytes(content)
    (folder / "golden").mkdir()
    golden = []
    labels = labels or (BINARY_LABELS if task == "binary" else LABELS)
    images = random_images(8, seed=99)
    for i, (image, probabilities) in enumerate(
        zip(images, tiny_probabilities(images, gain, task), strict=True)
    ):
        png = encode_png(image)
        (folder / f"golden/{i}.png").write_bytes(png)
        golden.append(
            Golden(
                f"golden/{i}.png",
                hashlib.sha256(png).hexdigest(),
                labels[int(probabilities.argmax())],
                tuple(float(p) for p in probabilities.astype(np.float32)),
            )
        )
    return ModelArtifact(
        name=name,
        version=version,
        labels=labels,
        inputs=(TensorSpec("images", "UINT8", (-1, SIDE, SIDE, 1)),),
        outputs=(
            TensorSpec("logits", "FP32", (-1, len(labels))),
            TensorSpec("probabilities", "FP32", (-1, len(labels))),
        ),
        image=ImageSpec("L", SIDE, SIDE, Resize("both", "box")),
        files=(
            ModelFile("model.onnx", "fp32", hashlib.sha256(content).hexdigest(), len(content)),
            *(_write_lower(folder, precision, own) for precision, own in (lower or {}).items()),
        ),
        opset=18,
        temperature=TEMPERATURE,
        golden=tuple(golden),
        task=task,
        thresholds=THRESHOLDS if task == "multi-label" else (),
    )


def _write_lower(folder: Path, precision: Precision, gain: float) -> ModelFile:
    content = tiny_model(gain=gain).SerializeToString()
    path = f"model.{precision}.onnx"
    (folder / path).write_bytes(content)
    answers = tiny_probabilities(random_images(8, seed=99), gain).astype(np.float32)
    golden = tuple(tuple(float(p) for p in row) for row in answers)
    gate = Gate("test", 100, 0.9, 0.001, 0.005, 0.99, 0.98, 0.01, golden)
    return ModelFile(path, precision, hashlib.sha256(content).hexdigest(), len(content), gate)


def publish_tiny(
    root: Path,
    name: str = "tiny",
    model: onnx.ModelProto | None = None,
    gain: float = 1.0,
    lower: dict[Precision, float] | None = None,
    *,
    task: Task = "single-label",
    labels: tuple[str, ...] = (),
    **changes: Any,
) -> ModelArtifact:
    """Publish one more version of a tiny model; ``changes`` replace fields of its artifact."""
    if model is None:
        model = tiny_model(gain=gain) if task == "single-label" else task_model(task, gain)
    return ModelRepository(root).publish(
        name,
        lambda folder, version: replace(
            build_tiny(folder, name, version, model, gain, lower, task=task, labels=labels),
            **changes,
        ),
    )


def assert_own_result(
    result: dict[str, Any], image_HWC: NDArray[np.uint8], gain: float = 1.0, top: int = 4
) -> None:
    """Assert that one entry of ``results`` is the closed form of this very image."""
    expected = tiny_probabilities(image_HWC[None], gain)[0]
    order = np.argsort(-expected, kind="stable")[:top].tolist()
    predictions = result["predictions"]
    assert [p["index"] for p in predictions] == order, (result, expected)
    assert [p["label"] for p in predictions] == [LABELS[i] for i in order]
    np.testing.assert_allclose(
        [p["probability"] for p in predictions], expected[order], rtol=0, atol=1e-6
    )
