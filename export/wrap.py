"""Put the contract around a foreign graph: uint8 pixels in, logits and probabilities out.

Nodes before the graph prepare its pixels, nodes behind it complete its outputs. Its own nodes do
not change, except that a fixed batch size becomes free. Legend: N rows, H height, W width,
C channels, K classes.
"""

import copy
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from export.batch import free_batch, infer_shapes, run_by_row
from export.heads import columns, nodes_after
from export.interface import GraphInput
from export.options import Options
from export.scores import GraphAnswer

_PREFIX = "adopted/"
# From IR version 4 on initializers need not be inputs, so constants can be folded; 8 is of 2021.
_IR_VERSION = 8


@dataclass(frozen=True, slots=True)
class Foreign:
    """A foreign graph with its interface.

    Attributes:
        model: The graph that passed ``screen``; never modified.
        given: Its input.
        answer: Its answer.
        options: How it wants its pixels.
        classes: K.
        thresholds: Of a multi-label model: least probability of each label, else ().
    """

    model: onnx.ModelProto
    given: GraphInput
    answer: GraphAnswer
    options: Options
    classes: int
    thresholds: tuple[float, ...] = ()

    @property
    def tensors(self) -> list[str]:
        """Return the names of the tensors that hold the answer: logits first."""
        answer = self.answer
        return [name for name in (answer.logits, answer.probabilities) if name is not None]

    @property
    def opset(self) -> int:
        """Return the version of ONNX's own operators."""
        opsets = self.model.opset_import
        return next((each.version for each in opsets if each.domain in ("", "ai.onnx")), 0)


def wrap(foreign: Foreign, *, by_row: bool = False) -> onnx.ModelProto:
    """Return a graph of the contract around the foreign graph.

    Args:
        foreign: The graph.
        by_row: Whether it runs on as many rows as its fixed batch size at a time, unchanged;
            else the nodes that name the size are rewritten.

    Raises:
        AdoptError: Its opset is too old for ``by_row``.
    """
    given = foreign.given
    inner = copy.deepcopy(foreign.model)
    inner.ir_version = max(inner.ir_version, _IR_VERSION)
    graph = inner.graph
    constants = {tensor.name for tensor in graph.initializer}
    free = [value for value in graph.input if value.name not in constants]
    del graph.input[:]
    graph.input.extend(free)
    if given.batch is not None and not by_row:
        free_batch(graph, given.name, given.batch, infer_shapes(inner))
    del graph.value_info[:]
    inner = onnx.compose.add_prefix(inner, _PREFIX)
    graph = inner.graph
    inside = _PREFIX + given.name
    nodes = [*_before(given, foreign.options, graph)]
    if by_row:
        shape = [given.batch or 1, *given.row_shape]
        body_input = helper.make_tensor_value_info(inside, given.elem_type, shape)
        outputs = [_PREFIX + name for name in foreign.tensors]
        width = columns(foreign.answer, foreign.classes)
        nodes += run_by_row(graph, body_input, nodes[-1].output[0], outputs, width, foreign.opset)
    else:
        nodes.append(helper.make_node("Identity", [nodes[-1].output[0]], [inside]))
    nodes += [*graph.node, *_after(foreign, graph, "/rows" if by_row else "")]
    del graph.node[:], graph.input[:], graph.output[:], inner.metadata_props[:]
    graph.node.extend(nodes)
    graph.input.append(
        helper.make_tensor_value_info("images", TensorProto.UINT8, ["N", *given.image.shape_HWC])
    )
    for name in ("logits", "probabilities"):
        graph.output.append(
            helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", foreign.classes])
        )
    graph.name = "adopted"
    return inner


def expose(foreign: Foreign) -> onnx.ModelProto:
    """Return the foreign graph with other outputs: first logits, then probabilities, as float32.

    NumPy knows no bfloat16; of the other datatypes float32 holds every value that is compared.
    """
    shown = copy.deepcopy(foreign.model)
    del shown.graph.output[:]
    for name in foreign.tensors:
        shown.graph.node.append(
            helper.make_node("Cast", [name], [f"{name}/shown"], to=TensorProto.FLOAT)
        )
        shown.graph.output.append(
            helper.make_tensor_value_info(f"{name}/shown", TensorProto.FLOAT, None)
        )
    return shown


def find_temperature(foreign: Foreign) -> float:
    """Return the temperature of a graph that foveal exported, 1 for any other graph."""
    constants = {tensor.name: tensor for tensor in foreign.model.graph.initializer}
    for node in foreign.model.graph.node:
        if node.op_type == "Div" and node.input[0] == "logits" and node.input[1] in constants:
            value = numpy_helper.to_array(constants[node.input[1]])
            if value.size == 1 and foreign.answer.probabilities == "probabilities":
                return float(value.item())
    return 1.0


def _before(
    given: GraphInput, options: Options, graph: onnx.GraphProto
) -> Iterator[onnx.NodeProto]:
    """Yield the nodes from ``images`` to what the graph takes."""
    name = "images"

    def constant(title: str, value: NDArray[np.generic]) -> str:
        graph.initializer.append(numpy_helper.from_array(value, title))
        return title

    if options.channels == "BGR":
        order = constant("bgr", np.array([2, 1, 0], np.int64))
        yield helper.make_node("Gather", [name, order], ["reordered"], axis=3)
        name = "reordered"
    is_double = given.elem_type == TensorProto.DOUBLE
    if given.elem_type != TensorProto.UINT8:
        floats = TensorProto.DOUBLE if is_double else TensorProto.FLOAT
        yield helper.make_node("Cast", [name], ["floats"], to=floats)
        name = "floats"
    for kind, title, values, neutral in (
        ("Mul", "scale", (options.scale,), 1.0),
        ("Sub", "mean", options.mean, 0.0),
        ("Div", "std", options.std, 1.0),
    ):
        if any(value != neutral for value in values):
            numbers = constant(title, np.array(values, np.float64 if is_double else np.float32))
            yield helper.make_node(kind, [name, numbers], [f"after_{title}"])
            name = f"after_{title}"
    if given.layout == "NCHW":
        yield helper.make_node("Transpose", [name], ["transposed"], perm=[0, 3, 1, 2])
        name = "transposed"
    if given.rank != 4:
        shape = constant("row", np.array([-1, *given.row_shape], np.int64))
        yield helper.make_node("Reshape", [name, shape], ["reshaped"])
        name = "reshaped"
    yield helper.make_node("Cast", [name], ["prepared"], to=given.elem_type)


def _after(foreign: Foreign, graph: onnx.GraphProto, suffix: str) -> Iterator[onnx.NodeProto]:
    """Yield the nodes from the graph's answer to both outputs, float32 [N, K]."""
    width = columns(foreign.answer, foreign.classes)
    graph.initializer.append(numpy_helper.from_array(np.array([-1, width], np.int64), "rows"))
    names = {name: f"own_{number}" for number, name in enumerate(foreign.tensors)}
    for name, own in names.items():
        yield helper.make_node("Reshape", [_PREFIX + name + suffix, "rows"], [f"{own}/flat"])
        yield helper.make_node("Cast", [f"{own}/flat"], [own], to=TensorProto.FLOAT)
    yield from nodes_after(foreign.answer, names, graph)
