"""The weights of a foreign graph, kept in one file beside it: the graph in memory stays small.

A graph is copied, changed and serialized several times on its way to a version; its weights are
read once and written once. Data that a file keeps beside itself (``.onnx.data``) goes the same way.
"""

import io
import os
import stat
from pathlib import Path
from typing import IO

import onnx
from onnx import TensorProto, helper

from export.errors import AdoptError

FILE = "weights.bin"
# protobuf's limit; a larger model can't be one file.
MAX_BYTES = 2 << 30
# Constants that the graph's own structure needs, such as shapes, are smaller and stay inside it.
_LEAST_BYTES = 1 << 16
_CHUNK_BYTES = 1 << 24


def move_out(model: onnx.ModelProto, source: Path, folder: Path) -> onnx.ModelProto:
    """Move the large initializers of a graph into ``folder / FILE``.

    Args:
        model: The graph; loses its weights.
        source: Folder of the file that it came from, which may hold its external data.
        folder: Where the weights go.

    Returns:
        A copy without the memory of the weights.

    Raises:
        AdoptError: External data that lies elsewhere, is a link, or has another size than its
            tensor; or more than one file can hold.
    """
    total = model.ByteSize() + sum(
        _size_bytes(tensor)
        for tensor in model.graph.initializer
        if tensor.data_location == TensorProto.EXTERNAL
    )
    if total >= MAX_BYTES:  # before the disk pays for it
        raise AdoptError(
            f"expected less than {MAX_BYTES >> 20} MiB with all weights, got {total >> 20}: one "
            "ONNX file holds no more; export the network in half precision"
        )
    with (folder / FILE).open("wb") as file:
        for tensor in model.graph.initializer:
            start = file.tell()
            if tensor.data_location == TensorProto.EXTERNAL:
                _copy_external(tensor, source, file)
            elif len(tensor.raw_data) >= _LEAST_BYTES:
                file.write(tensor.raw_data)
                tensor.ClearField("raw_data")
            else:
                continue
            _refer(tensor, start, file.tell() - start)
    small = onnx.ModelProto()
    small.CopyFrom(model)  # protobuf frees a message's memory only with the message
    return small


def read_small(model: onnx.ModelProto, source: Path) -> None:
    """Read the small initializers that lie outside a file into its graph.

    Args:
        model: The graph; is changed.
        source: Folder of the file.

    Raises:
        AdoptError: As ``move_out``.
    """
    for tensor in model.graph.initializer:
        if tensor.data_location == TensorProto.EXTERNAL and _size_bytes(tensor) < _LEAST_BYTES:
            content = io.BytesIO()
            _copy_external(tensor, source, content)
            tensor.ClearField("external_data")
            tensor.ClearField("data_location")
            tensor.raw_data = content.getvalue()


def write_whole(model: onnx.ModelProto, folder: Path, path: Path) -> None:
    """Write a graph with the weights of ``folder`` inside, and never hold them in memory.

    Field numbers: onnx.proto3; a message is the concatenation of its fields, in any order.
    """
    small, graph = onnx.ModelProto(), onnx.GraphProto()
    small.CopyFrom(model)
    small.ClearField("graph")
    graph.CopyFrom(model.graph)
    del graph.initializer[:]
    tensors: list[tuple[bytes, int, int]] = []
    for tensor in model.graph.initializer:
        bare, place = onnx.TensorProto(), {each.key: each.value for each in tensor.external_data}
        bare.CopyFrom(tensor)
        if tensor.data_location != TensorProto.EXTERNAL:
            graph.initializer.append(bare)
            continue
        bare.ClearField("external_data")
        bare.ClearField("data_location")
        offset, length = int(place["offset"]), int(place["length"])
        content = bare.SerializeToString() + _field_head(9, length)  # raw_data
        head = _field_head(5, len(content) + length)  # initializer
        tensors.append((head + content, offset, length))
    rest = graph.SerializeToString()
    size = len(rest) + sum(len(head) + length for head, _, length in tensors)
    with (folder / FILE).open("rb") as data, path.open("wb") as file:
        file.write(small.SerializeToString() + _field_head(7, size) + rest)  # graph
        for head, offset, length in tensors:
            file.write(head)
            data.seek(offset)
            _copy(data, file, length)


def link(folder: Path, other: Path) -> None:
    """Let a graph in another folder of the same disk find the weights of ``folder``."""
    if (folder / FILE).exists():
        os.link(folder / FILE, other / FILE)


def _refer(tensor: onnx.TensorProto, start: int, length: int) -> None:
    tensor.ClearField("external_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", FILE), ("offset", start), ("length", length)):
        tensor.external_data.add(key=key, value=str(value))


def _copy_external(tensor: onnx.TensorProto, source: Path, file: IO[bytes]) -> None:
    """Copy one tensor's data from the file that its entry names."""
    where = f'tensor "{tensor.name}"'
    entry = {each.key: each.value for each in tensor.external_data}
    name = entry.get("location", "")
    if not name or Path(name).name != name or "\\" in name:
        raise AdoptError(
            f"{where}: expected its data in the same folder, got {name!r}: write both files again "
            "with onnx.save_model, which names the data by location"
        )
    try:
        start = int(entry.get("offset", "0"))
        wanted = _size_bytes(tensor)
        length = int(entry.get("length", str(wanted)))
    except ValueError:
        raise AdoptError(f"{where}: expected an offset and a length, got {entry}") from None
    descriptor = _open_plain(source / name, where)
    with os.fdopen(descriptor, "rb") as data:
        size = os.fstat(data.fileno()).st_size
        if length != wanted or start < 0 or start + length > size:
            raise AdoptError(
                f"{where}: expected {wanted} bytes for shape {list(tensor.dims)}, got {length} at "
                f"{start} of {name}, which has {size}: export it again, both files together"
            )
        data.seek(start)
        if left := _copy(data, file, length):
            raise AdoptError(f"{where}: expected {left} more bytes in {name}, the file ends")


def _copy(source: IO[bytes], target: IO[bytes], length: int) -> int:
    """Copy bytes from where the source stands; return how many it lacks."""
    left = length
    while left and (part := source.read(min(left, _CHUNK_BYTES))):
        target.write(part)
        left -= len(part)
    return left


def _field_head(number: int, size: int) -> bytes:
    """Return what stands before the bytes of a protobuf field: its number and its size."""
    parts = bytearray([number << 3 | 2])
    while size >= 0x80:
        parts.append(size & 0x7F | 0x80)
        size >>= 7
    return bytes([*parts, size])


def _open_plain(path: Path, where: str) -> int:
    """Open a regular file; a link could lead out of the folder, a FIFO would never end."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        what = "a link" if path.is_symlink() else error.strerror
        raise AdoptError(
            f"{where}: expected its data in {path.name} beside the file, got {what}: copy both "
            "files together"
        ) from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise AdoptError(f"{where}: expected its data in {path.name}, got no regular file")
    return descriptor


def _size_bytes(tensor: onnx.TensorProto) -> int:
    values = 1
    for side in tensor.dims:
        values *= side
    if any(side < 0 for side in tensor.dims):
        raise AdoptError(f'tensor "{tensor.name}": expected a shape, got {list(tensor.dims)}')
    try:
        item_bytes = int(helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize)
    except (KeyError, TypeError, ValueError):
        raise AdoptError(
            f'tensor "{tensor.name}": expected a datatype of ONNX, got {tensor.data_type}'
        ) from None
    return values * item_bytes
