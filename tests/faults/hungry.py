"""The tiny model with a fault: three images with a white corner in one run want 64 TiB."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from models.repository import ModelRepository
from tests.faults.grafted import grafted_model
from tests.tiny import build_tiny, random_images

TOO_MANY = 3


def hungry_model() -> onnx.ModelProto:
    """The closed form, plus the sum of as many zeros as the white corners ask for."""
    constants: dict[str, NDArray[Any]] = {
        "corner_from": np.zeros(3, np.int64),
        "corner_to": np.ones(3, np.int64),
        "axes": np.array([1, 2, 3]),
        "white": np.array(254, np.float32),
        "too_many": np.array(TOO_MANY, np.int64),
        "huge": np.array(1 << 44, np.int64),
        "flat": np.array([1], np.int64),
    }
    nodes = [
        helper.make_node("Slice", ["floats", "corner_from", "corner_to", "axes"], ["corners"]),
        helper.make_node("Greater", ["corners", "white"], ["are_white"]),
        helper.make_node("Cast", ["are_white"], ["ones"], to=TensorProto.INT64),
        helper.make_node("ReduceSum", ["ones"], ["whites"], keepdims=0),
        helper.make_node("Div", ["whites", "too_many"], ["portions"]),
        helper.make_node("Mul", ["portions", "huge"], ["numbers"]),
        helper.make_node("Reshape", ["numbers", "flat"], ["shape"]),
        helper.make_node("ConstantOfShape", ["shape"], ["zeros"]),
        helper.make_node("ReduceSum", ["zeros"], ["nothing"], keepdims=0),
        helper.make_node("Add", ["scores", "nothing"], ["logits"]),
    ]
    return grafted_model(constants, nodes)


def publish_hungry(root: Path, name: str = "tiny") -> None:
    """Publish it; its golden images want nothing."""
    model = hungry_model()
    ModelRepository(root).publish(
        name, lambda folder, version: build_tiny(folder, name, version, model)
    )


def white_images(count: int) -> NDArray[np.uint8]:
    """Return images that want memory."""
    images = random_images(count, seed=11)
    images[:, 0, 0, 0] = 255
    return images
