"""The walk over a ModelInferRequest: as protobuf reads it, and bounded whatever it is given."""

import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("grpc")

from google.protobuf.message import DecodeError
from tritonclient.grpc import service_pb2 as pb

from service.errors import InvalidInputError, ServiceError, TooLargeError
from service.protocols.compression import compress
from service.protocols.v2.infer import InferRequest
from service.protocols.v2.messages import coding_of, open_message, read_message, read_small
from tests.loop_watch import LONGEST_S, collecting_as_the_service, processor_s, shortest_of

MAX_ROWS = 512
MAX_VALUES = 420_000
MIB = 1 << 20


def read(raw: bytes) -> InferRequest:
    return read_message(open_message(raw, MAX_ROWS), MAX_VALUES)


def delimited(number: int, value: bytes) -> bytes:
    """One field with a length, as protobuf's definition of the format writes it."""
    size, octets = len(value), []
    while True:
        octets.append(size & 127 | (128 if size > 127 else 0))
        size >>= 7
        if not size:
            return bytes([number << 3 | 2, *octets]) + value


texts = st.text(max_size=8)
parameters = st.dictionaries(
    texts, st.one_of(st.booleans(), st.integers(-(2**63), 2**63 - 1), texts), max_size=3
)


def put(parameters: Any, values: dict[str, Any]) -> None:
    for name, value in values.items():
        kind = {bool: "bool_param", int: "int64_param", str: "string_param"}[type(value)]
        setattr(parameters[name], kind, value)


@st.composite
def messages(draw: st.DrawFn) -> Any:
    message = pb.ModelInferRequest(
        model_name=draw(texts), model_version=draw(texts), id=draw(texts)
    )
    put(message.parameters, draw(parameters))
    is_raw = draw(st.booleans())
    for _ in range(draw(st.integers(0, 3))):
        tensor = message.inputs.add(name=draw(texts), datatype=draw(st.sampled_from(KINDS)))
        tensor.shape.extend(draw(st.lists(st.integers(0, 2**63 - 1), max_size=4)))
        put(tensor.parameters, draw(parameters))
        if is_raw:
            message.raw_input_contents.append(draw(st.binary(max_size=9)))
        elif tensor.datatype == "UINT8":
            tensor.contents.uint_contents.extend(draw(st.lists(st.integers(0, 255), max_size=9)))
        else:
            tensor.contents.bytes_contents.extend(draw(st.lists(st.binary(max_size=9), max_size=9)))
    for _ in range(draw(st.integers(0, 2))):
        put(message.outputs.add(name=draw(texts)).parameters, draw(parameters))
    return message


KINDS = ["UINT8", "BYTES"]


@given(messages())
def test_messages_are_read_as_protobuf_reads_them(message: Any) -> None:
    got = read(message.SerializeToString())
    assert got.id == message.id
    assert len(got.parameters) == len(message.parameters)
    assert [output.name for output in got.outputs or []] == [o.name for o in message.outputs]
    for position, (tensor, sent) in enumerate(zip(got.inputs, message.inputs, strict=True)):
        assert (tensor.name, tensor.datatype) == (sent.name, sent.datatype)
        assert tensor.shape == list(sent.shape)
        if message.raw_input_contents:
            assert tensor.buffer is not None
            assert bytes(tensor.buffer) == message.raw_input_contents[position]
        elif sent.datatype == "UINT8":
            values = tensor.elements if tensor.buffer is None else list(tensor.buffer)
            assert values == list(sent.contents.uint_contents)
        else:
            assert list(map(bytes, tensor.elements or [])) == list(sent.contents.bytes_contents)


@given(messages(), st.data())
def test_damaged_messages_are_read_or_refused(message: Any, data: st.DataObject) -> None:
    """And none is read that protobuf refuses, but for what stands in contents nobody asks for."""
    raw = bytearray(message.SerializeToString() or b"\0")
    for _ in range(data.draw(st.integers(1, 3))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    sent = bytes(raw[: data.draw(st.integers(0, len(raw)))])
    try:
        read(sent)
    except ServiceError:
        return
    if not any(tensor.datatype not in KINDS for tensor in open_message(sent, MAX_ROWS).head.inputs):
        pb.ModelInferRequest.FromString(sent)


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(raw: bytes) -> None:
    try:
        read(raw)
    except ServiceError:
        return
    pb.ModelInferRequest.FromString(raw)


@pytest.mark.parametrize(
    "raw",
    [
        b"\xff",
        b"\x2b",  # a group starts
        b"\x0e",  # wire types 6 and 7 do not exist
        b"\x0f",
        b"\x02\x00",  # field 0 does not exist, either
        b"\x0a",  # a length is missing
        b"\x0a\x05ab",
        b"\x0a" + b"\xff" * 10 + b"\x01",
        b"\x0a" + b"\x80" * (32 * MIB),
        b"\x80" * 5 + b"\x00",
        b"\x0a\x01\xff",  # a text that is not UTF-8
        b"\x09\x00",
        delimited(5, b"\x0a"),
        delimited(5, delimited(5, b"\x22\x05")),
        b"no protobuf at all",
    ],
)
def test_bytes_that_are_no_message(raw: bytes) -> None:
    with pytest.raises(DecodeError):
        pb.ModelInferRequest.FromString(raw)
    with pytest.raises(InvalidInputError, match="expected a protobuf message"):
        read(raw)


def test_groups_are_refused() -> None:
    """Protobuf passes over unknown ones; no client of V2 sends any."""
    pb.ModelInferRequest.FromString(b"\x4b\x4b\x4c\x4c")
    with pytest.raises(InvalidInputError, match="expected a protobuf message"):
        read(b"\x4b\x4b\x4c\x4c")


def nested(depth: int) -> bytes:
    """A value of a parameter whose unknown field 9 holds a field 9, and so on."""
    value = b""
    for _ in range(depth):
        value = delimited(9, value)
    return delimited(4, delimited(2, value))


def tensor_of(contents: bytes) -> bytes:
    """An input of UINT8 with these contents."""
    return delimited(5, delimited(1, b"images") + delimited(2, b"UINT8") + delimited(5, contents))


# Each is 32 MiB or as much of a kind as is walked; what protobuf makes of the first takes 2 GB.
HOSTILE: dict[str, tuple[Callable[[], bytes], str]] = {
    "empty inputs": (lambda: b"\x2a\x00" * (16 * MIB), "at most 8704 fields.*MAX_REQUEST_ROWS"),
    "empty outputs": (lambda: b"\x32\x00" * (16 * MIB), "at most 8704 fields"),
    "empty raw contents": (lambda: b"\x3a\x00" * (16 * MIB), "at most 8704 fields"),
    "empty parameters": (lambda: b"\x22\x00" * (16 * MIB), "at most 8704 fields"),
    "unknown fields": (lambda: b"\x78\x00" * (16 * MIB), "at most 8704 fields"),
    "fields of one input": (lambda: delimited(5, b"\x3a\x00" * (16 * MIB)), "at most 8704 fields"),
    "fields of contents": (lambda: tensor_of(b"\x42\x00" * (16 * MIB)), "at most 8704 fields"),
    "contents again": (
        lambda: delimited(5, delimited(5, b"") * (16 * MIB)),
        "at most 8704 fields",
    ),
    "numbers unpacked": (lambda: tensor_of(b"\x20\x01" * (16 * MIB)), "at most 8704 fields"),
    "numbers packed": (
        lambda: tensor_of(delimited(4, b"\x01" * (32 * MIB))),
        "at most 420000 values in uint_contents, got 33554432.*FOVEAL_MAX_VALUES",
    ),
    "as many wide numbers as may be": (
        lambda: tensor_of(delimited(4, b"\xff\xff\xff\xff\x0f" * MAX_VALUES)),
        "whole numbers from 0 to 255",
    ),
    "numbers without end": (
        lambda: tensor_of(delimited(4, b"\xff" * (32 * MIB))),
        "whole numbers from 0 to 255",
    ),
    "a long name": (lambda: delimited(1, b"a" * (32 * MIB)), "at most 65536 bytes beside"),
    "a long shape": (
        lambda: delimited(5, delimited(3, b"\x01" * (32 * MIB))),
        "at most 65536 bytes beside",
    ),
    "as long a shape as may be": (
        lambda: delimited(5, delimited(3, b"\x01" * 65000)),
        "expected a datatype",
    ),
    "as many parameters as may be": (lambda: b"\x22\x00" * 8700 + tensor_of(b""), ""),
    "as many outputs as may be": (lambda: b"\x32\x00" * 8700, "outputs: expected at most 64"),
    "as many inputs as may be": (lambda: b"\x2a\x00" * 8700, "inputs: expected at most 64"),
    "depth": (lambda: nested(15_000), ""),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_message_of_an_allowed_size_is_read_in_time_and_in_proportion(name: str) -> None:
    make, match = HOSTILE[name]
    raw = make()

    def work() -> None:
        if match:
            with pytest.raises(ServiceError, match=match):
                read(raw)
        else:
            read(raw)

    with collecting_as_the_service():
        assert shortest_of(20, lambda: processor_s(work)) <= LONGEST_S
    tracemalloc.start()
    try:
        work()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 48 * MIB


def test_tensors_are_views_of_the_message() -> None:
    message = pb.ModelInferRequest(raw_input_contents=[b"x" * (8 * MIB)])
    message.inputs.add(name="images", datatype="UINT8")
    raw = message.SerializeToString()
    tracemalloc.start()
    try:
        (tensor,) = read(raw).inputs
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert tensor.buffer is not None and tensor.buffer.obj is raw
    assert peak < MIB


@pytest.mark.parametrize(
    "values", [[], [0], [127], [128], [255, 0, 128, 127], [256], [1, 2**32 - 1]]
)
@pytest.mark.parametrize("is_packed", [True, False])
def test_numbers(values: list[int], is_packed: bool) -> None:
    if is_packed:
        contents = pb.InferTensorContents(uint_contents=values).SerializeToString()
    else:
        # An int64 parameter is a varint, too: its tag 0x10 becomes that of uint_contents.
        written = [pb.InferParameter(int64_param=v).SerializeToString() for v in values]
        contents = b"".join(b"\x20" + one[1:] for one in written)
    assert list(pb.InferTensorContents.FromString(contents).uint_contents) == values
    raw = tensor_of(contents)
    if max(values, default=0) > 255:
        with pytest.raises(InvalidInputError, match="from 0 to 255"):
            read(raw)
        return
    (tensor,) = read(raw).inputs
    got = tensor.elements if tensor.buffer is None else list(np.frombuffer(tensor.buffer, np.uint8))
    assert got == values


def test_contents_that_come_twice_are_merged() -> None:
    """As protobuf merges a message that comes twice."""
    part = delimited(5, delimited(4, b"\x01\x02"))
    raw = delimited(5, delimited(2, b"UINT8") + part + delimited(1, b"x") + part)
    assert list(pb.ModelInferRequest.FromString(raw).inputs[0].contents.uint_contents) == [1, 2] * 2
    (tensor,) = read(raw).inputs
    assert tensor.buffer is not None and list(tensor.buffer) == [1, 2, 1, 2]


@given(messages(), st.sampled_from([b"gzip", b"deflate"]))
def test_compressed_messages_are_known_by_their_beginning(message: Any, coding: bytes) -> None:
    raw = message.SerializeToString()
    assert coding_of(raw) == b""
    assert coding_of(compress(raw, coding)) == coding


def test_small_requests() -> None:
    parse = pb.ModelMetadataRequest.FromString
    sent = pb.ModelMetadataRequest(name="tiny").SerializeToString()
    assert read_small(sent, parse).name == "tiny"
    assert read_small(compress(sent, b"gzip"), parse).name == "tiny"
    with pytest.raises(InvalidInputError, match="expected a protobuf message"):
        read_small(b"\xff", parse)
    with pytest.raises(TooLargeError, match="at most 65536 bytes"):
        read_small(delimited(1, b"a" * 65536), parse)
    with pytest.raises(TooLargeError, match="at most 65536 bytes once expanded"):
        read_small(compress(bytes(8 * MIB), b"gzip"), parse)
