"""The reader of ONNX files against the onnx package, and against files made to harm it."""

import contextlib
import random
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from google.protobuf.message import Message  # type: ignore[import-untyped]
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, helper

from models.onnx_file import DATATYPES, GraphTensor, OnnxFileError, replace_metadata, summarize
from tests.tiny import tiny_model

pytestmark = pytest.mark.timeout(60)

LIGHT = sorted((Path(onnx.__file__).parent / "backend/test/data/light").glob("*.onnx"))
TINY = tiny_model().SerializeToString()


# Against the onnx package


def value_info(info: onnx.ValueInfoProto) -> GraphTensor:
    tensor = info.type.tensor_type
    shape = tuple(d.dim_value if d.HasField("dim_value") else -1 for d in tensor.shape.dim)
    return GraphTensor(info.name, DATATYPES.get(tensor.elem_type, "UNKNOWN"), shape)


def assert_agrees(model: ModelProto) -> None:
    summary = summarize(model.SerializeToString())
    stored = {tensor.name for tensor in model.graph.initializer}
    inputs = [value_info(i) for i in model.graph.input if i.name not in stored]
    assert list(summary.inputs) == inputs
    assert list(summary.outputs) == [value_info(o) for o in model.graph.output]
    opsets = {opset.domain: opset.version for opset in model.opset_import}
    assert summary.domains == tuple(sorted(opsets))
    assert summary.opset == opsets.get("", 0)
    assert summary.metadata == {p.key: p.value for p in model.metadata_props}
    assert sorted(summary.external) == sorted(external_tensors(model))


def external_tensors(message: Message) -> Iterator[str]:
    """Every tensor with external data anywhere in a message, by protobuf's own reflection."""
    if isinstance(message, TensorProto) and (
        message.data_location == TensorProto.EXTERNAL or message.external_data
    ):
        yield message.name
    for field, value in message.ListFields():
        if field.type == field.TYPE_MESSAGE:
            for part in value if field.is_repeated else [value]:
                yield from external_tensors(part)


@pytest.mark.parametrize("path", LIGHT, ids=lambda path: str(path.stem))
def test_agrees_on_the_models_that_onnx_ships(path: Path) -> None:
    assert_agrees(onnx.load(path, load_external_data=False))


def test_there_are_models_to_agree_on() -> None:
    assert len(LIGHT) >= 5


def test_agrees_on_the_tiny_model() -> None:
    model = tiny_model()
    helper.set_model_props(model, {"labels": '["a"]', "ключ": "☃"})
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    assert_agrees(model)
    summary = summarize(model.SerializeToString())
    assert summary.inputs == (GraphTensor("images", "UINT8", (-1, 8, 8, 1)),)
    assert summary.domains == ("", "com.microsoft")
    assert summary.metadata["ключ"] == "☃"


@pytest.mark.parametrize("datatype", [*DATATYPES, TensorProto.FLOAT8E4M3FN, TensorProto.UNDEFINED])
def test_agrees_on_every_datatype_and_shape(datatype: int) -> None:
    shapes: list[list[int | str | None] | None]
    shapes = [[], [1], [-1, 3], ["N", 2**40, 0], [None, 7], None]
    infos = [
        helper.make_tensor_value_info(f"t{i}", datatype, shape) for i, shape in enumerate(shapes)
    ]
    nodes = [helper.make_node("Identity", ["t0"], ["x"])]
    assert_agrees(helper.make_model(helper.make_graph(nodes, "g", infos, infos[::-1])))


def test_datatypes_are_named_as_onnx_numbers_them() -> None:
    names = {
        "FP32": "FLOAT",
        "FP16": "FLOAT16",
        "FP64": "DOUBLE",
        "BF16": "BFLOAT16",
        "BYTES": "STRING",
    }
    for number, name in DATATYPES.items():
        assert TensorProto.DataType.Name(number) == names.get(name, name)


def test_input_with_a_stored_value_is_no_input() -> None:
    """Up to IR version 3 every initializer was listed among the inputs."""
    model = tiny_model()
    model.graph.input.append(helper.make_tensor_value_info("gain", TensorProto.FLOAT, []))
    assert [tensor.name for tensor in summarize(model.SerializeToString()).inputs] == ["images"]
    assert_agrees(model)


# External data, wherever it hides


def outside(name: str = "outside") -> TensorProto:
    tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=[1])
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="/etc/passwd")
    return tensor


def graph_with(tensor: TensorProto) -> GraphProto:
    return helper.make_graph([], "inner", [], [], [tensor])


def node_with(**attribute: object) -> NodeProto:
    node = NodeProto(op_type="Any", output=["x"])
    node.attribute.append(AttributeProto(name="a", **attribute))  # type: ignore[arg-type]
    return node


def sparse() -> onnx.SparseTensorProto:
    return onnx.SparseTensorProto(values=outside(), dims=[1])


def sparse_indices() -> onnx.SparseTensorProto:
    return onnx.SparseTensorProto(indices=outside(), dims=[1])


def add_function(model: ModelProto, node: NodeProto) -> None:
    model.functions.append(onnx.FunctionProto(name="f", domain="", node=[node]))


def add_function_default(model: ModelProto) -> None:
    function = onnx.FunctionProto(name="f", domain="")
    function.attribute_proto.append(AttributeProto(name="a", t=outside()))
    model.functions.append(function)


HIDING_PLACES = {
    "initializer": lambda m: m.graph.initializer.append(outside()),
    "sparse-values": lambda m: m.graph.sparse_initializer.append(sparse()),
    "sparse-indices": lambda m: m.graph.sparse_initializer.append(sparse_indices()),
    "tensor": lambda m: m.graph.node.append(node_with(t=outside())),
    "tensors": lambda m: m.graph.node.append(node_with(tensors=[outside()])),
    "sparse-tensor": lambda m: m.graph.node.append(node_with(sparse_tensor=sparse())),
    "sparse-tensors": lambda m: m.graph.node.append(node_with(sparse_tensors=[sparse()])),
    "graph": lambda m: m.graph.node.append(node_with(g=graph_with(outside()))),
    "graphs": lambda m: m.graph.node.append(node_with(graphs=[graph_with(outside())])),
    "graph-in-graph": lambda m: m.graph.node.append(
        node_with(g=helper.make_graph([node_with(g=graph_with(outside()))], "g", [], []))
    ),
    "function": lambda m: add_function(m, node_with(t=outside())),
    "graph-in-function": lambda m: add_function(m, node_with(g=graph_with(outside()))),
    "function-default": add_function_default,
}


@pytest.mark.parametrize("place", HIDING_PLACES)
def test_external_data_is_found(place: str) -> None:
    model = tiny_model()
    HIDING_PLACES[place](model)
    assert "outside" in summarize(model.SerializeToString()).external


def test_external_data_of_onnxs_own_making(tmp_path: Path) -> None:
    model = tiny_model()
    big = onnx.numpy_helper.from_array(np.zeros(4096, np.float32), "big")
    model.graph.initializer.append(big)
    path = tmp_path / "model.onnx"
    onnx.save(model, path, save_as_external_data=True, location="weights", size_threshold=1024)
    assert (tmp_path / "weights").exists()
    assert summarize(path.read_bytes()).external == ("big",)


def varint(value: int) -> bytes:
    value &= 2**64 - 1
    out = b""
    while value > 127:
        out += bytes([value & 127 | 128])
        value >>= 7
    return out + bytes([value])


def field(number: int, content: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(content)) + content


def test_external_data_in_the_first_of_two_graphs() -> None:
    """Protobuf merges a message that is written twice; a reader of the last one sees half."""
    hidden = ModelProto(graph=graph_with(outside())).SerializeToString()
    assert list(external_tensors(ModelProto.FromString(hidden + TINY))) == ["outside"]
    try:
        summary = summarize(hidden + TINY)
    except OnnxFileError:
        return
    assert summary.external == ("outside",)


def test_external_location_written_as_a_larger_number() -> None:
    """Protobuf cuts an enum to 32 bits, so 2^32 + 1 is EXTERNAL as well."""
    tensor = field(8, b"outside") + varint(14 << 3) + varint(2**32 + 1)
    assert TensorProto.FromString(tensor).data_location == TensorProto.EXTERNAL
    assert summarize(merged(tensor)).external


def merged(tensor: bytes) -> bytes:
    graph = tiny_model().graph.SerializeToString() + field(5, tensor)
    return field(7, graph) + field(8, b"\x10\x12")


# Files made to harm


def test_negative_size_does_not_send_the_reader_back() -> None:
    for size in (-1, -2, -11, -12, -(2**31), -(2**63)):
        with pytest.raises(OnnxFileError):
            summarize(varint(7 << 3 | 2) + varint(size))
        with pytest.raises(OnnxFileError):
            summarize(TINY + varint(1 << 3 | 2) + varint(size) + TINY)


@pytest.mark.parametrize("size", [1, 127, 2**31, 2**32, 2**62, 2**63 - 1, 2**64 - 1])
def test_announced_size_is_not_allocated(size: int) -> None:
    with pytest.raises(OnnxFileError):
        summarize(varint(7 << 3 | 2) + varint(size))


@pytest.mark.parametrize("depth", [10, 17, 1000, 5000])
def test_nesting(depth: int) -> None:
    tensor = outside().SerializeToString()
    graph = field(5, tensor)
    for _ in range(depth):
        graph = field(1, field(5, field(6, graph)))
    if depth <= 16:
        assert summarize(field(7, graph)).external == ("outside",)
    else:
        with pytest.raises(OnnxFileError, match="nested at most 16 deep"):
            summarize(field(7, graph))


@pytest.mark.parametrize("unit", [b"\x08\x01", b"\x3a\x00", b"\x0a\x00", b"\x2a\x00", b"\x42\x00"])
def test_many_tiny_fields_end(unit: bytes) -> None:
    """So many that the square of their number would not."""
    units = unit * 100_000
    for content in (units, field(7, units), field(7, field(1, units))):
        with contextlib.suppress(OnnxFileError):
            summarize(content)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x00",
        b"hello world",
        b"\xff" * 100,
        b"\x80" * 11,
        b"\x08",
        b"\x3a",
        b"\x3a\x05",
        b"\x0b",
        b"\x0c",
        b"\x0e\x01",
        b"PK\x03\x04" + bytes(50),
        b"\x80\x04\x95" + bytes(50),
    ],
    ids=lambda content: repr(content[:6]),
)
def test_no_onnx_file(content: bytes) -> None:
    with pytest.raises(OnnxFileError, match="expected"):
        summarize(content)


def test_every_truncation_of_a_model() -> None:
    """A cut between two fields of the model itself may leave a message that is whole."""
    wholes = 0
    for size in range(len(TINY)):
        try:
            summarize(TINY[:size])
            wholes += 1
        except OnnxFileError as error:
            assert "\n" not in str(error)
    assert wholes <= 3


@settings(max_examples=1000, deadline=None)
@given(st.binary(max_size=300))
def test_random_bytes(content: bytes) -> None:
    read(content)


@settings(max_examples=1000, deadline=None)
@given(st.integers(0, 2**32))
def test_random_changes_to_a_model(seed: int) -> None:
    chance = random.Random(seed)
    content = bytearray(TINY)
    for _ in range(chance.choice([1, 1, 2, 5, 20])):
        position = chance.randrange(len(content))
        match chance.randrange(3):
            case 0:
                content[position] = chance.choice([0, 1, 127, 128, 255, chance.randrange(256)])
            case 1:
                del content[position : position + chance.randrange(8)]
            case _:
                content[position:position] = chance.randbytes(chance.randrange(8))
    read(bytes(content))


def read(content: bytes) -> None:
    try:
        summary = summarize(content)
    except OnnxFileError as error:
        assert "\n" not in str(error)
        assert re.match("expected ", str(error))
    else:
        assert all(isinstance(tensor.name, str) for tensor in summary.inputs)


def test_metadata_is_replaced_and_the_rest_stays() -> None:
    model = tiny_model()
    onnx.helper.set_model_props(model, {"a": "1", "b": "2"})
    long = "ü" * 300  # a length of two bytes
    changed = replace_metadata(model.SerializeToString(), {"b": long, "c": ""})
    assert summarize(changed).metadata == {"a": "1", "b": long, "c": ""}
    read = onnx.load_model_from_string(changed)
    assert read.graph == model.graph
    assert [pair.key for pair in read.metadata_props] == ["a", "b", "c"]
    with pytest.raises(OnnxFileError):
        replace_metadata(b"\x3a\xff", {"b": "3"})
