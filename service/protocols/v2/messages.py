"""Inference requests and responses of V2 as gRPC carries them: messages to values and back.

The messages are Triton's own, from ``tritonclient``. As in ``json_body``, every field is checked
before it is used. Knows neither server nor model.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from google.protobuf.json_format import ParseDict
from google.protobuf.message import DecodeError
from tritonclient.grpc import model_config_pb2, service_pb2

from service.errors import InvalidInputError, TooLargeError
from service.protocols.compression import decompress, is_gzip, is_zlib
from service.protocols.v2 import wire
from service.protocols.v2.codec import InputTensor, check_tensor, refuse_shared_memory
from service.protocols.v2.infer import InferCall, InferRequest, RequestedOutput

_MAX_ITEMS = 64


class _Contents(NamedTuple):
    """A field of InferTensorContents, and the wire types that it may have."""

    name: str
    number: int
    kinds: tuple[int, ...]


# For the datatypes that models take; uint_contents may be packed or not.
_CONTENTS = {
    "UINT8": _Contents("uint_contents", 4, (0, 2)),
    "BYTES": _Contents("bytes_contents", 8, (2,)),
}
# Parameter of a client that asks for a mark on the final response to a streamed request.
_WANTS_FINAL = "triton_enable_empty_final_response"


def read_small(raw: bytes, parse: Callable[[bytes], Any]) -> Any:
    """Read a request that carries no tensor.

    Args:
        raw: As received: a message, or one that its client compressed.
        parse: ``FromString`` of the message's class.

    Raises:
        InvalidInputError: The bytes are no such message.
        TooLargeError: More than 64 KiB.
    """
    coding = coding_of(raw)
    if coding:
        raw = decompress(raw, coding, wire.MAX_HEAD_BYTES)
    if len(raw) > wire.MAX_HEAD_BYTES:
        raise TooLargeError(
            f"message: expected at most {wire.MAX_HEAD_BYTES} bytes for this method, got {len(raw)}"
        )
    return _parse(raw, parse)


def coding_of(raw: bytes) -> bytes:
    """Return the coding of a received message, empty if it is not compressed.

    gRPC's core is told to expand nothing, as it would before anything can be counted, and passes
    the flag of a compressed message to nobody. No message of V2 begins as gzip data does: it would
    be a field of a wire type that does not exist. One that begins as zlib data does would have
    number 15 first, which no message of V2 has.
    """
    if is_gzip(raw):
        return b"gzip"
    return b"deflate" if raw[:1] == b"\x78" and is_zlib(raw) else b""


@dataclass(frozen=True, slots=True)
class InferMessage:
    """A ModelInferRequest: what protobuf read of it, and its tensors as they were sent.

    Attributes:
        head: A ModelInferRequest without the contents of its inputs.
        parts: Where these are.
    """

    head: Any
    parts: wire.Parts


def open_message(raw: bytes, max_rows: int) -> InferMessage:
    """Check the form of a ModelInferRequest.

    Raises:
        InvalidInputError: The bytes are no such message.
        TooLargeError: It has too many fields.
    """
    parts = wire.split(raw, max_rows)
    return InferMessage(_parse(parts.head, service_pb2.ModelInferRequest.FromString), parts)


def read_message(message: InferMessage, max_values: int) -> InferRequest:
    """Read a ModelInferRequest.

    Args:
        message: The message.
        max_values: Elements of typed contents, at most.

    Raises:
        InvalidInputError: A field breaks the protocol; the message names it.
        TooLargeError: More elements than ``max_values``.
    """
    head, parts = message.head, message.parts
    raw = parts.raw_contents
    for name, items in (("inputs", head.inputs), ("outputs", head.outputs)):
        if len(items) > _MAX_ITEMS:
            raise InvalidInputError(f"{name}: expected at most {_MAX_ITEMS}, got {len(items)}")
    if raw and len(raw) != len(head.inputs):
        raise InvalidInputError(
            f"raw_input_contents: expected one an input, {len(head.inputs)}, got {len(raw)}"
        )
    inputs = [_open_input(tensor) for tensor in head.inputs]
    for position, tensor in enumerate(inputs):
        fields = parts.contents[position]
        if raw:
            if fields:
                raise InvalidInputError(
                    f'input "{tensor.name}": expected contents or raw_input_contents, got both'
                )
            tensor.buffer = raw[position]
        else:
            _read_contents(tensor, fields, parts, max_values)
    outputs = [_read_output(output) for output in head.outputs] or None
    return InferRequest(inputs, outputs, head.id, read_parameters(head.parameters))


def read_parameters(parameters: Any) -> dict[str, Any]:
    """Return parameters as plain values; one without a value is skipped."""
    values: dict[str, Any] = {}
    for name, parameter in parameters.items():
        choice = parameter.WhichOneof("parameter_choice")
        if choice is not None:
            values[name] = getattr(parameter, choice)
    return values


def write_message(call: InferCall, name: str, version: int) -> Any:
    """Write a ModelInferResponse; tensors go as raw contents, as Triton's do."""
    request = call.request
    response = service_pb2.ModelInferResponse(
        model_name=name, model_version=str(version), id=request.id or ""
    )
    for output in call.outputs:
        response.outputs.add(name=output.name, datatype=output.datatype, shape=output.shape)
        response.raw_output_contents.append(output.buffer())
    if call.job is not None and call.job.precision:
        response.parameters["precision"].string_param = call.job.precision
    if request.parameters.get(_WANTS_FINAL):
        response.parameters["triton_final_response"].bool_param = True
    return response


def write_document(document: dict[str, Any], kind: Any) -> Any:
    """Write one of ``documents``' documents as a message of the same fields."""
    return ParseDict(document, kind())


def write_config(document: dict[str, Any]) -> Any:
    """Write a model's configuration as a ModelConfigResponse."""
    config = ParseDict(document, model_config_pb2.ModelConfig())
    return service_pb2.ModelConfigResponse(config=config)


def _read_output(output: Any) -> RequestedOutput:
    name, parameters = output.name[:80], read_parameters(output.parameters)
    refuse_shared_memory(parameters, name)
    return RequestedOutput(name, parameters.get("classification", 0))


def _open_input(tensor: Any) -> InputTensor:
    read = InputTensor(tensor.name[:80], tensor.datatype, list(tensor.shape))
    check_tensor(read)
    refuse_shared_memory(read_parameters(tensor.parameters), read.name)
    return read


def _read_contents(
    tensor: InputTensor, fields: list[wire.Field], parts: wire.Parts, max_values: int
) -> None:
    """Read the typed contents of one input; any other datatype is refused later, by the model."""
    expected = _CONTENTS.get(tensor.datatype)
    if expected is None:
        return
    got = {field.number for field in fields}
    if got - {expected.number}:
        names = service_pb2.InferTensorContents.DESCRIPTOR.fields_by_number
        said = ", ".join(names[n].name if n in names else f"field {n}" for n in sorted(got))
        raise InvalidInputError(
            f'input "{tensor.name}": expected {expected.name} for {tensor.datatype}, got {said}'
        )
    if any(field.kind not in expected.kinds for field in fields):
        raise InvalidInputError(f'input "{tensor.name}": expected whole {expected.name}')
    if not fields:
        tensor.elements = []
    elif tensor.datatype == "UINT8":
        tensor.buffer = wire.read_uint8(parts, fields, tensor.name, max_values).data
    else:
        tensor.elements = [parts.message[field.value : field.end] for field in fields]


def _parse(raw: bytes, parse: Callable[[bytes], Any]) -> Any:
    try:
        return parse(raw)
    except DecodeError:
        raise InvalidInputError(
            "message: expected a protobuf message of this method, got bytes that are none"
        ) from None
