"""Inference requests and responses of V2 as gRPC carries them: messages to values and back.

The messages are Triton's own, from ``tritonclient``. As in ``json_body``, every field is checked
before it is used. Knows neither server nor model.
"""

from typing import Any

from google.protobuf.json_format import ParseDict
from tritonclient.grpc import model_config_pb2, service_pb2

from service.errors import InvalidInputError
from service.protocols.v2.codec import InputTensor, check_tensor, refuse_shared_memory
from service.protocols.v2.infer import InferCall, InferRequest, RequestedOutput

# Datatype -> its field of InferTensorContents, for the datatypes that models take.
_CONTENTS = {"UINT8": "uint_contents", "BYTES": "bytes_contents"}
# Parameter of a client that asks for a mark on the final response to a streamed request.
_WANTS_FINAL = "triton_enable_empty_final_response"


def read_message(message: Any) -> InferRequest:
    """Read a ModelInferRequest.

    Raises:
        InvalidInputError: A field breaks the protocol; the message names it.
    """
    raw = message.raw_input_contents
    if raw and len(raw) != len(message.inputs):
        raise InvalidInputError(
            f"raw_input_contents: expected one an input, {len(message.inputs)}, got {len(raw)}"
        )
    inputs = [
        _read_input(tensor, raw[position] if raw else None)
        for position, tensor in enumerate(message.inputs)
    ]
    outputs = None
    if message.outputs:
        outputs = [_read_output(output) for output in message.outputs]
    return InferRequest(inputs, outputs, message.id, read_parameters(message.parameters))


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


def _read_input(tensor: Any, raw: bytes | None) -> InputTensor:
    read = InputTensor(tensor.name[:80], tensor.datatype, list(tensor.shape))
    check_tensor(read)
    refuse_shared_memory(read_parameters(tensor.parameters), read.name)
    contents = [field.name for field, _ in tensor.contents.ListFields()]
    if raw is not None:
        if contents:
            raise InvalidInputError(
                f'input "{read.name}": expected contents or raw_input_contents, got both'
            )
        read.buffer = memoryview(raw)
        return read
    expected = _CONTENTS.get(read.datatype)
    if expected is not None:  # any other datatype is refused later, against the model
        if contents not in ([], [expected]):
            raise InvalidInputError(
                f'input "{read.name}": expected {expected} for {read.datatype}, '
                f"got {', '.join(contents)}"
            )
        read.elements = list(getattr(tensor.contents, expected))
    return read
