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

from export.errors import AdoptError
from export.geometry import image_spec
from export.options import Layout, Options
from models.artifact import ImageSpec

_PREFIX = "adopted/"
_INPUTS: dict[int, type[np.generic]] = {
    TensorProto.FLOAT: np.float32,
    TensorProto.FLOAT16: np.float16,
    TensorProto.UINT8: np.uint8,
}
# Operators between a softmax and the output that do not change the order of the classes.
_PASSING = frozenset({"Reshape", "Flatten", "Squeeze", "Identity", "Cast", "Dropout", "Unsqueeze"})
# From IR version 4 on initializers need not be inputs, so constants can be folded; 8 is of 2021.
_IR_VERSION = 8
# Keeps the logarithm of a probability of 0 finite (-87); about the smallest normal float32.
TINY = 1e-38


@dataclass(frozen=True, slots=True)
class GraphInput:
    """The one input of a foreign graph.

    Attributes:
        name: Its name in the graph.
        elem_type: Its datatype, as a number of TensorProto.
        layout: Order of its axes.
        image: What a decoded row looks like.
        batch: The fixed number of rows, None if it is free.
    """

    name: str
    elem_type: int
    layout: Layout
    image: ImageSpec
    batch: int | None

    def prepare(self, images_NHWC: NDArray[np.uint8], options: Options) -> NDArray[np.generic]:
        """Prepare pixels in NumPy and float64, as the nodes of ``_before`` do in the graph."""
        values = images_NHWC.astype(np.float64)
        if options.channels == "BGR":
            values = values[..., ::-1]
        values = (values * options.scale - np.array(options.mean)) / np.array(options.std)
        if self.layout == "NCHW":
            values = values.transpose(0, 3, 1, 2)
        return np.ascontiguousarray(values.astype(_INPUTS[self.elem_type]))


@dataclass(frozen=True, slots=True)
class GraphAnswer:
    """The tensors of a foreign graph that hold its answer; at least one is not None.

    Attributes:
        logits: Tensor before the softmax.
        probabilities: Tensor after it.
    """

    logits: str | None
    probabilities: str | None


@dataclass(frozen=True, slots=True)
class Foreign:
    """A foreign graph with its interface.

    Attributes:
        model: The graph that passed ``screen``; never modified.
        given: Its input.
        answer: Its answer.
        options: How it wants its pixels.
        classes: K.
    """

    model: onnx.ModelProto
    given: GraphInput
    answer: GraphAnswer
    options: Options
    classes: int


def find_input(model: onnx.ModelProto, options: Options) -> GraphInput:
    """Return the one input of the graph.

    Raises:
        AdoptError: More than one input, not an image, or a property that only an option can give.
    """
    constants = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in constants]
    if len(inputs) != 1:
        names = ", ".join(value.name for value in inputs) or "none"
        raise AdoptError(f"expected one input, the images, got {names}")
    (given,) = inputs
    where = f'input "{given.name}"'
    elem_type = given.type.tensor_type.elem_type
    if elem_type not in _INPUTS:
        raise AdoptError(f"{where}: expected float, float16 or uint8, got datatype {elem_type}")
    sides = [side.dim_value or None for side in given.type.tensor_type.shape.dim]
    if len(sides) != 4:
        raise AdoptError(f"{where}: expected 4 axes, got shape {sides}")
    layout = options.layout or _guess_layout(sides, where)
    height, width, channels = sides[1:] if layout == "NHWC" else (*sides[2:], sides[1])
    if channels not in (1, 3):
        raise AdoptError(f"{where}: expected 1 or 3 channels in {layout}, got shape {sides}")
    wanted = options.size or (height, width)
    if None in wanted or (height or wanted[0], width or wanted[1]) != wanted:
        raise AdoptError(f"{where}: expected --size to fit its shape {sides}, got {options.size}")
    plain = (options.scale, set(options.mean), set(options.std)) == (1, {0}, {1})
    if elem_type == TensorProto.UINT8 and not plain:
        raise AdoptError(f"{where}: expected no scale, mean or std, it takes uint8 pixels")
    three = max(len(options.mean), len(options.std)) == 3 or options.channels == "BGR"
    if channels == 1 and three:
        raise AdoptError(f"{where}: expected one mean and std and no BGR, it takes grey images")
    height, width = (int(side or 0) for side in wanted)
    image = image_spec(options, "RGB" if channels == 3 else "L", height, width)
    return GraphInput(given.name, elem_type, layout, image, sides[0])


def find_answer(model: onnx.ModelProto, options: Options) -> GraphAnswer:
    """Return the tensors that hold logits and probabilities.

    Raises:
        AdoptError: Several outputs and none chosen, or an output that is not one class of many.
    """
    names = [value.name for value in model.graph.output]
    if names == ["logits", "probabilities"] and not (options.output or options.gives):
        return GraphAnswer("logits", "probabilities")
    if options.output is None and len(names) != 1:
        raise AdoptError(f"expected --output with one of {', '.join(names)}, got none")
    output = options.output or names[0]
    if output not in names:
        raise AdoptError(f"output: expected one of {', '.join(names)}, got {output!r}")
    makers = {name: node for node in model.graph.node for name in node.output}
    maker = makers.get(output)
    while maker is not None and maker.op_type in _PASSING:
        maker = makers.get(maker.input[0])
    kind = maker.op_type if maker is not None else ""
    if kind == "Sigmoid" and options.gives is None:
        raise AdoptError(
            f'output "{output}": expected one class of many, got a Sigmoid, which '
            "scores each class alone; give --gives if its output is to be read as one class of many"
        )
    if kind == "Softmax" and maker is not None and options.gives != "logits":
        return GraphAnswer(maker.input[0], output)
    if options.gives == "probabilities":
        return GraphAnswer(None, output)
    return GraphAnswer(output, None)


def wrap(foreign: Foreign) -> onnx.ModelProto:
    """Return a graph of the contract around the foreign graph."""
    given = foreign.given
    inner = copy.deepcopy(foreign.model)
    inner.ir_version = max(inner.ir_version, _IR_VERSION)
    graph = inner.graph
    constants = {tensor.name for tensor in graph.initializer}
    free = [value for value in graph.input if value.name not in constants]
    del graph.input[:]
    graph.input.extend(free)
    del graph.value_info[:]
    if given.batch is not None:
        _free_batch(graph, given)
    inner = onnx.compose.add_prefix(inner, _PREFIX)
    graph = inner.graph
    del graph.input[:], graph.output[:], inner.metadata_props[:]
    image = given.image
    graph.input.append(
        helper.make_tensor_value_info("images", TensorProto.UINT8, ["N", *image.shape_HWC])
    )
    for name in ("logits", "probabilities"):
        graph.output.append(
            helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", foreign.classes])
        )
    before = list(_before(given, foreign.options, graph))
    nodes = [*before, *graph.node, *_after(foreign.answer, graph, foreign.classes)]
    del graph.node[:]
    graph.node.extend(nodes)
    graph.name = "adopted"
    onnx.checker.check_model(inner)
    return inner


def expose(foreign: Foreign) -> onnx.ModelProto:
    """Return the foreign graph with other outputs: first logits, then probabilities."""
    shown = copy.deepcopy(foreign.model)
    outputs = {value.name: value for value in shown.graph.output}
    del shown.graph.output[:]
    for name in (foreign.answer.logits, foreign.answer.probabilities):
        if name is not None:
            shown.graph.output.append(outputs.get(name) or onnx.ValueInfoProto(name=name))
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


def _guess_layout(sides: list[int | None], where: str) -> Layout:
    is_nchw, is_nhwc = sides[1] in (1, 3), sides[3] in (1, 3)
    if is_nchw == is_nhwc:
        raise AdoptError(
            f"{where}: expected --layout NCHW or NHWC, shape {sides} allows both or neither"
        )
    return "NCHW" if is_nchw else "NHWC"


def _free_batch(graph: onnx.GraphProto, given: GraphInput) -> None:
    """Replace a fixed batch size in Reshape nodes by 0, which copies the axis of the input."""
    reached = {given.name}
    shapes = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant" and node.output:
            shapes.update((node.output[0], a.t) for a in node.attribute if a.name == "value")
        if not reached & set(node.input):
            continue
        reached |= set(node.output)
        if node.op_type != "Reshape" or node.input[0] not in reached:
            continue
        tensor = shapes.get(node.input[1])
        if tensor is None:
            continue
        shape = numpy_helper.to_array(tensor).copy()
        if shape.ndim == 1 and len(shape) > 1 and shape[0] == given.batch:
            shape[0] = 0
            name = f"{node.input[1]}/free"
            if name not in shapes:
                shapes[name] = numpy_helper.from_array(shape, name)
                graph.initializer.append(shapes[name])
            node.input[1] = name


def _before(
    given: GraphInput, options: Options, graph: onnx.GraphProto
) -> Iterator[onnx.NodeProto]:
    """Yield the nodes from ``images`` to the graph's input."""
    name = "images"

    def constant(title: str, value: NDArray[np.generic]) -> str:
        graph.initializer.append(numpy_helper.from_array(value, title))
        return title

    if options.channels == "BGR":
        order = constant("bgr", np.array([2, 1, 0], np.int64))
        yield helper.make_node("Gather", [name, order], ["reordered"], axis=3)
        name = "reordered"
    if given.elem_type != TensorProto.UINT8:
        yield helper.make_node("Cast", [name], ["floats"], to=TensorProto.FLOAT)
        name = "floats"
    for kind, title, values, neutral in (
        ("Mul", "scale", (options.scale,), 1.0),
        ("Sub", "mean", options.mean, 0.0),
        ("Div", "std", options.std, 1.0),
    ):
        if any(value != neutral for value in values):
            numbers = constant(title, np.array(values, np.float32))
            yield helper.make_node(kind, [name, numbers], [f"after_{title}"])
            name = f"after_{title}"
    if given.layout == "NCHW":
        yield helper.make_node("Transpose", [name], ["transposed"], perm=[0, 3, 1, 2])
        name = "transposed"
    inside = _PREFIX + given.name
    if given.elem_type in (TensorProto.UINT8, TensorProto.FLOAT):
        yield helper.make_node("Identity", [name], [inside])
    else:
        yield helper.make_node("Cast", [name], [inside], to=given.elem_type)


def _after(answer: GraphAnswer, graph: onnx.GraphProto, classes: int) -> Iterator[onnx.NodeProto]:
    """Yield the nodes from the graph's answer to both outputs, float32 [N, K]."""
    graph.initializer.append(numpy_helper.from_array(np.array([-1, classes], np.int64), "rows"))
    for title, name in (("logits", answer.logits), ("probabilities", answer.probabilities)):
        if name is not None:
            yield helper.make_node("Reshape", [_PREFIX + name, "rows"], [f"flat_{title}"])
            yield helper.make_node("Cast", [f"flat_{title}"], [title], to=TensorProto.FLOAT)
    if answer.probabilities is None:
        yield helper.make_node("Softmax", ["logits"], ["probabilities"], axis=1)
    if answer.logits is None:
        graph.initializer.append(numpy_helper.from_array(np.array(TINY, np.float32), "tiny"))
        yield helper.make_node("Add", ["probabilities", "tiny"], ["positive"])
        yield helper.make_node("Log", ["positive"], ["logits"])
