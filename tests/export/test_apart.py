"""A foreign file read without its weights in memory is the same file."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper

from export.apart import read_apart
from export.errors import AdoptError
from export.screen import screen
from export.weights import FILE, write_whole
from tests.export.foreign import foreign_model
from tests.server import ROOT

GIB = 1 << 30


def with_weights(*arrays: np.ndarray) -> onnx.ModelProto:  # type: ignore[type-arg]
    """A graph with initializers that nothing needs."""
    model = foreign_model()
    for number, array in enumerate(arrays):
        model.graph.initializer.append(numpy_helper.from_array(array, f"added{number}"))
    return model


def write(folder: Path, content: bytes) -> Path:
    path = folder / "net.onnx"
    path.write_bytes(content)
    return path


def random(*shape: int) -> np.ndarray:  # type: ignore[type-arg]
    return np.random.default_rng(len(shape)).standard_normal(shape).astype(np.float32)


def test_large_tensors_are_moved_and_come_back(tmp_path: Path) -> None:
    model = with_weights(random(300, 100), random(7), random(1 << 15), random(1 << 14))
    path, out = write(tmp_path, model.SerializeToString()), tmp_path / "out"
    out.mkdir()
    content = read_apart(path, out)
    assert len(content) < 20_000
    assert (out / FILE).stat().st_size >= 4 * (30_000 + (1 << 15) + (1 << 14))
    small = screen(content, GIB, (tmp_path, out))
    moved = [t for t in small.graph.initializer if t.data_location == TensorProto.EXTERNAL]
    assert [t.name for t in moved] == ["added0", "added2", "added3"]
    assert all(int(t.external_data[1].value) % 4096 == 0 for t in moved), "each begins at a page"
    write_whole(small, out, tmp_path / "whole.onnx")
    whole = onnx.load(tmp_path / "whole.onnx")
    expected = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    assert {t.name for t in whole.graph.initializer} == set(expected)
    for tensor in whole.graph.initializer:
        np.testing.assert_array_equal(numpy_helper.to_array(tensor), expected[tensor.name])
    assert whole.graph.node == model.graph.node


def test_what_is_beside_the_file_is_kept_beside_what_is_in_it(tmp_path: Path) -> None:
    """Both kinds in one file, and the same name for the file of the data."""
    model, out = with_weights(random(1 << 15), random(1 << 15)), tmp_path / "out"
    out.mkdir()
    outside = model.graph.initializer[-1]
    (tmp_path / FILE).write_bytes(outside.raw_data)
    expected = numpy_helper.to_array(outside)
    outside.ClearField("raw_data")
    outside.data_location = TensorProto.EXTERNAL
    outside.external_data.add(key="location", value=FILE)
    path = write(tmp_path, model.SerializeToString())
    small = screen(read_apart(path, out), GIB, (tmp_path, out))
    write_whole(small, out, tmp_path / "whole.onnx")
    (got,) = (t for t in onnx.load(tmp_path / "whole.onnx").graph.initializer if t.name == "added1")
    np.testing.assert_array_equal(numpy_helper.to_array(got), expected)


def twice(model: onnx.ModelProto) -> bytes:
    """Two graphs, which protobuf merges."""
    content: bytes = model.SerializeToString()
    return content + content


def too_short(model: onnx.ModelProto) -> bytes:
    model.graph.initializer[-1].dims[:] = [1 << 16]
    return bytes(model.SerializeToString())


def cut(model: onnx.ModelProto) -> bytes:
    return bytes(model.SerializeToString()[:-1000])


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (twice, "one graph, found two"),
        (too_short, 'tensor "added0": expected 262144 bytes for shape .65536., got 131072'),
        (cut, "expected an ONNX model"),
        (lambda _: b"", "found none"),
        (lambda _: b"PK\x03\x04" + bytes(1 << 17), "got a pickle or an archive of one"),
        (lambda _: b"\x80\x02" + bytes(1 << 17), "got a pickle or an archive of one"),
        (lambda _: b"<html>" * 20_000, "expected an ONNX model"),
    ],
)
def test_files_that_are_wrong_are_refused_as_before(
    tmp_path: Path, spoil: object, reason: str
) -> None:
    assert callable(spoil)
    path, out = write(tmp_path, spoil(with_weights(random(1 << 15)))), tmp_path / "out"
    out.mkdir()
    with pytest.raises(AdoptError, match=reason) as caught:
        screen(read_apart(path, out), GIB, (tmp_path, out))
    assert "\n" not in str(caught.value)


def test_two_data_of_one_tensor_stay_where_they_are(tmp_path: Path) -> None:
    """Protobuf takes the last one."""
    model, out = with_weights(random(1 << 15)), tmp_path / "out"
    out.mkdir()
    tensor = model.graph.initializer[-1]
    first, last = TensorProto(raw_data=b"\1" * (1 << 17)), tensor.SerializeToString()
    content = first.SerializeToString() + last
    del model.graph.initializer[:]
    graph = model.graph.SerializeToString()
    graph += bytes([5 << 3 | 2]) + varint(len(content)) + content
    model.ClearField("graph")
    whole = model.SerializeToString() + bytes([7 << 3 | 2]) + varint(len(graph)) + graph
    read = onnx.load_from_string(read_apart(write(tmp_path, whole), out))
    assert read.graph.initializer[-1].raw_data == tensor.raw_data
    assert (out / FILE).stat().st_size == 0


def varint(number: int) -> bytes:
    parts = bytearray()
    while number >= 0x80:
        parts.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*parts, number])


PEAK = """
import sys
from pathlib import Path
from export.adopt import Request, adopt
from export.options import Options
from models.repository import ModelRepository
def peak():
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) * 1024
before = peak()
folder = Path(sys.argv[1])
adopt(Request(folder / "net.onnx", ("a", "b", "c", "d"), Options(scale=1.0)), "large",
      ModelRepository(folder / "models"))
print(peak() - before)
"""


@pytest.mark.thorough
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_adoption_does_not_hold_the_weights(tmp_path: Path) -> None:
    """It did four times: bytes, what protobuf parsed, and what it kept on the way."""
    model = with_weights(*(random(1 << 22) for _ in range(6)))
    path = write(tmp_path, model.SerializeToString())
    done = subprocess.run(
        [sys.executable, "-c", PEAK, tmp_path], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert int(done.stdout) < 1.5 * path.stat().st_size
