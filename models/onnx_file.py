"""Check an ONNX file without onnx and without running it.

Walks the protobuf wire format just far enough to check what the contract asks before a runtime may
open the file: input and output tensors, opset, operator domains, metadata, and data outside the
file. ``check_graph`` is the one check that publishing, loading and adoption share. Weights may lie
in one checked file beside the graph (``DataFile``), and nowhere else. Knows nothing about what
operators do.

Field numbers: onnx/onnx.proto3 of the ONNX project, IR version 10. Wire types: Protocol Buffers
encoding, "Message structure".
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from models.onnx_data import DataFile, StoredTensor, data_bytes, find_misplaced

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5

# TensorProto.DataType -> Open Inference Protocol datatype.
DATATYPES = {
    1: "FP32",
    2: "UINT8",
    3: "INT8",
    4: "UINT16",
    5: "INT16",
    6: "INT32",
    7: "INT64",
    8: "BYTES",
    9: "BOOL",
    10: "FP16",
    11: "FP64",
    12: "UINT32",
    13: "UINT64",
    16: "BF16",
}

# ONNX's own operators and those that a stock onnxruntime adds.
DOMAINS = frozenset({"", "ai.onnx", "ai.onnx.ml", "com.microsoft", "com.microsoft.nchwc"})

# Deeper nesting of graphs inside attributes (If, Loop, Scan) than any classifier needs is refused.
_MAX_DEPTH = 16


NO_METADATA: Mapping[str, str] = {}


class OnnxFileError(ValueError):
    """The bytes are not an ONNX model that the contract accepts; the message says why."""


class TensorLike(Protocol):
    """A tensor's name, Open Inference Protocol datatype and shape, wherever it is stated."""

    @property
    def name(self) -> str:
        """Return the name in the graph."""

    @property
    def datatype(self) -> str:
        """Return the datatype, as ``FP32``."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Return the shape, -1 for a free dimension."""


@dataclass(frozen=True, slots=True)
class GraphTensor:
    """One graph input or output: name, protocol datatype, shape with -1 for a free dimension."""

    name: str
    datatype: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class OnnxSummary:
    """What an ONNX file declares.

    Attributes:
        inputs: Graph inputs that are not initializers, in order.
        outputs: Graph outputs, in order.
        opset: Version of the default operator domain, 0 if none is imported.
        domains: Operator domains that the file imports; "" is ONNX's own.
        metadata: ``metadata_props`` of the model.
        external: Names of tensors whose data lies outside the file, wherever they are.
        stored: Those of them that are initializers of the graph itself.
    """

    inputs: tuple[GraphTensor, ...]
    outputs: tuple[GraphTensor, ...]
    opset: int
    domains: tuple[str, ...]
    metadata: dict[str, str]
    external: tuple[str, ...]
    stored: tuple[StoredTensor, ...] = ()


def summarize(content: bytes) -> OnnxSummary:
    """Read the summary of a serialized ModelProto.

    Args:
        content: The whole file.

    Raises:
        OnnxFileError: The bytes are not a protobuf message, or hold no graph.
    """
    view = memoryview(content)
    graph: memoryview | None = None
    opsets: dict[str, int] = {}
    metadata: dict[str, str] = {}
    in_functions: list[str] = []
    for field, value in _fields(view):
        if field == 7 and isinstance(value, memoryview):  # graph
            if graph is not None:  # protobuf would merge both: the checked graph would not run
                raise OnnxFileError("expected an ONNX model with one graph, found two")
            graph = value
        elif field == 25 and isinstance(value, memoryview):  # functions
            in_functions += _external_in_function(value)
        elif field == 8 and isinstance(value, memoryview):  # opset_import
            domain = dict(_fields(value))
            opsets[_text(domain.get(1, b""))] = _int(domain.get(2, 0))
        elif field == 14 and isinstance(value, memoryview):  # metadata_props
            pair = dict(_fields(value))
            metadata[_text(pair.get(1, b""))] = _text(pair.get(2, b""))
    if graph is None:
        raise OnnxFileError("expected an ONNX model with a graph, found none")
    inputs, outputs, initializers, external = _graph(graph)
    return OnnxSummary(
        inputs=tuple(tensor for tensor in inputs if tensor.name not in initializers),
        outputs=tuple(outputs),
        opset=opsets.get("", opsets.get("ai.onnx", 0)),
        domains=tuple(sorted(opsets)),
        metadata=metadata,
        external=(*external, *in_functions),
        stored=tuple(_stored(tensor) for tensor in _initializers(graph) if _is_external(tensor)),
    )


def check_graph(
    content: bytes,
    inputs: Sequence[TensorLike],
    outputs: Sequence[TensorLike],
    metadata: Mapping[str, str] = NO_METADATA,
    data: DataFile | None = None,
) -> None:
    """Check a serialized model against the contract.

    Args:
        content: The whole file.
        inputs: Tensors that the graph must take.
        outputs: Tensors that it must return.
        metadata: Properties that must have this value if the model has them.
        data: Checked file that its weights may lie in; None: all are inside.

    Raises:
        OnnxFileError: Not an ONNX model, not self-contained, another tensor, or another value of a
            property.
    """
    summary = summarize(content)
    check_self_contained(summary, data)
    for key, value in metadata.items():
        own = summary.metadata.get(key, value)
        if own != value:
            raise OnnxFileError(
                f"expected metadata {key} as in model.json, {value!r:.80}, got {own!r:.80}"
            )
    for kind, got, expected in (
        ("inputs", summary.inputs, inputs),
        ("outputs", summary.outputs, outputs),
    ):
        if _facts(got) != _facts(expected):
            raise OnnxFileError(
                f"expected {kind} {describe_tensors(expected)}, got {describe_tensors(got)}"
            )


def check_self_contained(summary: OnnxSummary, data: DataFile | None = None) -> None:
    """Check that a model needs neither other files nor other operators.

    Args:
        summary: What it declares.
        data: Checked file that initializers may lie in; None: all are inside.

    Raises:
        OnnxFileError: Data elsewhere, or an operator domain outside ``DOMAINS``.
    """
    outside = Counter(summary.external)
    if data is not None:
        outside -= Counter(tensor.name for tensor in summary.stored)
        if wrong := find_misplaced(summary.stored, data):
            raise OnnxFileError(wrong)
    if outside:
        raise OnnxFileError(
            "expected all data inside the file, got external data for tensor "
            f"{next(iter(outside))!r}; export with external_data=False, or load it where its files "
            "are and save it with onnx.save_model(save_as_external_data=False)"
        )
    foreign = sorted(set(summary.domains) - DOMAINS)
    if foreign:
        raise OnnxFileError(f"expected standard operators, got domain {foreign[0]!r}")


def replace_metadata(content: bytes, metadata: Mapping[str, str]) -> bytes:
    """Set properties of a serialized model; every other byte stays as it is.

    Args:
        content: The whole file.
        metadata: Property to value.

    Raises:
        OnnxFileError: The bytes are not a protobuf message.
    """
    view = memoryview(content)
    parts: list[memoryview | bytes] = []
    start = 0
    for end, field, value in spans(view):
        if not (
            field == 14  # metadata_props
            and isinstance(value, memoryview)
            and _text(dict(_fields(value)).get(1, b"")) in metadata
        ):
            parts.append(view[start:end])
        start = end
    parts += [
        _bytes_field(14, _bytes_field(1, name.encode()) + _bytes_field(2, text.encode()))
        for name, text in metadata.items()
    ]
    return b"".join(parts)


def _bytes_field(number: int, value: bytes) -> bytes:
    size, length = len(value), bytearray()
    while size >= 0x80:
        length.append(size & 0x7F | 0x80)
        size >>= 7
    return bytes([number << 3 | _BYTES, *length, size]) + value


def describe_tensors(tensors: Sequence[TensorLike]) -> str:
    """Write tensors for an error message: ``images UINT8 [-1, 8, 8, 1]``."""
    # A name may hold what controls a terminal.
    texts = [f"{repr(t.name)[1:-1]} {t.datatype} {list(t.shape)}" for t in tensors]
    return ", ".join(texts) or "none"


def _facts(tensors: Sequence[TensorLike]) -> list[tuple[str, str, tuple[int, ...]]]:
    return [(tensor.name, tensor.datatype, tensor.shape) for tensor in tensors]


def _graph(
    graph: memoryview,
) -> tuple[list[GraphTensor], list[GraphTensor], set[str], list[str]]:
    inputs: list[GraphTensor] = []
    outputs: list[GraphTensor] = []
    initializers: set[str] = set()
    for field, value in _fields(graph):
        if not isinstance(value, memoryview):
            continue
        if field == 11:  # input
            inputs.append(_value_info(value))
        elif field == 12:  # output
            outputs.append(_value_info(value))
        elif field == 5:  # initializer
            initializers.add(_tensor_name(value))
    return inputs, outputs, initializers, list(_external(graph, 0))


def _initializers(graph: memoryview) -> Iterator[memoryview]:
    for field, value in _fields(graph):
        if field == 5 and isinstance(value, memoryview):
            yield value


def _stored(tensor: memoryview) -> StoredTensor:
    sides: list[int] = []
    kind, place = 0, []
    for field, value in _fields(tensor):
        if field == 1:  # dims, packed or not
            sides += [value] if isinstance(value, int) else _packed(value)
        elif field == 2:  # data_type
            kind = _int(value)
        elif field == 13 and isinstance(value, memoryview):  # external_data
            pair = dict(_fields(value))
            place.append((_text(pair.get(1, b"")), _text(pair.get(2, b""))))
    return StoredTensor(_tensor_name(tensor), tuple(place), data_bytes(kind, sides))


def _packed(numbers: memoryview) -> list[int]:
    values, position = [], 0
    while position < len(numbers):
        value, position = _varint(numbers, position)
        values.append(value)
    return values


def _external(graph: memoryview, depth: int) -> Iterator[str]:
    """Yield the names of tensors with external data, in this graph and in every graph inside it."""
    if depth > _MAX_DEPTH:
        raise OnnxFileError(f"expected graphs nested at most {_MAX_DEPTH} deep, got more")
    for field, value in _fields(graph):
        if not isinstance(value, memoryview):
            continue
        if field == 5 and _is_external(value):  # initializer
            yield _tensor_name(value)
        elif field == 15:  # sparse_initializer
            yield from _external_in_sparse(value)
        elif field == 1:  # node
            yield from _external_in_node(value, depth)


def _external_in_function(function: memoryview) -> Iterator[str]:
    for field, value in _fields(function):
        if field == 7 and isinstance(value, memoryview):  # node
            yield from _external_in_node(value, 0)
        elif field == 11 and isinstance(value, memoryview):  # default of an attribute
            yield from _external_in_attribute(value, 0)


def _external_in_node(node: memoryview, depth: int) -> Iterator[str]:
    for field, attribute in _fields(node):
        if field == 5 and isinstance(attribute, memoryview):  # attribute
            yield from _external_in_attribute(attribute, depth)


def _external_in_attribute(attribute: memoryview, depth: int) -> Iterator[str]:
    for field, value in _fields(attribute):
        if not isinstance(value, memoryview):
            continue
        if field in (5, 10) and _is_external(value):  # t, tensors
            yield _tensor_name(value)
        elif field in (6, 11):  # g, graphs
            yield from _external(value, depth + 1)
        elif field in (22, 23):  # sparse_tensor, sparse_tensors
            yield from _external_in_sparse(value)


def _external_in_sparse(sparse: memoryview) -> Iterator[str]:
    for field, tensor in _fields(sparse):
        if field in (1, 2) and isinstance(tensor, memoryview) and _is_external(tensor):
            yield _tensor_name(tensor)  # values, indices


def _is_external(tensor: memoryview) -> bool:
    """Whether a tensor has external_data (13) or a data_location (14) that is not the default."""
    return any(field == 13 or (field == 14 and value != 0) for field, value in _fields(tensor))


def _tensor_name(tensor: memoryview) -> str:
    return next((_text(value) for field, value in _fields(tensor) if field == 8), "")


def _value_info(value_info: memoryview) -> GraphTensor:
    parts = dict(_fields(value_info))
    name = _text(parts.get(1, b""))
    tensor_type = _message(_message(parts, 2), 1)
    datatype = DATATYPES.get(_int(tensor_type.get(1, 0)), "UNKNOWN")
    shape = tensor_type.get(2)
    if not isinstance(shape, memoryview):
        return GraphTensor(name, datatype, ())
    dimensions = [
        dict(_fields(value))
        for field, value in _fields(shape)
        if field == 1 and isinstance(value, memoryview)
    ]
    return GraphTensor(name, datatype, tuple(_int(d.get(1, -1)) for d in dimensions))


def _message(parts: dict[int, "int | memoryview"], field: int) -> dict[int, "int | memoryview"]:
    value = parts.get(field)
    return dict(_fields(value)) if isinstance(value, memoryview) else {}


def _text(value: "int | memoryview | bytes") -> str:
    return "" if isinstance(value, int) else bytes(value).decode("utf-8", "replace")


def _int(value: "int | memoryview | bytes") -> int:
    return value if isinstance(value, int) else 0


def _fields(message: memoryview) -> Iterator[tuple[int, "int | memoryview"]]:
    """Yield (field number, value): an int for varints and fixed widths, a view for the rest."""
    for _, field, value in spans(message):
        yield field, value


def spans(message: memoryview) -> Iterator[tuple[int, int, "int | memoryview"]]:
    """Yield (end, field number, value) of each field of a message; see ``_fields``.

    Args:
        message: A serialized message.

    Raises:
        OnnxFileError: It is none; raised where it breaks off.
    """
    position, end = 0, len(message)
    while position < end:
        key, position = _varint(message, position)
        field, wire = key >> 3, key & 7
        if wire == _VARINT:
            value, position = _varint(message, position)
            yield position, field, value
            continue
        if wire == _BYTES:
            size, position = _varint(message, position)
        elif wire in (_FIXED32, _FIXED64):
            size = 4 if wire == _FIXED32 else 8
        else:
            raise OnnxFileError(f"expected an ONNX model, got wire type {wire} at byte {position}")
        if size < 0 or position + size > end:
            raise OnnxFileError(f"expected {size} more bytes at byte {position}, the file ends")
        body = message[position : position + size]
        position += size
        yield position, field, body if wire == _BYTES else int.from_bytes(body, "little")


def _varint(message: memoryview, position: int) -> tuple[int, int]:
    value = shift = 0
    while shift < 70:
        if position >= len(message):
            raise OnnxFileError("expected an ONNX model, the file ends inside a number")
        byte = message[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            # Negative int64 values are written as ten bytes of two's complement.
            return (value - (1 << 64) if value >= 1 << 63 else value), position
        shift += 7
    raise OnnxFileError(f"expected an ONNX model, got an overlong number at byte {position}")
