"""Foreign classifiers of known weights: every layout, datatype and ending that graphs come with."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

SIDE = 8
CLASSES = 4
LABELS = ("north", "east", "south", "west")
LIGHT = Path(onnx.__file__).parent / "backend/test/data/light"


def foreign_model(
    *,
    layout: str = "NCHW",
    channels: int = 3,
    elem_type: int = TensorProto.FLOAT,
    batch: int | str = "batch",
    side: int | str = SIDE,
    ending: str = "logits",
    opset: int = 17,
) -> onnx.ModelProto:
    """A convolution, a mean over pixels, a reshape that names the batch, and an ending.

    Args:
        layout: Of the input.
        channels: Of the input.
        elem_type: Datatype of the input, and of the whole network if it is float16.
        batch: Fixed number of rows, or the name of a free one.
        side: Height and width, or the name of free ones.
        ending: ``logits``, ``softmax``, ``log_softmax``, ``sigmoid``, ``hidden_softmax`` (by way of
            Exp, which no walk back to a Softmax finds) or ``4d`` (softmax on [N, K, 1, 1]).
        opset: Of the graph.
    """
    kind = elem_type if elem_type == TensorProto.FLOAT16 else TensorProto.FLOAT
    dtype = helper.tensor_dtype_to_np_dtype(kind)
    generator = np.random.default_rng(1)

    def weight(name: str, *shape: int) -> onnx.TensorProto:
        return numpy_helper.from_array(generator.normal(0, 0.3, shape).astype(dtype), name)

    rows = batch if isinstance(batch, int) else 0
    constants = [
        weight("kernel", 16, channels, 3, 3),
        weight("bias", 16),
        weight("last", 16, CLASSES),
        numpy_helper.from_array(np.array([rows, 16], np.int64), "shape"),
        numpy_helper.from_array(np.array([rows, CLASSES, 1, 1], np.int64), "square"),
    ]
    nodes: list[Any] = []
    name = "data" if elem_type == kind else "cast"
    if elem_type != kind:
        nodes.append(helper.make_node("Cast", ["data"], ["cast"], to=TensorProto.FLOAT))
    if layout == "NHWC":
        nodes.append(helper.make_node("Transpose", [name], ["moved"], perm=[0, 3, 1, 2]))
        name = "moved"
    nodes += [
        helper.make_node("Conv", [name, "kernel", "bias"], ["conv"], pads=[1, 1, 1, 1]),
        helper.make_node("Tanh", ["conv"], ["bent"]),
        helper.make_node("GlobalAveragePool", ["bent"], ["mean"]),
        helper.make_node("Reshape", ["mean", "shape"], ["flat"]),
        helper.make_node("MatMul", ["flat", "last"], ["scores"]),
        *ending_nodes(ending),
    ]
    shape = [batch, CLASSES, *([1, 1] if ending == "4d" else [])]
    sides = (channels, side, side) if layout == "NCHW" else (side, side, channels)
    graph = helper.make_graph(
        nodes,
        "foreign",
        [helper.make_tensor_value_info("data", elem_type, [batch, *sides])],
        [helper.make_tensor_value_info("answer", kind, shape)],
        [c for c in constants if c.name != "square" or ending == "4d"],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    return model


def ending_nodes(ending: str) -> list[onnx.NodeProto]:
    """The nodes from ``scores`` to ``answer``."""
    if ending == "4d":
        return [
            helper.make_node("Reshape", ["scores", "square"], ["scores4"]),
            helper.make_node("Softmax", ["scores4"], ["answer"], axis=1),
        ]
    if ending == "hidden_softmax":
        return [
            helper.make_node("Exp", ["scores"], ["powers"]),
            helper.make_node("ReduceL1", ["powers"], ["sum"], axes=[1], keepdims=1),
            helper.make_node("Div", ["powers", "sum"], ["answer"]),
        ]
    last = {
        "logits": "Identity",
        "softmax": "Softmax",
        "log_softmax": "LogSoftmax",
        "sigmoid": "Sigmoid",
    }[ending]
    axis = {"axis": 1} if "softmax" in ending else {}
    return [helper.make_node(last, ["scores"], ["answer"], None, None, None, None, **axis)]


def foreign_probabilities(pixels_NCHW: NDArray[np.generic]) -> NDArray[np.float64]:
    """The same network in NumPy and float64: float [N, K] from what the graph is given, RGB."""
    model = foreign_model(channels=pixels_NCHW.shape[1])
    constants = {
        t.name: numpy_helper.to_array(t).astype(np.float64) for t in model.graph.initializer
    }
    padded = np.pad(pixels_NCHW.astype(np.float64), ((0, 0), (0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3))
    conv = np.einsum("ncyxij,ocij->noyx", windows, constants["kernel"])
    bent = np.tanh(conv + constants["bias"][:, None, None])
    scores = bent.mean(axis=(2, 3)) @ constants["last"]
    powers = np.exp(scores - scores.max(axis=1, keepdims=True))
    probabilities: NDArray[np.float64] = powers / powers.sum(axis=1, keepdims=True)
    return probabilities


def save(model: onnx.ModelProto, folder: Path, name: str = "foreign.onnx") -> Path:
    path = folder / name
    path.write_bytes(model.SerializeToString())
    return path
