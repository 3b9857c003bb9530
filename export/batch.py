"""Free a fixed batch size: rewrite the nodes that name it, or run the graph row by row.

Legend: N rows, B rows of the fixed batch.
"""

import contextlib
from collections.abc import Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from export.errors import AdoptError

# Scan takes its axes as attributes from 9 on; the padding below needs 13.
_OLDEST_SCAN, _OLDEST_PADDING = 9, 13

Shapes = dict[str, list[int | None]]


def infer_shapes(model: onnx.ModelProto) -> Shapes:
    """Return the shape of every tensor that onnx can infer; None is a free side."""
    inferred = model
    with contextlib.suppress(Exception):  # onnx raises several: then fewer shapes are known
        inferred = onnx.shape_inference.infer_shapes(model)
    graph = inferred.graph
    shapes: Shapes = {tensor.name: list(tensor.dims) for tensor in graph.initializer}
    for value in (*graph.input, *graph.value_info, *graph.output):
        if value.type.tensor_type.HasField("shape"):
            sides = value.type.tensor_type.shape.dim
            shapes[value.name] = [
                side.dim_value if side.HasField("dim_value") else None for side in sides
            ]
    return shapes


def free_batch(graph: onnx.GraphProto, name: str, batch: int, shapes: Shapes) -> None:
    """Rewrite the nodes that name a fixed batch size.

    A guess that the proof judges: axes are not followed, only those in front are taken for rows.

    Args:
        graph: Sorted; is changed.
        name: Its input.
        batch: B.
        shapes: Shapes of its tensors for B rows.
    """
    reached = {name}
    constants = {tensor.name: tensor for tensor in graph.initializer}
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        if node.op_type == "Constant" and node.output:
            constants.update((node.output[0], a.t) for a in node.attribute if a.name == "value")
        if reached & set(node.input):
            reached |= set(node.output)
            if node.op_type in ("Reshape", "Expand") and node.input[1] in constants:
                shape = numpy_helper.to_array(constants[node.input[1]]).copy()
                whole = shapes.get(node.output[0], [])
                if free := _free_shape(node, shape, whole, batch):
                    _set_shape(graph, node, free)
            elif node.op_type == "Concat":
                nodes += _repeat(node, reached, batch, shapes, graph, name)
        nodes.append(node)
    del graph.node[:]
    graph.node.extend(nodes)
    used = {each for node in nodes for each in node.input}
    kept = [tensor for tensor in graph.initializer if tensor.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)


def run_by_row(
    graph: onnx.GraphProto,
    given: onnx.ValueInfoProto,
    rows: str,
    outputs: Sequence[str],
    width: int,
    opset: int,
) -> list[onnx.NodeProto]:
    """Return nodes that run a graph unchanged on B rows at a time, in one Scan.

    Args:
        graph: Its nodes are moved into the Scan's body.
        given: Its input, [B, …].
        rows: Tensor of any number of rows; the last one is repeated to fill the last group.
        outputs: Its tensors that the nodes return as ``NAME/rows``, float32 [N, width].
        width: Numbers of a row of them.
        opset: Its opset.

    Raises:
        AdoptError: Its opset is too old.
    """
    batch, *row = (side.dim_value for side in given.type.tensor_type.shape.dim)
    least = _OLDEST_SCAN if batch == 1 else _OLDEST_PADDING
    if opset < least:
        raise AdoptError(
            f"expected a free batch size, got {batch} rows and opset {opset}: export it with a "
            f"free one, or at opset {least} or later"
        )
    floats = {name: f"{name}/float" for name in outputs}
    casts = [helper.make_node("Cast", [n], [f], to=TensorProto.FLOAT) for n, f in floats.items()]
    made = [helper.make_tensor_value_info(f, TensorProto.FLOAT, None) for f in floats.values()]
    body = helper.make_graph([*graph.node, *casts], "group", [given], made)
    del graph.node[:]
    nodes: list[onnx.NodeProto] = []
    filled = rows
    if batch > 1:
        nodes, filled = _fill_group(graph, rows, batch)
    shape = _constant(graph, "group/shape", [-1, batch, *row])
    flat = _constant(graph, "group/flat", [-1, width])
    by_group = [f"{name}/groups" for name in outputs]
    nodes.append(helper.make_node("Reshape", [filled, shape], ["grouped"]))
    nodes.append(helper.make_node("Scan", ["grouped"], by_group, body=body, num_scan_inputs=1))
    for name in outputs:
        last = f"{name}/flat" if batch > 1 else f"{name}/rows"
        nodes.append(helper.make_node("Reshape", [f"{name}/groups", flat], [last]))
        if batch > 1:
            cut = [last, "group/0", "group/count", "group/0"]
            nodes.append(helper.make_node("Slice", cut, [f"{name}/rows"]))
    return nodes


def _free_shape(
    node: onnx.NodeProto, shape: np.ndarray, whole: list[int | None], batch: int
) -> list[int]:
    """Return a shape without the fixed batch size; [] if it does not name it."""
    if shape.ndim != 1 or len(shape) < 1:
        return []
    if node.op_type == "Expand":
        return [1, *shape[1:].tolist()] if len(shape) > 1 and shape[0] == batch else []
    if len(whole) == len(shape) and None not in whole:
        return [-1, *(int(side or 0) for side in whole[1:])] if whole[0] == batch else []
    if len(shape) < 2 or shape[0] != batch:
        return []
    # 0 copies the input's first side where another side is already to be computed.
    return [0 if -1 in shape[1:] else -1, *shape[1:].tolist()]


def _set_shape(graph: onnx.GraphProto, node: onnx.NodeProto, shape: list[int]) -> None:
    node.input[1] = _constant(graph, f"{node.output[0]}/free", shape)
    if 0 in shape:
        kept = [each for each in node.attribute if each.name != "allowzero"]
        del node.attribute[:]
        node.attribute.extend(kept)


def _repeat(
    node: onnx.NodeProto,
    reached: set[str],
    batch: int,
    shapes: Shapes,
    graph: onnx.GraphProto,
    name: str,
) -> list[onnx.NodeProto]:
    """Return nodes that repeat what is joined to every row, such as a class token, N times."""
    axis = next((each.i for each in node.attribute if each.name == "axis"), 0)
    added: list[onnx.NodeProto] = []
    for place, joined in enumerate(node.input):
        sides = shapes.get(joined, [])
        if joined in reached or len(sides) < 2 or sides[0] != batch or axis % len(sides) == 0:
            continue
        start, one = _constant(graph, "free/0", [0]), _constant(graph, "free/1", [1])
        label = f"{joined}/{node.output[0]}"
        first = joined
        if batch > 1:  # equal rows, or the proof fails
            first = f"{label}/first"
            added.append(helper.make_node("Slice", [joined, start, one, start], [first]))
        ones = _constant(graph, f"free/{len(sides)}", [1] * (len(sides) - 1))
        added += [
            helper.make_node("Shape", [name], [f"{label}/shape"]),
            helper.make_node("Slice", [f"{label}/shape", start, one, start], [f"{label}/rows"]),
            helper.make_node("Concat", [f"{label}/rows", ones], [f"{label}/to"], axis=0),
            helper.make_node("Expand", [first, f"{label}/to"], [f"{label}/free"]),
        ]
        node.input[place] = f"{label}/free"
    return added


def _fill_group(graph: onnx.GraphProto, rows: str, batch: int) -> tuple[list[onnx.NodeProto], str]:
    """Return nodes that repeat the last row until the number of rows is a multiple of B."""
    zero, one = _constant(graph, "group/0", [0]), _constant(graph, "group/1", [1])
    size = _constant(graph, "group/size", [batch])
    scalars = [_constant(graph, f"group/from_{value}", value) for value in (0, 1)]
    nodes = [
        helper.make_node("Shape", [rows], ["group/sides"]),
        helper.make_node("Slice", ["group/sides", zero, one, zero], ["group/count"]),
        helper.make_node("Sub", [zero, "group/count"], ["group/minus"]),
        helper.make_node("Mod", ["group/minus", size], ["group/missing"]),
        helper.make_node("Add", ["group/count", "group/missing"], ["group/total"]),
        helper.make_node("Squeeze", ["group/total"], ["group/end"]),
        helper.make_node("Range", [scalars[0], "group/end", scalars[1]], ["group/every"]),
        helper.make_node("Sub", ["group/count", one], ["group/last"]),
        helper.make_node("Min", ["group/every", "group/last"], ["group/index"]),
        helper.make_node("Gather", [rows, "group/index"], ["group/filled"], axis=0),
    ]
    return nodes, "group/filled"


def _constant(graph: onnx.GraphProto, name: str, value: list[int] | int) -> str:
    if all(tensor.name != name for tensor in graph.initializer):
        graph.initializer.append(numpy_helper.from_array(np.array(value, np.int64), name))
    return name
