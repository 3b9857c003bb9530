"""Tensors of the Open Inference Protocol V2: a client's bytes and elements to arrays, and back.

A shape is only a client's claim: every count is checked against the bytes that arrived before
memory of that size is allocated. Knows neither HTTP nor gRPC nor any model; uses only numpy and the
standard library.

Layout legend: N rows, H height, W width, C channels, K classes.
"""

import base64
import binascii
import struct
from collections.abc import Callable
from dataclasses import dataclass
from itertools import chain, starmap
from math import prod
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from models.artifact import Datatype
from service.errors import InvalidInputError, TooLargeError

DATATYPES = frozenset(get_args(Datatype))
# No model has a tensor of more dimensions; the limit also bounds what error texts repeat.
_MAX_RANK = 8
_LENGTH = struct.Struct("<I")


@dataclass(slots=True)
class InputTensor:
    """One input as the client sent it, unchecked.

    Attributes:
        name: As sent.
        datatype: As sent.
        shape: As sent; all of them whole numbers.
        buffer: Its bytes, little-endian, row-major, BYTES elements behind their lengths; or None.
        elements: Its elements instead, flat or nested as its shape is; encoded images are
            base64 texts of JSON, or views of a message.
        may_hold_booleans: Whether true or false stands in its JSON: Python reads them as 1 and 0.
    """

    name: str
    datatype: str
    shape: list[int]
    buffer: memoryview | None = None
    elements: list[Any] | None = None
    may_hold_booleans: bool = False


@dataclass(slots=True)
class OutputTensor:
    """One output.

    Attributes:
        name: As the model names it.
        datatype: ``FP32``, or ``BYTES`` for a classification.
        shape: [N, K], or [N, top].
        values: float32 [N, K]; or the strings of a classification, row by row.
    """

    name: str
    datatype: str
    shape: list[int]
    values: NDArray[np.float32] | list[bytes]

    def buffer(self) -> bytes:
        """Return the binary form: little-endian, row-major, BYTES elements behind their lengths."""
        if isinstance(self.values, list):
            return write_elements(self.values)
        return self.values.astype("<f4", copy=False).tobytes()


def check_tensor(tensor: InputTensor) -> None:
    """Check what must hold for a tensor of any model.

    Raises:
        InvalidInputError: The datatype is unknown to the protocol, or the shape is invalid.
    """
    if tensor.datatype not in DATATYPES:
        raise InvalidInputError(
            f'input "{tensor.name}": expected a datatype such as UINT8 or BYTES, '
            f"got {tensor.datatype[:40]!r}"
        )
    if len(tensor.shape) > _MAX_RANK or any(size < 0 for size in tensor.shape):
        raise InvalidInputError(
            f'input "{tensor.name}": expected a shape of at most {_MAX_RANK} sizes from 0, '
            f"got {str(tensor.shape)[:80]}"
        )


def refuse_shared_memory(parameters: dict[str, Any], name: str) -> None:
    """Refuse a tensor in shared memory, which this server does not offer.

    Raises:
        InvalidInputError: The parameters name shared memory.
    """
    if any(key.startswith("shared_memory_") for key in parameters):
        raise InvalidInputError(
            f'tensor "{name}": expected its data in the request, got shared memory; '
            "this server has none"
        )


def _uncounted(_size: int) -> None:
    """Count nothing."""


def read_pixels(
    tensor: InputTensor,
    row_shape: tuple[int, int, int],
    max_rows: int,
    count: Callable[[int], None] = _uncounted,
) -> NDArray[np.uint8]:
    """Read a UINT8 tensor of decoded rows, without a copy if it came as bytes.

    Args:
        tensor: A tensor of datatype UINT8.
        row_shape: (H, W, C) of the model.
        max_rows: Rows in one request.
        count: Called with the number of bytes before they are allocated; may refuse.

    Returns:
        uint8 [N, H, W, C], 1 <= N <= max_rows, contiguous, perhaps read-only.

    Raises:
        InvalidInputError: The shape is wrong, or does not match the number of bytes or elements.
        TooLargeError: More rows than ``max_rows``.
    """
    shape = tensor.shape
    if len(shape) != 4 or (shape[1], shape[2], shape[3]) != row_shape:
        raise InvalidInputError(
            f'input "{tensor.name}": expected UINT8 {[-1, *row_shape]}, got UINT8 {shape}'
        )
    _check_rows(tensor.name, shape[0], max_rows)
    size = prod(shape)
    if tensor.buffer is not None:
        if len(tensor.buffer) != size:
            raise InvalidInputError(
                f'input "{tensor.name}": expected {size} bytes for UINT8 {shape}, '
                f"got {len(tensor.buffer)}"
            )
        return np.frombuffer(tensor.buffer, np.uint8).reshape(shape)
    elements = _flatten(tensor, size)
    if tensor.may_hold_booleans:
        _check_no_booleans(tensor, elements)
    count(size)
    try:
        return np.frombuffer(bytes(elements), np.uint8).reshape(shape)
    except (TypeError, ValueError):
        raise InvalidInputError(
            f'input "{tensor.name}": expected whole numbers from 0 to 255, got others'
        ) from None


def read_images(
    tensor: InputTensor, max_rows: int, count: Callable[[int], None] = _uncounted
) -> list[bytes]:
    """Read a BYTES tensor of encoded images, one in each element.

    As JSON has no bytes, its elements are base64 texts (RFC 4648, section 4).

    Args:
        tensor: A tensor of datatype BYTES and shape [N] or [N, 1].
        max_rows: Rows in one request.
        count: Called with the number of bytes before they are allocated; may refuse.

    Returns:
        N encoded images, 1 <= N <= max_rows.

    Raises:
        InvalidInputError: The shape is wrong, or does not match the number of elements.
        TooLargeError: More rows than ``max_rows``.
    """
    shape = tensor.shape
    if len(shape) not in (1, 2) or shape[1:] not in ([], [1]):
        raise InvalidInputError(
            f'input "{tensor.name}": expected BYTES [-1] or [-1, 1] of encoded images, '
            f"got BYTES {shape}"
        )
    _check_rows(tensor.name, shape[0], max_rows)
    if tensor.buffer is not None:
        count(len(tensor.buffer))
        return read_elements(tensor.buffer, shape[0], tensor.name)
    elements = _flatten(tensor, shape[0])
    count(
        sum(len(element) for element in elements if isinstance(element, bytes | memoryview | str))
    )
    return [
        bytes(element)
        if isinstance(element, bytes | memoryview)
        else _read_base64(element, tensor.name)
        for element in elements
    ]


def read_elements(buffer: memoryview, count: int, name: str) -> list[bytes]:
    """Read the elements of a BYTES tensor's binary form: uint32 length, bytes, repeated.

    Raises:
        InvalidInputError: There are not exactly ``count``, or one ends past the buffer.
    """
    elements: list[bytes] = []
    position, end = 0, len(buffer)
    while position < end and len(elements) < count:
        start = position + _LENGTH.size
        length = _LENGTH.unpack_from(buffer, position)[0] if start <= end else 0
        position = start + length
        if position > end:
            raise InvalidInputError(
                f'input "{name}": expected element {len(elements)} to end within the tensor\'s '
                f"{end} bytes, got one that ends at {position}"
            )
        elements.append(bytes(buffer[start:position]))
    if len(elements) != count or position != end:
        raise InvalidInputError(
            f'input "{name}": expected {count} elements behind their lengths, '
            f"got {len(elements)} and {end - position} bytes more"
        )
    return elements


def write_elements(elements: list[bytes]) -> bytes:
    """Write elements in the binary form of BYTES."""
    return b"".join(
        chain.from_iterable((_LENGTH.pack(len(element)), element) for element in elements)
    )


def classify(
    values_NK: NDArray[np.float32], order_NT: NDArray[np.intp], labels: tuple[str, ...]
) -> list[bytes]:
    """Format the given classes of each row as Triton does: ``value:index:label``, six decimals.

    Args:
        values_NK: float32 [N, K].
        order_NT: Classes of each row, largest value first.
        labels: Label of each class.
    """
    chosen_NT = np.take_along_axis(values_NK, order_NT, axis=1)
    texts = starmap(
        lambda value, index: f"{value:f}:{index}:{labels[index]}",
        zip(chosen_NT.ravel().tolist(), order_NT.ravel().tolist(), strict=True),
    )
    return [text.encode() for text in texts]


def _check_rows(name: str, rows: int, max_rows: int) -> None:
    if rows > max_rows:
        raise TooLargeError(
            f'input "{name}": expected at most {max_rows} rows, got {rows}; '
            "send fewer or raise FOVEAL_MAX_REQUEST_ROWS"
        )
    if rows < 1:
        raise InvalidInputError(f'input "{name}": expected at least 1 row, got {rows}')


def _flatten(tensor: InputTensor, size: int) -> list[Any]:
    """Return elements as one flat list; they arrive flat, or nested exactly as the shape is.

    Raises:
        InvalidInputError: They are nested otherwise, or not ``size`` elements.
    """
    level: list[Any] = tensor.elements or []
    if level and type(level[0]) is list:
        if len(level) != tensor.shape[0]:
            raise _wrong_nesting(tensor)
        for width in tensor.shape[1:]:
            if set(map(type, level)) != {list} or set(map(len, level)) != {width}:
                raise _wrong_nesting(tensor)
            level = list(chain.from_iterable(level))
    if len(level) != size:
        raise InvalidInputError(
            f'input "{tensor.name}": expected {size} elements for {tensor.datatype} '
            f"{tensor.shape}, got {len(level)}"
        )
    return level


def _check_no_booleans(tensor: InputTensor, elements: list[Any]) -> None:
    kinds = list(map(type, elements))
    if bool in kinds:
        first = kinds.index(bool)
        place = [int(index) for index in np.unravel_index(first, tensor.shape)]
        raise InvalidInputError(
            f'input "{tensor.name}": expected whole numbers from 0 to 255, '
            f"got {str(elements[first]).lower()} at {place}"
        )


def _wrong_nesting(tensor: InputTensor) -> InvalidInputError:
    return InvalidInputError(
        f'input "{tensor.name}": expected data flat, or nested as {tensor.shape}, got other nesting'
    )


def _read_base64(element: Any, name: str) -> bytes:
    try:
        if isinstance(element, str):
            return base64.b64decode(element, validate=True)
    except (binascii.Error, ValueError):
        pass
    raise InvalidInputError(
        f'input "{name}": expected base64 texts, as JSON cannot carry encoded images; '
        "or send the tensor in binary form"
    )
