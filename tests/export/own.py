"""Tiny networks with a pipeline of their own: Pillow and NumPy, then onnxruntime, no code of ours.

What a user has who adopts a model: the file, an evaluation, pictures, and the answers to them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

SIDE = 16
LABELS = ("north", "east", "south", "west", "up", "down")
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
KINDS = ("convolution", "patches", "norm")


def network(kind: str) -> onnx.ModelProto:
    """A network on float [N, 3, 16, 16] that sees where on the picture which colour is."""
    generator = np.random.default_rng(KINDS.index(kind))
    constants: list[onnx.TensorProto] = []

    def weight(name: str, *shape: int, scale: float = 0.3) -> str:
        values = generator.normal(0, scale, shape).astype(np.float32)
        constants.append(numpy_helper.from_array(values, name))
        return name

    def whole(name: str, *numbers: int) -> str:
        constants.append(numpy_helper.from_array(np.array(numbers, np.int64), name))
        return name

    node = helper.make_node
    if kind == "patches":
        nodes = [
            node("Conv", ["data", weight("kernel", 12, 3, 4, 4)], ["embedded"], strides=[4, 4]),
            node("Tanh", ["embedded"], ["bent"]),
        ]
        features = 12 * 16
    else:
        nodes = [
            node("Conv", ["data", weight("kernel", 8, 3, 3, 3)], ["conv"], pads=[1, 1, 1, 1]),
            node("Relu", ["conv"], ["positive"]),
            node("AveragePool", ["positive"], ["bent"], kernel_shape=[4, 4], strides=[4, 4]),
        ]
        features = 8 * 16
        if kind == "norm":
            for name, values in (("mu", 0.7), ("var", 1.9), ("gain", 1.2), ("offset", 0.1)):
                constants.append(
                    numpy_helper.from_array(np.linspace(values, 2 * values, 8, dtype="f4"), name)
                )
            nodes[1] = node("BatchNormalization", ["conv", "gain", "offset", "mu", "var"], ["n"])
            nodes.insert(2, node("Relu", ["n"], ["positive"]))
    nodes += [
        node("Reshape", ["bent", whole("shape", 0, features)], ["flat"]),
        node("Gemm", ["flat", weight("w1", features, 24, scale=0.1)], ["hidden"]),
        node("Tanh", ["hidden"], ["hidden_bent"]),
        node("MatMul", ["hidden_bent", weight("w2", 24, len(LABELS), scale=1.5)], ["answer"]),
    ]
    graph = helper.make_graph(
        nodes,
        "own",
        [helper.make_tensor_value_info("data", TensorProto.FLOAT, ["batch", 3, SIDE, SIDE])],
        [helper.make_tensor_value_info("answer", TensorProto.FLOAT, ["batch", len(LABELS)])],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    return model


@dataclass(frozen=True)
class Pipeline:
    """The user's evaluation: resize the shorter side to 18, crop 16 from the centre, normalise."""

    resize: int = 18
    filter: Image.Resampling = Image.Resampling.BICUBIC
    bgr: bool = False
    scale: float = 1 / 255
    mean: Sequence[float] = MEAN
    std: Sequence[float] = STD

    def prepare(self, file: Path) -> NDArray[np.float32]:
        """Float32 [3, 16, 16]."""
        image = Image.open(file).convert("RGB")
        width, height = image.size
        shorter = min(width, height)
        size = self.resize * width // shorter, self.resize * height // shorter
        image = image.resize(size, self.filter)
        left, top = (round((side - SIDE) / 2) for side in size)
        pixels = np.asarray(image.crop((left, top, left + SIDE, top + SIDE)), np.float64)
        if self.bgr:
            pixels = pixels[..., ::-1]
        values = (pixels * self.scale - np.array(self.mean)) / np.array(self.std)
        prepared: NDArray[np.float32] = values.transpose(2, 0, 1).astype(np.float32)
        return prepared

    def answer(self, model: onnx.ModelProto, files: Sequence[Path]) -> NDArray[np.float32]:
        """Probabilities, float32 [N, 6], one file a run."""
        session = onnxruntime.InferenceSession(
            model.SerializeToString(), providers=["CPUExecutionProvider"]
        )
        rows = [session.run(None, {"data": self.prepare(f)[None]})[0][0] for f in files]
        powers = np.exp(np.stack(rows) - np.max(rows, axis=1, keepdims=True))
        probabilities: NDArray[np.float32] = powers / powers.sum(axis=1, keepdims=True)
        return probabilities


def pictures(folder: Path, count: int, name: Callable[[int], str] = "{}.png".format) -> list[Path]:
    """Write pictures of many shapes with colours, edges and fine lines; return the sorted files."""
    generator = np.random.default_rng(5)
    files = []
    for number in range(count):
        height, width = (int(side) for side in generator.integers(24, 90, 2))
        coarse = generator.integers(0, 256, (5, 5, 3), dtype=np.uint8)
        image = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
        noise = generator.integers(-60, 60, (height, width, 3))
        pixels = np.clip(np.asarray(image, np.int64) + noise, 0, 255).astype(np.uint8)
        file = folder / name(number)
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(file)
        files.append(file)
    return sorted(files, key=lambda file: file.parts)
