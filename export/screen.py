"""Check a foreign ONNX file before anything runs it, and refuse what no classifier needs.

``models.onnx_file`` makes the checks that every graph must pass; the stricter ones are here. A file
that passes is still not trusted: it runs only in ``sandbox``.
"""

import math

import onnx
from google.protobuf.message import DecodeError
from onnx import AttributeProto, TensorProto, helper, numpy_helper

from export.errors import AdoptError
from models.onnx_file import DOMAINS, OnnxFileError, check_self_contained, summarize

# onnxruntime supports opset 7 and later (its compatibility page).
OLDEST_OPSET = 7
# protobuf's limit; a larger model keeps its weights outside the file, which is refused too.
MAX_FILE_BYTES = 2 << 30
# Pickle protocols 2 to 5, and the zip archive that torch.save writes around one.
_PICKLES = (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05", b"PK\x03\x04")
# Operators of allowed domains that load a file or run other code.
_NEVER = frozenset({"EPContext", "PyOp", "PythonOp", "PythonOpGrad"})
_PACKED = frozenset(
    {
        TensorProto.INT4,
        TensorProto.UINT4,
        TensorProto.FLOAT4E2M1,
        TensorProto.INT2,
        TensorProto.UINT2,
    }
)


def screen(content: bytes, max_bytes: int) -> onnx.ModelProto:
    """Parse a file and check it.

    Args:
        content: The whole file.
        max_bytes: Size of the largest tensor that a graph may allocate.

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
        raise AdoptError(f"expected an ONNX model, got {_first_line(error)}") from None
    try:
        check_self_contained(summary)
    except OnnxFileError as error:
        raise AdoptError(str(error)) from None
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
    for node in model.graph.node:
        _check_node(node, max_bytes)
    for tensor in model.graph.initializer:
        _check_tensor(tensor, max_bytes)
    if model.graph.sparse_initializer:
        raise AdoptError("expected dense weights, got a sparse initializer: make it dense")
    _check_constants(model.graph, max_bytes)
    return model


def _check_node(node: onnx.NodeProto, max_bytes: int) -> None:
    name = node.name or (node.output[0] if node.output else "")
    if node.domain not in DOMAINS:
        raise AdoptError(f'node "{name}": expected standard operators, got domain {node.domain!r}')
    if node.op_type in _NEVER:
        raise AdoptError(f'node "{name}": expected no {node.op_type}, which is code of its own')
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
    if tensor.data_type in _PACKED or not tensor.HasField("raw_data"):
        return  # onnx checks the count of typed values when it reads them
    if len(tensor.raw_data) != values * item_bytes:
        raise AdoptError(
            f'tensor "{tensor.name}": expected {values * item_bytes} bytes for shape '
            f"{list(tensor.dims)}, got {len(tensor.raw_data)}"
        )


def _check_constants(graph: onnx.GraphProto, max_bytes: int) -> None:
    """Refuse ConstantOfShape nodes of a constant shape that would allocate too much."""
    shapes = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant" and node.output:
            shapes.update((node.output[0], a.t) for a in node.attribute if a.name == "value")
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


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
