"""The weights of a foreign graph, kept in one file beside it: the graph in memory stays small.

A graph is copied, changed and serialized several times on its way to a version; its weights are
read once and written once. Data that a file keeps beside itself (``.onnx.data``) goes the same way.
A version's graph holds its weights, unless they are too large for one file: then both stay apart.
"""

import io
import os
import secrets
import shutil
import stat
from pathlib import Path
from typing import IO

import onnx
from onnx import TensorProto

from export.errors import AdoptError
from models.files import hash_file
from models.onnx_data import DataFile, data_bytes

FILE = "model.onnx.data"
# protobuf's limit, less what its messages add to the weights; a larger model is two files.
MAX_BYTES = (2 << 30) - (64 << 20)
# Constants that the graph's own structure needs, such as shapes, are smaller and stay inside it.
LEAST_BYTES = 1 << 16
_CHUNK_BYTES = 1 << 24
# Where tensors say that their data is, from ``apart`` until ``move_out``: no file has such a name,
# and none that was made before can say it.
_MOVED = f"\0{secrets.token_hex(16)}"
# Where tensors begin: onnxruntime maps pages of the file.
_PAGE_BYTES = 4096


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
            tensor; or more than the disk can hold.
    """
    total, free = size_bytes(model), shutil.disk_usage(folder).free
    if total > free:
        raise AdoptError(
            f"expected {total >> 20} MiB free in {folder.parent} for a copy of its weights, got "
            f"{free >> 20}: set TMPDIR to a folder on a larger disk"
        )
    with (folder / FILE).open("ab") as file:
        for tensor in model.graph.initializer:
            if moved_bytes(tensor) is not None:
                place = _place(tensor)
                refer(tensor, int(place["offset"]), int(place["length"]))
                continue
            start = _begin(file)
            if tensor.data_location == TensorProto.EXTERNAL:
                _copy_external(tensor, source, file)
            elif len(tensor.raw_data) >= LEAST_BYTES:
                file.write(tensor.raw_data)
                tensor.ClearField("raw_data")
            else:
                continue
            refer(tensor, start, file.tell() - start)
    small = onnx.ModelProto()
    small.CopyFrom(model)  # protobuf frees a message's memory only with the message
    return small


def moved_bytes(tensor: onnx.TensorProto) -> int | None:
    """Return the size of data that ``apart`` has moved, None of any other tensor."""
    place = _place(tensor)
    return int(place["length"]) if place.get("location") == _MOVED else None


def append(source: IO[bytes], target: IO[bytes], length: int) -> int:
    """Copy bytes from where the source stands to a page of the target; return its offset."""
    start = _begin(target)
    _copy(source, target, length)
    return start


def refer(tensor: onnx.TensorProto, start: int, length: int, *, is_moved: bool = False) -> None:
    """Have a tensor's data lie at a place of ``FILE``; moved: until ``move_out`` checks it."""
    tensor.ClearField("external_data")
    tensor.data_location = TensorProto.EXTERNAL
    location = _MOVED if is_moved else FILE
    for key, value in (("location", location), ("offset", start), ("length", length)):
        tensor.external_data.add(key=key, value=str(value))


def _place(tensor: onnx.TensorProto) -> dict[str, str]:
    return {entry.key: entry.value for entry in tensor.external_data}


def _begin(file: IO[bytes]) -> int:
    """Fill a file up to its next page; return where that is."""
    file.write(bytes(-file.tell() % _PAGE_BYTES))
    return file.tell()


def size_bytes(model: onnx.ModelProto) -> int:
    """Return the size of a graph with all its weights, wherever they lie.

    Raises:
        AdoptError: A tensor outside it has no datatype or shape that ONNX knows.
    """
    return int(model.ByteSize()) + sum(
        _size_bytes(tensor)
        for tensor in model.graph.initializer
        if tensor.data_location == TensorProto.EXTERNAL
    )


def write(
    model: onnx.ModelProto, folder: Path, path: Path, max_bytes: int = MAX_BYTES
) -> DataFile | None:
    """Write a graph whose weights are in ``folder``, and never hold them in memory.

    Args:
        model: The graph.
        folder: Folder of its weights.
        path: File to write.
        max_bytes: Size from which the weights stay in a file of their own, beside ``path``.

    Returns:
        That file; None: the weights are inside.
    """
    if size_bytes(model) < max_bytes:
        write_whole(model, folder, path)
        return None
    link(folder, path.parent)
    path.write_bytes(model.SerializeToString())
    size = (path.parent / FILE).stat().st_size
    return DataFile(FILE, hash_file(path.parent / FILE, size), size)


def read_small(model: onnx.ModelProto, source: Path) -> None:
    """Read the small initializers that lie outside a file into its graph.

    Args:
        model: The graph; is changed.
        source: Folder of the file.

    Raises:
        AdoptError: As ``move_out``.
    """
    for tensor in model.graph.initializer:
        is_outside = tensor.data_location == TensorProto.EXTERNAL and moved_bytes(tensor) is None
        if is_outside and _size_bytes(tensor) < LEAST_BYTES:
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
        bare, place = onnx.TensorProto(), _place(tensor)
        bare.CopyFrom(tensor)
        if tensor.data_location != TensorProto.EXTERNAL:
            graph.initializer.append(bare)
            continue
        bare.ClearField("external_data")
        bare.ClearField("data_location")
        offset, length = int(place["offset"]), int(place["length"])
        content = bare.SerializeToString() + field_head(9, length)  # raw_data
        head = field_head(5, len(content) + length)  # initializer
        tensors.append((head + content, offset, length))
    rest = graph.SerializeToString()
    size = len(rest) + sum(len(head) + length for head, _, length in tensors)
    with (folder / FILE).open("rb") as data, path.open("wb") as file:
        file.write(small.SerializeToString() + field_head(7, size) + rest)  # graph
        for head, offset, length in tensors:
            file.write(head)
            data.seek(offset)
            _copy(data, file, length)


def link(folder: Path, other: Path) -> None:
    """Let a graph in another folder find the weights of ``folder``: a link, or else a copy."""
    if (folder / FILE).exists():
        try:
            os.link(folder / FILE, other / FILE)
        except OSError:  # another disk, or one without links
            shutil.copyfile(folder / FILE, other / FILE)


def _copy_external(tensor: onnx.TensorProto, source: Path, file: IO[bytes]) -> None:
    """Copy one tensor's data from the file that its entry names."""
    where = f'tensor "{tensor.name}"'
    entry = _place(tensor)
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


def field_head(number: int, size: int) -> bytes:
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
    found = data_bytes(tensor.data_type, tensor.dims)
    if found < 0:
        raise AdoptError(
            f'tensor "{tensor.name}": expected numbers and a shape, got datatype '
            f"{tensor.data_type} and {list(tensor.dims)[:8]}"
        )
    return found
