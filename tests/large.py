"""Graphs as large as people bring, with random weights: a ResNet-50 (102 MB), a ViT-L (1.2 GB)."""

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from models.artifact import ImageSpec, ModelArtifact, ModelFile, Resize, TensorSpec
from models.evidence import Golden
from models.image import encode_png
from models.repository import ModelRepository
from tests.tiny import build_tiny, tiny_model

SIDE, CLASSES = 224, 1000


class Graph:
    """Nodes that are added one by one; an array becomes an initializer."""

    def __init__(self) -> None:
        self._random = np.random.default_rng(0)
        self._nodes: list[onnx.NodeProto] = []
        self._weights: list[TensorProto] = []

    def add(self, kind: str, *inputs: "str | NDArray[Any]", name: str = "", **how: Any) -> str:
        """Add a node and return the name of its output."""
        names = [each if isinstance(each, str) else self._keep(each) for each in inputs]
        output = name or f"t{len(self._nodes)}"
        self._nodes.append(helper.make_node(kind, names, [output], **how))
        return output

    def _keep(self, weights: NDArray[Any]) -> str:
        self._weights.append(numpy_helper.from_array(weights, f"w{len(self._weights)}"))
        return self._weights[-1].name

    def random(self, *shape: int, scale: float = 0.02) -> NDArray[np.float32]:
        """Return normal weights."""
        return self._random.standard_normal(shape, np.float32) * np.float32(scale)

    def pixels(self) -> str:
        """Return the images as floats, channels first."""
        floats = self.add("Cast", "images", to=TensorProto.FLOAT)
        scaled = self.add("Mul", floats, np.array(1 / 255, np.float32))
        return self.add("Transpose", scaled, perm=[0, 3, 1, 2])

    def model(self, features: str, width: int) -> onnx.ModelProto:
        """End the graph with a linear layer and a softmax."""
        self.add("MatMul", features, self.random(width, CLASSES, scale=0.01), name="logits")
        self.add("Softmax", "logits", name="probabilities", axis=-1)
        value = helper.make_tensor_value_info
        graph = helper.make_graph(
            self._nodes,
            "large",
            [value("images", TensorProto.UINT8, ["N", SIDE, SIDE, 3])],
            [
                value(each, TensorProto.FLOAT, ["N", CLASSES])
                for each in ("logits", "probabilities")
            ],
            self._weights,
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def resnet50() -> onnx.ModelProto:
    graph = Graph()

    def conv(x: str, inputs: int, outputs: int, size: int, stride: int = 1) -> str:
        weights = graph.random(outputs, inputs, size, size, scale=(2 / (inputs * size**2)) ** 0.5)
        bias, pads = np.zeros(outputs, np.float32), [size // 2] * 4
        return graph.add("Conv", x, weights, bias, strides=[stride] * 2, pads=pads)

    x = graph.add("Relu", conv(graph.pixels(), 3, 64, 7, 2))
    x = graph.add("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)
    inputs = 64
    for width, blocks, stride in ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2)):
        for block in range(blocks):
            step = 1 if block else stride
            y = graph.add("Relu", conv(x, inputs, width, 1))
            y = conv(graph.add("Relu", conv(y, width, width, 3, step)), width, 4 * width, 1)
            x = x if block else conv(x, inputs, 4 * width, 1, step)
            y = graph.add("Mul", y, np.array(0.2, np.float32))
            x, inputs = graph.add("Relu", graph.add("Add", x, y)), 4 * width
    return graph.model(graph.add("Flatten", graph.add("GlobalAveragePool", x)), inputs)


def vit_large(layers: int = 24, width: int = 1024, heads: int = 16, patch: int = 16) -> Any:
    graph, length, each = Graph(), (SIDE // patch) ** 2, width // heads
    split, joined = np.array([0, length, heads, each]), np.array([0, length, width])
    ones, zeros = np.ones(width, np.float32), np.zeros(width, np.float32)

    def norm(x: str) -> str:
        return graph.add("LayerNormalization", x, ones, zeros, axis=-1)

    def linear(x: str, inputs: int, outputs: int) -> str:
        product = graph.add("MatMul", x, graph.random(inputs, outputs))
        return graph.add("Add", product, graph.random(outputs))

    x = graph.add("Conv", graph.pixels(), graph.random(width, 3, patch, patch), strides=[patch] * 2)
    x = graph.add(
        "Transpose", graph.add("Reshape", x, np.array([0, width, length])), perm=[0, 2, 1]
    )
    for _ in range(layers):
        y = norm(x)
        orders = ([0, 2, 1, 3], [0, 2, 3, 1], [0, 2, 1, 3])
        query, key, value = (
            graph.add("Transpose", graph.add("Reshape", linear(y, width, width), split), perm=order)
            for order in orders
        )
        scores = graph.add("MatMul", query, key)
        scores = graph.add("Mul", scores, np.array(each**-0.5, np.float32))
        y = graph.add("MatMul", graph.add("Softmax", scores, axis=-1), value)
        y = graph.add("Reshape", graph.add("Transpose", y, perm=[0, 2, 1, 3]), joined)
        x = graph.add("Add", x, linear(y, width, width))
        y = graph.add("Gelu", linear(norm(x), width, 4 * width))
        x = graph.add("Add", x, linear(y, 4 * width, width))
    return graph.model(graph.add("ReduceMean", norm(x), np.array([1]), keepdims=0), width)


def publish_large(root: Path, name: str, model: onnx.ModelProto) -> None:
    """Publish a graph with eight golden images, which it is asked for."""

    def build(folder: Path, version: int) -> ModelArtifact:
        (folder / "tiny").mkdir()
        artifact = replace(
            build_tiny(folder / "tiny", name, version, tiny_model()),
            labels=tuple(f"class {i}" for i in range(CLASSES)),
            inputs=(TensorSpec("images", "UINT8", (-1, SIDE, SIDE, 3)),),
            outputs=tuple(
                TensorSpec(n, "FP32", (-1, CLASSES)) for n in ("logits", "probabilities")
            ),
            image=ImageSpec("RGB", SIDE, SIDE, Resize("both", "box")),
            golden=(),
            files=(ModelFile("model.onnx", "fp32", "0" * 64, 1),),
        )
        helper.set_model_props(model, dict(artifact.metadata))
        content = model.SerializeToString()
        (folder / "model.onnx").write_bytes(content)
        (folder / "golden").mkdir()
        digest = hashlib.sha256(content).hexdigest()
        return replace(
            artifact,
            files=(ModelFile("model.onnx", "fp32", digest, len(content)),),
            golden=tuple(_golden(folder, artifact.labels)),
        )

    ModelRepository(root).publish(name, build)


def _golden(folder: Path, labels: tuple[str, ...]) -> list[Golden]:
    session = onnxruntime.InferenceSession(str(folder / "model.onnx"))
    golden = []
    for i in range(8):
        image = np.random.default_rng(i).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
        png = encode_png(image)
        (folder / f"golden/{i}.png").write_bytes(png)
        probabilities = session.run(["probabilities"], {"images": image[None]})[0][0]
        golden.append(
            Golden(
                f"golden/{i}.png",
                hashlib.sha256(png).hexdigest(),
                labels[int(probabilities.argmax())],
                tuple(float(p) for p in probabilities),
            )
        )
    return golden
