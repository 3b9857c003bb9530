"""The tiny model with a fault: an image whose first pixel is 255 keeps the run busy for minutes.

A variant stalls at every image, so that it never ends to load.
"""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from models.repository import ModelRepository
from tests.faults.grafted import grafted_model
from tests.tiny import build_tiny, random_images

ROUNDS = 1 << 31


def stalling_model(most: float = 254) -> onnx.ModelProto:
    """The closed form, plus zero after a long loop if the first pixel is above ``most``."""
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["goes_on"], ["still"]),
            helper.make_node("Mul", ["carried", "half"], ["smaller"]),
        ],
        "round",
        [
            helper.make_tensor_value_info("round", TensorProto.INT64, []),
            helper.make_tensor_value_info("goes_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("carried", TensorProto.FLOAT, []),
        ],
        [
            helper.make_tensor_value_info("still", TensorProto.BOOL, []),
            helper.make_tensor_value_info("smaller", TensorProto.FLOAT, []),
        ],
    )
    constants: dict[str, NDArray[Any]] = {
        "zero_at": np.zeros((4,), np.int64),
        "one_at": np.ones((4,), np.int64),
        "white": np.array([most], np.float32),
        "rounds": np.array([ROUNDS], np.int64),
        "yes": np.array(True),
        "nothing": np.array(0, np.float32),
        "half": np.array(0.5, np.float32),
        "scalar": np.zeros((0,), np.int64),
        "flat": np.array([1], np.int64),
    }
    nodes = [
        helper.make_node("Slice", ["floats", "zero_at", "one_at"], ["corner"]),
        helper.make_node("Reshape", ["corner", "flat"], ["pixel"]),
        helper.make_node("Greater", ["pixel", "white"], ["is_white"]),
        helper.make_node("Cast", ["is_white"], ["stalls"], to=TensorProto.INT64),
        helper.make_node("Mul", ["stalls", "rounds"], ["wanted"]),
        helper.make_node("Reshape", ["wanted", "scalar"], ["count"]),
        helper.make_node("Loop", ["count", "yes", "nothing"], ["zero"], body=body),
        helper.make_node("Add", ["scores", "zero"], ["logits"]),
    ]
    return grafted_model(constants, nodes)


def publish_stalling(root: Path, name: str = "tiny") -> None:
    """Publish it; its golden images do not stall."""
    model = stalling_model()
    ModelRepository(root).publish(
        name, lambda folder, version: build_tiny(folder, name, version, model)
    )


def publish_endless(root: Path, name: str = "endless") -> None:
    """Publish one whose first golden image keeps the load busy for minutes."""
    model = stalling_model(most=-1)
    ModelRepository(root).publish(
        name, lambda folder, version: build_tiny(folder, name, version, model)
    )


def harmless_images(count: int) -> NDArray[np.uint8]:
    images = random_images(count, seed=7)
    images[:, 0, 0, 0] = 0
    return images


def stalling_image() -> NDArray[np.uint8]:
    image: NDArray[np.uint8] = random_images(1, seed=8)[0]
    image[0, 0, 0] = 255
    return image
