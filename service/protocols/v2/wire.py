"""The wire format of a ModelInferRequest, walked before protobuf makes objects of it.

    message = head (names, shapes, parameters) + contents of tensors

The walk counts fields, cuts the contents of tensors out as views of the received bytes, and leaves
a small head, which protobuf's own parser reads. So a message costs no more memory than its bytes,
and neither millions of empty inputs nor deep nesting reach the parser.
https://protobuf.dev/programming-guides/encoding describes the format.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from service.errors import InvalidInputError, TooLargeError

# Names, shapes and parameters of one input and two outputs take a few hundred bytes.
MAX_HEAD_BYTES = 1 << 16
# Fields beside one for each row; a walk of as many takes about 5 ms.
_MAX_FIELDS = 8192
_VARINT, _FIXED64, _DELIMITED, _FIXED32 = 0, 1, 2, 5
_TAG_BYTES = 5  # field numbers have 29 bits
_MAX_SHIFT = 63
# Fields of ModelInferRequest and of its InferInputTensor.
_INPUTS, _RAW_CONTENTS, _CONTENTS = 5, 7, 5


class Field(NamedTuple):
    """One field of a message.

    Attributes:
        number: Its number in the message's definition.
        kind: Wire type: 0 a varint, 1 and 5 fixed, 2 with a length.
        start: Where its tag begins.
        value: Where its value begins, behind tag and length.
        end: Where it ends.
    """

    number: int
    kind: int
    start: int
    value: int
    end: int


@dataclass(frozen=True, slots=True)
class Parts:
    """A message whose tensors were cut out.

    Attributes:
        head: The message without them; at most 64 KiB.
        contents: For each input, the fields of its InferTensorContents.
        raw_contents: ``raw_input_contents``, views of the message.
        message: The message, which the fields of ``contents`` refer to.
    """

    head: bytes
    contents: list[list[Field]]
    raw_contents: list[memoryview]
    message: memoryview


class Walk:
    """Reads the fields of a message and of messages in it, up to a number in all.

    Args:
        message: As received.
        max_rows: Rows in one request: each may be a field.
    """

    def __init__(self, message: bytes, max_rows: int) -> None:
        self._message = message
        self._max_fields = _MAX_FIELDS + max_rows
        self._left = self._max_fields

    def fields(self, start: int, end: int) -> list[Field]:
        """Read the fields between two positions.

        Raises:
            InvalidInputError: The bytes are no message, or hold a group, which V2 has none of.
            TooLargeError: Too many fields.
        """
        found: list[Field] = []
        message = self._message
        position = start
        while position < end:
            first = position
            self._left -= 1
            if self._left < 0:
                raise TooLargeError(
                    f"message: expected at most {self._max_fields} fields, got more; "
                    "send tensors in raw_input_contents, or raise FOVEAL_MAX_REQUEST_ROWS"
                )
            tag = message[position]
            position += 1
            if tag > 127:
                tag, position = _varint(message, first, min(end, first + _TAG_BYTES))
            kind = tag & 7
            value = position
            if kind == _DELIMITED:
                if position < end and message[position] < 128:
                    value = position + 1
                    position = value + message[position]
                else:
                    size, value = _varint(message, position, end)
                    position = value + size
            elif kind == _VARINT:
                position = _varint(message, position, end)[1]
            elif kind == _FIXED32:
                position += 4
            elif kind == _FIXED64:
                position += 8
            else:
                raise _broken(first)
            if position > end or tag < 8:
                raise _broken(first)
            found.append(Field(tag >> 3, kind, first, value, position))
        return found


def split(message: bytes, max_rows: int) -> Parts:
    """Cut the contents of tensors out of a ModelInferRequest.

    Raises:
        InvalidInputError: The bytes are no message.
        TooLargeError: Too many fields, or a head of more than 64 KiB.
    """
    view = memoryview(message)
    walk = Walk(message, max_rows)
    head: list[memoryview | bytes] = []
    contents: list[list[Field]] = []
    raw_contents: list[memoryview] = []
    for field in walk.fields(0, len(message)):
        if field.kind != _DELIMITED or field.number not in (_INPUTS, _RAW_CONTENTS):
            head.append(view[field.start : field.end])
        elif field.number == _RAW_CONTENTS:
            raw_contents.append(view[field.value : field.end])
        else:
            tensor: list[memoryview] = []
            elements: list[Field] = []
            for part in walk.fields(field.value, field.end):
                if part.number == _CONTENTS and part.kind == _DELIMITED:
                    elements += walk.fields(part.value, part.end)  # a second one is merged
                else:
                    tensor.append(view[part.start : part.end])
            rest = b"".join(tensor)
            head += (_tag_and_length(_INPUTS, len(rest)), rest)
            contents.append(elements)
    size = sum(map(len, head))
    if size > MAX_HEAD_BYTES:
        raise TooLargeError(
            f"message: expected at most {MAX_HEAD_BYTES} bytes beside the contents of tensors, "
            f"got {size}"
        )
    return Parts(b"".join(head), contents, raw_contents, view)


def read_uint8(parts: Parts, fields: list[Field], name: str, max_values: int) -> NDArray[np.uint8]:
    """Read ``uint_contents``, packed or not, as bytes.

    Args:
        parts: The message.
        fields: Fields of that number in one input's contents.
        name: Of the input, for errors.
        max_values: Elements, at most.

    Returns:
        uint8 [n]; a view of the message if it is packed and no element is above 127.

    Raises:
        InvalidInputError: An element is above 255, or no varint.
        TooLargeError: More elements than ``max_values``.
    """
    views = [parts.message[field.value : field.end] for field in fields]
    octets = np.frombuffer(views[0] if len(views) == 1 else b"".join(views), np.uint8)
    is_last = octets < 128
    count = int(np.count_nonzero(is_last))
    if count > max_values:
        raise TooLargeError(
            f'input "{name}": expected at most {max_values} values in uint_contents, got {count}; '
            "send raw_input_contents, or raise FOVEAL_MAX_VALUES"
        )
    if count == len(octets):
        return octets
    ends = np.flatnonzero(is_last)
    starts = np.concatenate(([0], ends[:-1] + 1)) if count else ends
    sizes = ends - starts + 1
    if is_last[-1] and sizes.max() <= _TAG_BYTES:
        values: NDArray[np.uint8] = octets[starts] & np.uint8(127)
        for position in range(1, int(sizes.max())):
            rows = np.flatnonzero(sizes > position)
            bits = octets[starts[rows] + position] & np.uint8(127)
            # Seven bits an octet, the lowest first: the second may have one of 255's eight bits.
            if bits.max() > (position == 1):
                break
            values[rows] |= bits << (7 if position == 1 else 0)
        else:
            return values
    raise InvalidInputError(f'input "{name}": expected whole numbers from 0 to 255, got others')


def _varint(message: bytes, position: int, end: int) -> tuple[int, int]:
    """Return a varint and where it ends.

    Raises:
        InvalidInputError: It does not end, or has more than ten bytes.
    """
    value = shift = 0
    first = position
    while position < end and shift <= _MAX_SHIFT:
        octet = message[position]
        position += 1
        value |= (octet & 127) << shift
        if octet < 128:
            return value, position
        shift += 7
    raise _broken(first)


def _tag_and_length(number: int, size: int) -> bytes:
    if size < 128:
        return bytes((number << 3 | _DELIMITED, size))
    encoded = bytearray((number << 3 | _DELIMITED,))
    while size > 127:
        encoded.append(size & 127 | 128)
        size >>= 7
    encoded.append(size)
    return bytes(encoded)


def _broken(position: int) -> InvalidInputError:
    return InvalidInputError(
        f"message: expected a protobuf message, got bytes that are none at {position}"
    )
