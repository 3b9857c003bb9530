"""The tiny model with further nodes between its sums and its logits."""

from collections.abc import Sequence
from typing import Any

import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from tests.tiny import tiny_model


def grafted_model(
    constants: dict[str, NDArray[Any]], nodes: Sequence[onnx.NodeProto]
) -> onnx.ModelProto:
    """Return the closed form whose ``logits`` the last of ``nodes`` makes of ``scores``.

    Args:
        constants: Initializers that the nodes take, by name.
        nodes: Put before the division by the temperature.
    """
    model = tiny_model()
    graph = model.graph
    for node in graph.node:
        if node.op_type == "Mul":
            node.output[0] = "scores"
    graph.initializer.extend(numpy_helper.from_array(v, k) for k, v in constants.items())
    at = next(i for i, node in enumerate(graph.node) if node.output[0] == "scaled")
    rest = list(graph.node)[at:]
    del graph.node[at:]
    graph.node.extend([*nodes, *rest])
    onnx.checker.check_model(model)
    return model
