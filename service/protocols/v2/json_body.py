"""Inference requests and responses of V2 as HTTP carries them: a JSON head, then binary tensors.

    body = JSON [+ buffer of each binary input, in the order of the inputs]

``read_request`` trusts nothing: it checks the type of every field, and every size against the bytes
that arrived. Knows no routes, no headers and no model.
"""

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import orjson
from numpy.typing import NDArray

from service.errors import InvalidInputError, TooLargeError, UnsupportedMediaError
from service.protocols import compression
from service.protocols.limits import BodyLimits
from service.protocols.v2.codec import InputTensor, OutputTensor, check_tensor, refuse_shared_memory
from service.protocols.v2.infer import InferRequest, RequestedOutput

# Size of a JSON head that is cached, and how many are: 256 KiB and the values read from them.
_CACHED_BYTES = 1024
_CACHED_HEADS = 256
# Texts, keys among them, and objects cost the parser up to 0.4 us each, numbers less than 0.1; no
# request of the protocol has as many. The shortest text takes three bytes with what follows it.
_MAX_TEXTS = 1 << 14
_UNCOUNTED_BYTES = 3 * _MAX_TEXTS
# What an array counts as beside the value that it is: it costs 0.2 us until it is freed, a number a
# tenth of that.
_ARRAY_VALUES = 4
# One input, two outputs, and a few parameters: what is not looked at costs no loop in Python.
_MAX_ITEMS = 64


def check_json(text: bytes, limits: BodyLimits) -> None:
    """Check what a JSON text may cost, before any value is made of it.

    Raises:
        TooLargeError: It is too long, or has too many values or texts.
    """
    size = len(text)
    if size > limits.max_json_bytes:
        raise TooLargeError(
            f"body: expected at most {limits.max_json_bytes} bytes of JSON, got {size}; "
            "send tensors in binary form, or raise FOVEAL_MAX_JSON_BYTES"
        )
    if size <= _UNCOUNTED_BYTES:
        return
    characters = np.frombuffer(text, np.uint8)
    texts = _count(characters, b'"') // 2 + _count(characters, b"{")
    if texts > _MAX_TEXTS:
        raise TooLargeError(f"body: expected at most {_MAX_TEXTS} texts and objects, got {texts}")
    if size > limits.max_values // _ARRAY_VALUES:
        values = _count(characters, b",") + _ARRAY_VALUES * _count(characters, b"[")
        if values > limits.max_values:
            raise TooLargeError(
                f"body: expected at most {limits.max_values} values in JSON, got {values}; "
                "send tensors in binary form, or raise FOVEAL_MAX_VALUES"
            )


def read_request(body: bytes, head_bytes: int | None, limits: BodyLimits) -> InferRequest:
    """Read an inference request.

    Args:
        body: All of it.
        head_bytes: Length of its JSON if binary tensors follow, None if all of it is JSON.
        limits: What its JSON may cost.

    Raises:
        InvalidInputError: A field breaks the protocol; the message names it.
        TooLargeError: The JSON is beyond a limit.
    """
    if head_bytes is None:
        check_json(body, limits)
        head, rest = _read_head(body), None
    elif head_bytes <= _CACHED_BYTES and head_bytes <= len(body):
        head, rest = _cached_head(body[:head_bytes]), memoryview(body)[head_bytes:]
    elif head_bytes <= len(body):
        text = body[:head_bytes]
        check_json(text, limits)
        head, rest = _read_head(text), memoryview(body)[head_bytes:]
    else:
        raise InvalidInputError(
            "header Inference-Header-Content-Length: expected at most the body's "
            f"{len(body)} bytes, got {head_bytes}"
        )
    return InferRequest(
        _attach(head.inputs, rest), head.outputs, head.id, head.parameters, head.are_outputs_binary
    )


class _Head(NamedTuple):
    """The values of a JSON head; never changed, as it may be in the cache.

    ``inputs`` are tensors without buffers, each with the size of its buffer if the JSON gives one.
    """

    inputs: list[tuple[InputTensor, int | None]]
    outputs: list[RequestedOutput] | None
    id: str | None
    parameters: dict[str, Any]
    are_outputs_binary: bool


def _read_head(text: bytes) -> _Head:
    document = _read_object(text)
    parameters = _parameters(document, "request")
    inputs = [_read_input(tensor) for tensor in _list(document.get("inputs"), "inputs")]
    is_binary = parameters.get("binary_data_output", False) is True
    identity = document.get("id")
    if not isinstance(identity, str | None):
        raise InvalidInputError(f"id: expected a string, got {kind(identity)}")
    outputs = document.get("outputs")
    wanted = None
    if outputs is not None:
        wanted = [_read_output(output, is_binary) for output in _list(outputs, "outputs")]
    # One letter is found much faster than a word, and numbers have none.
    if (b"r" in text and b"true" in text) or (b"f" in text and b"false" in text):
        others = text.count(b"true") + text.count(b"false") - _booleans(document)
        for tensor, _ in inputs:
            tensor.may_hold_booleans = others > 0
    return _Head(inputs, wanted, identity, parameters, is_binary)


# Requests of one client for one shape differ in the bytes behind the JSON, not in the JSON.
_cached_head = lru_cache(_CACHED_HEADS)(_read_head)


def read_document(
    text: bytes, coding: bytes | None, *, may_be_empty: bool = True
) -> dict[str, Any]:
    """Read the small JSON object of a route other than ``infer``.

    Args:
        text: The body.
        coding: Its ``Content-Encoding``, None without one.
        may_be_empty: Whether an empty body stands for an empty object.

    Raises:
        InvalidInputError: Not JSON, or not an object.
        TooLargeError: Longer than any such document.
        UnsupportedMediaError: It has a content coding.
    """
    if coding and not compression.is_identity(coding):
        raise UnsupportedMediaError(
            f"content-encoding: expected none on this route, got {coding.decode('latin-1')[:40]!r}"
        )
    if len(text) > _UNCOUNTED_BYTES:
        raise TooLargeError(
            f"body: expected at most {_UNCOUNTED_BYTES} bytes on this route, got {len(text)}"
        )
    if may_be_empty and not text.strip():
        return {}
    return _read_object(text)


def write_response(
    opening: bytes, request: InferRequest, outputs: list[OutputTensor]
) -> tuple[bytes, int | None]:
    """Write an inference response.

    Args:
        opening: ``{"model_name":…,"model_version":…`` without the closing brace.
        request: Names the binary outputs, and the id to echo.
        outputs: As requested, in that order.

    Returns:
        The body, and the length of its JSON, None if all of it is JSON.
    """
    buffers: list[bytes] = []
    texts: list[bytes] = []
    for position, output in enumerate(outputs):
        values = output.values
        document: dict[str, Any] = {
            "name": output.name,
            "datatype": output.datatype,
            "shape": output.shape,
        }
        if request.is_binary(position):
            buffer = output.buffer()
            buffers.append(buffer)
            document["parameters"] = {"binary_data_size": len(buffer)}
        elif isinstance(values, list):
            document["data"] = [value.decode() for value in values]
        else:
            document["data"] = values.ravel()
        texts.append(orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY))
    identity = b"" if request.id is None else b',"id":%s' % orjson.dumps(request.id)
    head = b'%s%s,"outputs":[%s]}' % (opening, identity, b",".join(texts))
    if not buffers:
        return head, None
    return b"".join((head, *buffers)), len(head)


def kind(value: Any) -> str:
    """Return the name of a value's JSON type, for errors: the value itself may be of any size."""
    names = {dict: "an object", list: "an array", str: "a string", bool: "a boolean"}
    return names.get(type(value), "null" if value is None else "a number")


def _read_object(text: bytes) -> dict[str, Any]:
    try:
        document = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise InvalidInputError(f"body: expected JSON, got {error}") from None
    if type(document) is not dict:
        raise InvalidInputError(f"body: expected a JSON object, got {kind(document)}")
    return document


def _attach(
    inputs: list[tuple[InputTensor, int | None]], rest: memoryview | None
) -> list[InputTensor]:
    """Give each tensor its part of the bytes behind the JSON; no byte may be left over."""
    tensors: list[InputTensor] = []
    position, end = 0, 0 if rest is None else len(rest)
    # A single tensor may be all that follows, as in OpenVINO Model Server.
    remainder = end if rest is not None and len(inputs) == 1 else None
    for tensor, stated in inputs:
        size = remainder if stated is None and tensor.elements is None else stated
        if size is None:
            if tensor.elements is None:
                raise InvalidInputError(
                    f'input "{tensor.name}": expected "data", or "binary_data_size" among its '
                    "parameters and header Inference-Header-Content-Length, got neither"
                )
            tensors.append(tensor)
            continue
        if rest is None or position + size > end:
            raise InvalidInputError(
                f'input "{tensor.name}": expected {size} bytes of binary data, '
                f"got {end - position} after the JSON"
            )
        buffer = rest[position : position + size]
        tensors.append(InputTensor(tensor.name, tensor.datatype, tensor.shape, buffer))
        position += size
    if position != end:
        raise InvalidInputError(
            f"body: expected {position} bytes of binary data after the JSON, got {end}"
        )
    return tensors


def _count(characters: NDArray[np.uint8], sought: bytes) -> int:
    return int(np.count_nonzero(characters == ord(sought)))


def _read_input(document: Any) -> tuple[InputTensor, int | None]:
    """Read one input, and the size of its binary data if it has one."""
    if type(document) is not dict:
        raise InvalidInputError(f"inputs: expected objects, got {kind(document)}")
    name, datatype, shape = document.get("name"), document.get("datatype"), document.get("shape")
    if type(name) is not str or type(datatype) is not str:
        raise InvalidInputError(
            f'inputs: expected "name" and "datatype" to be strings, '
            f"got {kind(name)} and {kind(datatype)}"
        )
    if (
        type(shape) is not list
        or len(shape) > _MAX_ITEMS
        or any(type(size) is not int for size in shape)
    ):
        raise InvalidInputError(
            f'input "{_short(name)}": expected "shape", a list of whole numbers'
        )
    tensor = InputTensor(_short(name), datatype, shape)
    check_tensor(tensor)
    parameters = _parameters(document, f'input "{tensor.name}"')
    refuse_shared_memory(parameters, tensor.name)
    size = parameters.get("binary_data_size")
    if size is not None and (type(size) is not int or size < 0):
        raise InvalidInputError(
            f'input "{tensor.name}": expected "binary_data_size" to be a whole number of bytes, '
            f"got {kind(size)}"
        )
    elements = document.get("data")
    if elements is not None:
        if size is not None:
            raise InvalidInputError(
                f'input "{tensor.name}": expected "data" or "binary_data_size", got both'
            )
        if type(elements) is not list:
            raise InvalidInputError(
                f'input "{tensor.name}": expected "data" to be an array, got {kind(elements)}'
            )
        tensor.elements = elements
    return tensor, size


def _read_output(document: Any, is_binary: bool) -> RequestedOutput:
    if type(document) is not dict or type(document.get("name")) is not str:
        raise InvalidInputError('outputs: expected objects with a string "name"')
    name = _short(document["name"])
    parameters = _parameters(document, f'output "{name}"')
    refuse_shared_memory(parameters, name)
    return RequestedOutput(
        name, parameters.get("classification", 0), parameters.get("binary_data", is_binary) is True
    )


def _parameters(document: dict[str, Any], where: str) -> dict[str, Any]:
    parameters = document.get("parameters")
    if parameters is None:
        return {}
    if type(parameters) is not dict:
        raise InvalidInputError(f"{where}: expected parameters to be an object")
    if len(parameters) > _MAX_ITEMS:
        raise InvalidInputError(
            f"{where}: expected at most {_MAX_ITEMS} parameters, got {len(parameters)}"
        )
    for key, value in parameters.items():
        if type(value) not in (str, int, float, bool):
            raise InvalidInputError(
                f'{where}: expected parameter "{_short(key)}" to be a string, number or boolean, '
                f"got {kind(value)}"
            )
    return parameters


def _booleans(document: dict[str, Any]) -> int:
    """Count those among the parameters of a request, its inputs and its outputs."""
    holders = document, *document["inputs"], *(document.get("outputs") or ())
    return sum(
        type(value) is bool
        for holder in holders
        for value in (holder.get("parameters") or {}).values()
    )


def _list(value: Any, where: str) -> list[Any]:
    if type(value) is not list:
        raise InvalidInputError(f'body: expected "{where}" to be an array, got {kind(value)}')
    if len(value) > _MAX_ITEMS:
        raise InvalidInputError(f'body: expected at most {_MAX_ITEMS} "{where}", got {len(value)}')
    return value


def _short(text: str) -> str:
    """Shorten a name for use in an error."""
    return text if len(text) <= 80 else text[:79] + "…"
