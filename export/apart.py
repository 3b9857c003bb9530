"""Read a foreign ONNX file without its weights in memory: they go from file to file.

protobuf holds a parsed file several times over. Here only the heads of its messages are read, and
the large tensors of its graph are copied to ``weights.FILE``; what is left is parsed as any file.
"""

import mmap
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from google.protobuf.message import DecodeError
from onnx import TensorProto

from export.weights import FILE, LEAST_BYTES, append, field_head, refer
from models.onnx_file import OnnxFileError, spans

# Numbers of fields, from onnx.proto3: of a model, a graph and a tensor.
_GRAPH, _INITIALIZER, _RAW_DATA, _OUTSIDE = 7, 5, 9, (13, 14)


def read_apart(path: Path, folder: Path) -> bytes:
    """Read a file; the large initializers of its graph go to ``folder / FILE``.

    Args:
        path: ONNX file, not trusted.
        folder: Where the weights go.

    Returns:
        The file with tensors that say where ``screen`` finds their data; as it is, if it is no
        ONNX file or has no such tensors.

    Raises:
        OSError: It cannot be read.
    """
    with path.open("rb") as source, (folder / FILE).open("wb") as target:
        try:
            view = memoryview(mmap.mmap(source.fileno(), 0, access=mmap.ACCESS_READ))
            return b"".join(_model(view, source, target))
        except (OnnxFileError, DecodeError, ValueError):  # an empty file cannot be mapped
            target.truncate(0)
    return path.read_bytes()


def _model(model: memoryview, source: IO[bytes], target: IO[bytes]) -> Iterator[bytes]:
    start = 0
    for end, number, value in spans(model):
        if number == _GRAPH and isinstance(value, memoryview):
            graph = b"".join(_graph(value, end - len(value), source, target))
            yield field_head(_GRAPH, len(graph)) + graph
        else:
            yield bytes(model[start:end])
        start = end


def _graph(graph: memoryview, at: int, source: IO[bytes], target: IO[bytes]) -> Iterator[bytes]:
    """Yield the fields of a graph that begins at a place of the source."""
    start = 0
    for end, number, value in spans(graph):
        tensor = None
        if number == _INITIALIZER and isinstance(value, memoryview):
            tensor = _tensor(value, at + end - len(value), source, target)
        if tensor is None:
            yield bytes(graph[start:end])
        else:
            content = tensor.SerializeToString()
            yield field_head(_INITIALIZER, len(content)) + content
        start = end


def _tensor(
    tensor: memoryview, at: int, source: IO[bytes], target: IO[bytes]
) -> TensorProto | None:
    """Copy a tensor's data; return it without, None if it has none that is large."""
    rest: list[bytes] = []
    data: tuple[int, int] | None = None
    start = 0
    for end, number, value in spans(tensor):
        if number in _OUTSIDE or (number == _RAW_DATA and data is not None):
            return None
        if number == _RAW_DATA and isinstance(value, memoryview):
            data = end - len(value), len(value)
        elif number == _RAW_DATA or end - start >= LEAST_BYTES:
            return None
        else:
            rest.append(bytes(tensor[start:end]))
        start = end
    if data is None or data[1] < LEAST_BYTES:
        return None
    bare: TensorProto = TensorProto.FromString(b"".join(rest))
    source.seek(at + data[0])
    refer(bare, append(source, target, data[1]), data[1], is_moved=True)
    return bare
