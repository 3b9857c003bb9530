"""Ways in which networks end in probabilities, and what has to be asked about each."""

from collections.abc import Callable

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tests.export.foreign import CLASSES, foreign_model

Nodes = list[onnx.NodeProto]
node = helper.make_node
CONSTANTS = {
    "axis": np.array([1]),
    "low": np.array(1e-6, np.float32),
    "high": np.array(1 - 1e-6, np.float32),
    "two": np.array(2, np.float32),
    "share": np.array(0.9, np.float32),
    "rest": np.array(0.1 / CLASSES, np.float32),
    "hundred": np.array(100, np.float32),
    "line": np.array([0, CLASSES]),
}


def softmax(given: str, made: str) -> onnx.NodeProto:
    return node("Softmax", [given], [made], axis=1)


def normalised(kind: str) -> Nodes:
    return [
        node(kind, ["scores"], ["powers"]),
        node("ReduceSum", ["powers", "axis"], ["sum"]),
        node("Div", ["powers", "sum"], ["answer"]),
    ]


def two() -> Nodes:
    return [
        softmax("scores", "a"),
        node("Mul", ["scores", "two"], ["sharper"]),
        softmax("sharper", "b"),
    ]


# Rows that sum to 1 and no softmax that the walk back from the output finds.
ASKED: dict[str, Callable[[], Nodes]] = {
    "powers by their sum": lambda: normalised("Exp"),
    "the highest taken off first": lambda: [
        node("ReduceMax", ["scores"], ["highest"], axes=[1]),
        node("Sub", ["scores", "highest"], ["below"]),
        node("Exp", ["below"], ["powers"]),
        node("ReduceSum", ["powers", "axis"], ["sum"]),
        node("Div", ["powers", "sum"], ["answer"]),
    ],
    "exp of the log softmax": lambda: [
        node("LogSoftmax", ["scores"], ["logs"], axis=1),
        node("Exp", ["logs"], ["answer"]),
    ],
    "clipped": lambda: [
        softmax("scores", "soft"),
        node("Clip", ["soft", "low", "high"], ["answer"]),
    ],
    "smoothed": lambda: [
        softmax("scores", "soft"),
        node("Mul", ["soft", "share"], ["less"]),
        node("Add", ["less", "rest"], ["answer"]),
    ],
    "mean of two": lambda: [
        *two(),
        node("Add", ["a", "b"], ["both"]),
        node("Div", ["both", "two"], ["answer"]),
    ],
    "mean of a stack": lambda: [
        *two(),
        *(node("Unsqueeze", [name, "axis"], [f"{name}1"]) for name in "ab"),
        node("Concat", ["a1", "b1"], ["stack"], axis=1),
        node("ReduceMean", ["stack"], ["answer"], axes=[1], keepdims=0),
    ],
    "normalised sigmoids": lambda: normalised("Sigmoid"),
}
# A softmax that the walk back finds.
KNOWN: dict[str, Callable[[], Nodes]] = {
    "a temperature": lambda: [
        node("Div", ["scores", "two"], ["cooler"]),
        softmax("cooler", "answer"),
    ],
    "cast and reshaped": lambda: [
        softmax("scores", "soft"),
        node("Cast", ["soft"], ["double"], to=TensorProto.DOUBLE),
        node("Cast", ["double"], ["float"], to=TensorProto.FLOAT),
        node("Reshape", ["float", "line"], ["answer"]),
    ],
}
# Shares that sum to something else.
PERCENT: Nodes = [
    node("Softmax", ["scores"], ["soft"], axis=1),
    node("Mul", ["soft", "hundred"], ["answer"]),
]
# Each label by itself, behind more than a sigmoid.
MEAN_OF_SIGMOIDS: Nodes = [
    node("Sigmoid", ["scores"], ["a"]),
    node("Mul", ["scores", "two"], ["sharper"]),
    node("Sigmoid", ["sharper"], ["b"]),
    node("Add", ["a", "b"], ["both"]),
    node("Div", ["both", "two"], ["answer"]),
]


def ended(nodes: Nodes) -> onnx.ModelProto:
    """The network of ``foreign`` with other nodes from its scores to its answer."""
    model = foreign_model()
    del model.graph.node[-1]
    model.graph.node.extend(nodes)
    used = {name for each in nodes for name in each.input}
    for name in sorted(used & set(CONSTANTS)):
        model.graph.initializer.append(numpy_helper.from_array(CONSTANTS[name], name))
    onnx.checker.check_model(model, full_check=True)
    return model
