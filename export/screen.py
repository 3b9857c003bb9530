"""Check a foreign ONNX file before anything runs it, and refuse what no classifier needs.

``models.onnx_file`` makes the checks that every graph must pass; the stricter ones are here. A file
that passes is still not trusted: it runs only in ``sandbox``.
"""

import heapq
import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError
from onnx import AttributeProto, TensorProto, helper, numpy_helper

from export.errors import AdoptError
from export.weights import move_out, moved_bytes, read_small
from models.onnx_file import DOMAINS, OnnxFileError, check_self_contained, summarize

# onnxruntime supports opset 7 and later (its compatibility page).
OLDEST_OPSET = 7
# Pickle protocols 2 to 5, and the zip archive that torch.save writes around one.
_PICKLES = (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05", b"PK\x03\x04")
# Operators of allowed domains that load a file or run other code.
_NEVER = frozenset({"EPContext", "PyOp", "PythonOp", "PythonOpGrad"})
_DYNAMIC = frozenset(
    {
        "DynamicQuantizeLinear",
        "DynamicQuantizeMatMul",
        "DynamicQuantizeLSTM",
    }
)
Constants = Mapping[str, onnx.TensorProto]
_PACKED = frozenset(
    {
        TensorProto.INT4,
        TensorProto.UINT4,
        TensorProto.FLOAT4E2M1,
        TensorProto.INT2,
        TensorProto.UINT2,
    }
)


def screen(
    content: bytes, max_bytes: int, folders: tuple[Path, Path] | None = None
) -> onnx.ModelProto:
    """Parse a file, check it, and tidy what has no effect: unused imports, the order of nodes.

    Args:
        content: The whole file, or what ``apart`` left of it.
        max_bytes: Size of the largest tensor that a graph may allocate.
        folders: Where the file lies, and where its weights go (``weights``); None: they stay in
            the graph, and none may be outside.

    Returns:
        The model: opset 7 or later, no data outside the file, standard operators only, no graphs
        within nodes, no functions, tensors as large as they say.

    Raises:
        AdoptError: The file breaks one of these; the message names it and how to fix it.
    """
    if content.startswith(_PICKLES):
        raise AdoptError(
            "expected ONNX, got a pickle or an archive of one, which can run code: export the "
            "network with torch.onnx.export where you trust it"
        )
    try:
        summary = summarize(content)
        model = onnx.load_from_string(content)
    except (OnnxFileError, DecodeError) as error:
        raise AdoptError(_said(error)) from None
    _drop_unused_domains(model)
    outside = Counter(summary.external)
    if folders is not None:
        outside -= Counter(
            tensor.name
            for tensor in model.graph.initializer
            if tensor.data_location == TensorProto.EXTERNAL
        )
    domains = tuple(each.domain for each in model.opset_import)
    try:
        check_self_contained(replace(summary, domains=domains, external=tuple(outside)))
    except OnnxFileError as error:
        raise AdoptError(str(error)) from None
    if folders is not None:
        read_small(model, folders[0])
    if model.functions:
        raise AdoptError(
            f'expected operators, got the local function "{model.functions[0].name}": inline it '
            "with onnx.inliner.inline_local_functions"
        )
    if summary.opset < OLDEST_OPSET:
        raise AdoptError(
            f"expected opset {OLDEST_OPSET} or later, got {summary.opset}: convert it with "
            "onnx.version_converter"
        )
    constants = _constants(model.graph)
    for node in model.graph.node:
        _check_node(node, max_bytes)
    for tensor in model.graph.initializer:
        _check_tensor(tensor, max_bytes)
    if model.graph.sparse_initializer:
        raise AdoptError("expected dense weights, got a sparse initializer: make it dense")
    _check_constants(model.graph, constants, max_bytes)
    _sort(model.graph)
    _refuse_training(model.graph, constants)
    return model if folders is None else move_out(model, *folders)


def _drop_unused_domains(model: onnx.ModelProto) -> None:
    """Drop the imports that no node needs: optimizers write all that they know."""
    used = {"", "ai.onnx"} | {node.domain for node in _nodes(model.graph)}
    used |= {function.domain for function in model.functions}
    used |= {node.domain for function in model.functions for node in function.node}
    kept = [each for each in model.opset_import if each.domain in used]
    del model.opset_import[:]
    model.opset_import.extend(kept)


def _nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """Yield the nodes of a graph and of those inside it, whose depth ``summarize`` bounds."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                yield from _nodes(inner)


def _sort(graph: onnx.GraphProto) -> None:
    """Put each node behind those that it needs; nodes in order stay where they are.

    Raises:
        AdoptError: Nodes need each other, or a tensor that nothing makes.
    """
    made = {value.name for value in graph.input} | {""}
    made |= {tensor.name for tensor in graph.initializer}
    waiting: dict[str, list[int]] = {}
    missing: dict[int, int] = {}
    ready: list[int] = []
    for number, node in enumerate(graph.node):
        needed = set(node.input) - made
        missing[number] = len(needed)
        for name in needed:
            waiting.setdefault(name, []).append(number)
        if not needed:
            heapq.heappush(ready, number)
    order: list[int] = []
    while ready:
        number = heapq.heappop(ready)
        order.append(number)
        for name in graph.node[number].output:
            for other in waiting.pop(name, ()):
                missing[other] -= 1
                if not missing[other]:
                    heapq.heappush(ready, other)
    if len(order) < len(graph.node):
        stuck = next(number for number, count in missing.items() if count)
        name = next(iter(set(graph.node[stuck].input) & set(waiting)), "")
        raise AdoptError(
            f'node "{_name(graph.node[stuck])}": expected inputs that nodes make, got "{name}", '
            "which none makes, or a circle: export the network again"
        )
    if order != sorted(order):
        nodes = [graph.node[number] for number in order]
        copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
        del graph.node[:]
        graph.node.extend(copies)


def _name(node: onnx.NodeProto) -> str:
    return node.name or (node.output[0] if node.output else "")


def _check_node(node: onnx.NodeProto, max_bytes: int) -> None:
    name = _name(node)
    if node.domain not in DOMAINS:
        raise AdoptError(f'node "{name}": expected standard operators, got domain {node.domain!r}')
    if node.op_type in _NEVER:
        raise AdoptError(f'node "{name}": expected no {node.op_type}, which is code of its own')
    if node.op_type in _DYNAMIC:
        raise AdoptError(
            f'node "{name}": expected an answer that does not depend on the other rows of a batch, '
            f"got {node.op_type}, dynamic quantization, which takes its scale from the whole "
            "batch: quantize statically, or adopt the file before it"
        )
    for attribute in node.attribute:
        if attribute.type in (AttributeProto.GRAPH, AttributeProto.GRAPHS) or (
            attribute.HasField("g") or attribute.graphs
        ):
            raise AdoptError(
                f'node "{name}": expected no control flow, got {node.op_type}, whose cost is '
                "unknown before it runs: simplify the graph, or export it without branches"
            )
        for tensor in (attribute.t, *attribute.tensors):
            _check_tensor(tensor, max_bytes)


def _check_tensor(tensor: onnx.TensorProto, max_bytes: int) -> None:
    """Refuse a tensor whose data has another size than its shape."""
    if tensor.data_type == TensorProto.UNDEFINED and not tensor.dims:
        return  # the default of an attribute that holds no tensor
    if any(dimension < 0 for dimension in tensor.dims):
        raise AdoptError(f'tensor "{tensor.name}": expected a shape, got {list(tensor.dims)}')
    values = math.prod(tensor.dims)
    try:
        item_bytes = helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
    except (KeyError, TypeError, ValueError):
        raise AdoptError(
            f'tensor "{tensor.name}": expected a datatype of ONNX, got {tensor.data_type}'
        ) from None
    if values * item_bytes > max_bytes:
        raise AdoptError(_too_large(tensor.name, list(tensor.dims), values * item_bytes, max_bytes))
    if tensor.data_type in _PACKED:
        return
    found = moved_bytes(tensor)
    if found is None and not tensor.HasField("raw_data"):
        return  # onnx checks the count of typed values when it reads them
    found = len(tensor.raw_data) if found is None else found
    if found != values * item_bytes:
        raise AdoptError(
            f'tensor "{tensor.name}": expected {values * item_bytes} bytes for shape '
            f"{list(tensor.dims)}, got {found}"
        )


def _refuse_training(graph: onnx.GraphProto, constants: Constants) -> None:
    """Refuse nodes that do in training what they do not do in inference.

    Not those that normalise weights: timm's and BiT's standardised convolutions use batch norm for
    it, on numbers that no row changes.
    """
    fixed = {tensor.name for tensor in graph.initializer} | {""}
    for node in graph.node:  # sorted
        if fixed.issuperset(node.input):
            fixed.update(node.output)
        if _is_training(node, constants) and (
            node.op_type != "BatchNormalization" or node.input[0] not in fixed
        ):
            raise AdoptError(
                f'node "{_name(node)}": expected a network for inference, got {node.op_type} in '
                "training mode, whose answer depends on the batch or on chance: call eval(), "
                "export it again"
            )


def _is_training(node: onnx.NodeProto, constants: Constants) -> bool:
    """Whether a node is in training mode."""
    if node.op_type == "BatchNormalization" and node.domain in ("", "ai.onnx"):
        mode = next((each.i for each in node.attribute if each.name == "training_mode"), 0)
        return bool(mode) or len([name for name in node.output if name]) > 1
    if node.op_type == "Dropout" and len(node.input) > 2 and node.input[2]:
        # Dropped at random if the flag is true, or is not known before the run.
        flag = constants.get(node.input[2])
        return flag is None or bool(numpy_helper.to_array(flag).any())
    return False


def _constants(graph: onnx.GraphProto) -> Constants:
    """Return the tensors of initializers and Constant nodes by name, those in the graph itself."""
    inside = (each for each in graph.initializer if each.data_location != TensorProto.EXTERNAL)
    constants = {tensor.name: tensor for tensor in inside}
    for node in graph.node:
        if node.op_type == "Constant" and node.output:
            constants.update((node.output[0], a.t) for a in node.attribute if a.name == "value")
    return constants


def _check_constants(graph: onnx.GraphProto, shapes: Constants, max_bytes: int) -> None:
    """Refuse ConstantOfShape nodes of a constant shape that would allocate too much."""
    total = 0
    for node in graph.node:
        if node.op_type == "ConstantOfShape" and node.input and node.input[0] in shapes:
            shape = [int(side) for side in numpy_helper.to_array(shapes[node.input[0]]).ravel()]
            total += 4 * math.prod(shape)
            if min(shape, default=0) < 0 or total > max_bytes:
                raise AdoptError(_too_large(node.output[0], shape, total, max_bytes))


def _too_large(name: str, shape: list[int], size_bytes: int, max_bytes: int) -> str:
    return (
        f'tensor "{name}" of shape {shape}: expected at most {max_bytes >> 20} MiB, '
        f"got {size_bytes >> 20}: raise --memory-gib if you trust the file"
    )


def _said(error: Exception) -> str:
    """Return what is wrong with a file that is no ONNX model; our own reader says it in full."""
    line = _first_line(error)
    return (
        line if line.startswith("expected an ONNX model") else f"expected an ONNX model, got {line}"
    )


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
