"""The data file beside an ONNX graph: its weights, where one file cannot hold them; beyond 2 GiB.

Which tensors may lie in it, and where. ``onnx_file`` reads what the graph says, ``repository``
checks the file's bytes.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

# Bits of a value as external data holds it, by TensorProto.DataType; texts are never outside.
_BITS = {
    **{kind: 8 for kind in (2, 3, 9, 17, 18, 19, 20)},
    **{kind: 16 for kind in (4, 5, 10, 16)},
    **{kind: 32 for kind in (1, 6, 12)},
    **{kind: 64 for kind in (7, 11, 13)},
    **{kind: 4 for kind in (21, 22, 23)},
}

_MOST_SIDES = 64  # their product has to be worked out


@dataclass(frozen=True, slots=True)
class DataFile:
    """The file beside a graph that holds its weights, where one ONNX file cannot: beyond 2 GiB.

    Attributes:
        path: Path within the version's folder, beside the graph.
        sha256: Checksum.
        size_bytes: Its size.
    """

    path: str
    sha256: str
    size_bytes: int

    @property
    def location(self) -> str:
        """Return its name, as the graph's tensors state it."""
        return self.path.rpartition("/")[2]


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """An initializer of the graph whose data lies outside the file.

    Attributes:
        name: Its name.
        place: Keys and values of its ``external_data``, in order.
        size_bytes: Size of its data by datatype and shape; -1: they have none.
    """

    name: str
    place: tuple[tuple[str, str], ...]
    size_bytes: int


def data_bytes(datatype: int, sides: Sequence[int]) -> int:
    """Return the size of a tensor's external data.

    Args:
        datatype: Number of TensorProto.DataType.
        sides: Its shape.

    Returns:
        Bytes; -1: a tensor of this datatype or shape has none.
    """
    bits = _BITS.get(datatype)
    if bits is None or len(sides) > _MOST_SIDES or min(sides, default=0) < 0:
        return -1
    return -(-math.prod(sides) * bits // 8)


def find_misplaced(tensors: Sequence[StoredTensor], data: DataFile) -> str:
    """Find a tensor that does not lie in the data file, in bytes of its own number.

    Args:
        tensors: Tensors of the graph whose data lies outside.
        data: The only file that it may lie in.

    Returns:
        What is wrong, empty if nothing is.
    """
    total = 0
    for tensor in tensors:
        where, place = f'tensor "{tensor.name:.80}"', dict(tensor.place)
        numbers = [place.pop(key, "") for key in ("offset", "length")]
        # Other keys would point onnxruntime at more of the file; of a key twice the last counts.
        if place != {"location": data.location} or len(tensor.place) != 3:
            got = ", ".join(f"{key} {value}" for key, value in tensor.place)
            return f"{where}: expected location {data.location}, offset, length, got {got!r:.120}"
        if not all(each.isascii() and each.isdecimal() and len(each) < 19 for each in numbers):
            return f"{where}: expected an offset and a length, got {numbers!s:.80}"
        offset, length = map(int, numbers)
        if length != tensor.size_bytes or offset + length > data.size_bytes:
            return (
                f"{where}: expected {tensor.size_bytes} bytes for its shape within the "
                f"{data.size_bytes} of {data.location}, got {length} at {offset}"
            )
        total += length
    if total > data.size_bytes:
        return (
            f"expected tensors of at most the {data.size_bytes} bytes of {data.location}, "
            f"got {total}, which overlap"
        )
    return ""
