"""A ResNet-50 with random weights, as an ONNX file of another framework, and images for its gate.

    python -m loadtest.bench.resnet50 OUT

Its rate does not depend on the weights, and a machine without a network can make it. Needs numpy,
onnx and Pillow. OUT gets ``resnet50.onnx`` (float32 pixels [N, 3, 224, 224] in, 1,000 logits out),
``labels.txt``, ``images/`` and ``more/``. Layers: He et al., "Deep Residual Learning for Image
Recognition", table 1, strides in the 3x3 convolutions as torchvision has them; batch normalization
is folded into the convolutions, as exporters do.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

CLASSES, SIDE = 1000, 224
STAGES = ((3, 64), (4, 128), (6, 256), (3, 512))  # blocks, channels of their 3x3 convolutions
_WIDENED = 4  # a block's output has so many times the channels
# Random blocks, each added to its input, would let activations grow beyond float16.
_BLOCK_GAIN = 0.5


class _Graph:
    """Nodes and weights so far; each call adds a layer and returns the name of its output."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[TensorProto] = []
        self._random = np.random.default_rng(50)

    def add(self, kind: str, *inputs: str, **attributes: Any) -> str:
        output = f"{kind.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [output], **attributes))
        return output

    def weight(self, values: NDArray[np.float32]) -> str:
        name = f"weight_{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(values.astype(np.float32), name))
        return name

    def random(self, *shape: int, gain: float = 1.0) -> str:
        """He's initialization: a layer keeps the variance of what it gets."""
        scale = gain * np.sqrt(2 / np.prod(shape[1:]))
        return self.weight(self._random.standard_normal(shape, np.float32) * scale)

    def conv(
        self, x: str, channels: int, to: int, side: int, stride: int = 1, gain: float = 1.0
    ) -> str:
        weight = self.random(to, channels, side, side, gain=gain)
        bias = self.weight(np.zeros(to, np.float32))
        return self.add("Conv", x, weight, bias, strides=[stride] * 2, pads=[side // 2] * 4)

    def block(self, x: str, channels: int, width: int, stride: int) -> str:
        y = self.add("Relu", self.conv(x, channels, width, 1))
        y = self.add("Relu", self.conv(y, width, width, 3, stride))
        y = self.conv(y, width, width * _WIDENED, 1, gain=_BLOCK_GAIN)
        if channels != width * _WIDENED:
            x = self.conv(x, channels, width * _WIDENED, 1, stride, gain=0.5**0.5)
        return self.add("Relu", self.add("Add", x, y))


def resnet50(divide: int = 1) -> onnx.ModelProto:
    """Return the network: float32 ``pixels`` [N, 3, 224, 224] to ``scores`` [N, 1000].

    Args:
        divide: Divisor of all its channels; above 1 for a rehearsal, which has no time.
    """
    graph = _Graph()
    channels = 64 // divide
    x = graph.add("Relu", graph.conv("pixels", 3, channels, 7, 2))
    x = graph.add("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)
    for number, (blocks, full) in enumerate(STAGES):
        width = full // divide
        for block in range(blocks):
            x = graph.block(x, channels, width, 2 if number and not block else 1)
            channels = width * _WIDENED
    x = graph.add("Flatten", graph.add("GlobalAveragePool", x))
    bias = graph.weight(np.zeros(CLASSES, np.float32))
    graph.add("Gemm", x, graph.random(CLASSES, channels), bias, transB=1)
    graph.nodes[-1].output[0] = "scores"
    made = helper.make_graph(
        graph.nodes,
        "resnet50",
        [helper.make_tensor_value_info("pixels", TensorProto.FLOAT, ["N", 3, SIDE, SIDE])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["N", CLASSES])],
        graph.weights,
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model)
    return model


def write_images(folder: Path, count: int) -> None:
    """Write pictures that differ in all but their size: coarse and fine noise of random colours."""
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(1)
    for number in range(count):
        side = int(random.integers(2, 64))
        coarse_HWC = random.integers(0, 256, (side, side, 3), dtype=np.uint8)
        picture = Image.fromarray(coarse_HWC).resize((SIDE + 32, SIDE + 32))
        picture.save(folder / f"{number:03}.jpg", quality=90)


def main() -> None:
    """Write everything into a folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--images", type=int, default=128, help="for the gate")
    parser.add_argument("--divide", type=int, default=1, help="divisor of all channels")
    parser.add_argument("--more", type=int, default=1024, help="to score")
    options = parser.parse_args()
    write_images(options.out / "images", options.images)
    write_images(options.out / "more", options.more)
    onnx.save(resnet50(options.divide), options.out / "resnet50.onnx")
    (options.out / "labels.txt").write_text("\n".join(f"class {i}" for i in range(CLASSES)))


if __name__ == "__main__":
    main()
