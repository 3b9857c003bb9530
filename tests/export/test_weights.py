"""Weights outside the graph: pairs of files, and what they must not do."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from export.adopt import Request, adopt
from export.errors import AdoptError
from export.options import Options
from export.screen import screen
from export.weights import FILE, write_whole
from models.onnx_file import summarize
from models.repository import ModelRepository
from scoring.local import LocalModel
from tests.export.foreign import LABELS, SIDE, foreign_model, foreign_probabilities

GIB = 1 << 30


def pair(folder: Path, *, padding: int = 0) -> Path:
    """A graph whose tensors all lie in ``net.onnx.data``, and one of 256 KiB that nothing needs."""
    model = foreign_model()
    large = onnx.numpy_helper.from_array(np.zeros(1 << 16, np.float32), "large")
    model.graph.initializer.append(large)
    path = folder / "net.onnx"
    onnx.save_model(
        model,
        path,
        save_as_external_data=True,
        location="net.onnx.data",
        size_threshold=0,
        convert_attribute=False,
    )
    with (folder / "net.onnx.data").open("ab") as file:
        file.write(bytes(padding))
    return path


def test_a_pair_is_adopted_as_one_file(tmp_path: Path, repository: ModelRepository) -> None:
    request = Request(pair(tmp_path), LABELS, Options(scale=1 / 255))
    artifact = adopt(request, "pair", repository)
    summary = summarize(repository.read_model(artifact, "model.onnx"))
    assert summary.external == ()
    images = np.random.default_rng(3).integers(0, 256, (5, SIDE, SIDE, 3), dtype=np.uint8)
    got = LocalModel.load(repository, "pair").run(list(images))
    expected = foreign_probabilities(images.transpose(0, 3, 1, 2) / 255)
    np.testing.assert_allclose(got, expected, rtol=0, atol=2e-6)


def test_weights_go_out_and_come_back(tmp_path: Path) -> None:
    path, out = pair(tmp_path), tmp_path / "out"
    out.mkdir()
    small = screen(path.read_bytes(), GIB, (tmp_path, out))
    assert (out / FILE).stat().st_size == 1 << 18
    assert small.ByteSize() < 10_000
    write_whole(small, out, tmp_path / "whole.onnx")
    whole = onnx.load(tmp_path / "whole.onnx", load_external_data=False)
    expected = {t.name: onnx.numpy_helper.to_array(t) for t in onnx.load(path).graph.initializer}
    for tensor in whole.graph.initializer:
        np.testing.assert_array_equal(onnx.numpy_helper.to_array(tensor), expected[tensor.name])


def change(path: Path, **entries: str) -> bytes:
    """Change where the first tensor says that its data lies."""
    model = onnx.load(path, load_external_data=False)
    tensor = model.graph.initializer[0]
    place = {entry.key: entry.value for entry in tensor.external_data} | entries
    tensor.ClearField("external_data")
    for key, value in place.items():
        tensor.external_data.add(key=key, value=value)
    return bytes(model.SerializeToString())


@pytest.mark.parametrize(
    ("entries", "reason"),
    [
        ({"location": "/etc/passwd"}, "in the same folder, got '/etc/passwd'"),
        ({"location": "../net.onnx.data"}, r"in the same folder, got '\.\./net"),
        ({"location": ""}, "in the same folder, got ''"),
        ({"location": "missing.data"}, "missing.data beside the file, got No such file"),
        ({"location": "link.data"}, "link.data beside the file, got a link"),
        ({"location": "pipe.data"}, "got no regular file"),
        ({"location": "folder.data"}, "got no regular file"),
        ({"length": "8"}, "expected 1728 bytes for shape"),
        ({"offset": "99999999"}, "export it again, both files together"),
        ({"offset": "-4"}, "export it again, both files together"),
        ({"offset": "x"}, "expected an offset and a length"),
    ],
)
def test_data_that_lies_elsewhere_is_refused(
    tmp_path: Path, entries: dict[str, Any], reason: str
) -> None:
    path, out = pair(tmp_path), tmp_path / "out"
    out.mkdir()
    (tmp_path / "link.data").symlink_to(tmp_path / "net.onnx.data")
    os.mkfifo(tmp_path / "pipe.data")
    (tmp_path / "folder.data").mkdir()
    with pytest.raises(AdoptError, match=reason) as caught:
        screen(change(path, **entries), GIB, (tmp_path, out))
    assert "\n" not in str(caught.value)


def test_data_of_a_tensor_inside_a_node_is_refused(tmp_path: Path) -> None:
    path, out = pair(tmp_path), tmp_path / "out"
    out.mkdir()
    model = onnx.load(path, load_external_data=False)
    value = TensorProto()
    value.CopyFrom(model.graph.initializer[0])
    model.graph.node.append(onnx.helper.make_node("Constant", [], ["c"], value=value))
    with pytest.raises(AdoptError, match="expected all data inside the file"):
        screen(model.SerializeToString(), GIB, (tmp_path, out))


def test_more_than_a_file_can_hold_is_refused_before_it_is_read(tmp_path: Path) -> None:
    path, out = pair(tmp_path), tmp_path / "out"
    out.mkdir()
    model = onnx.load(path, load_external_data=False)
    large = next(each for each in model.graph.initializer if each.name == "large")
    large.dims[:] = [1 << 28]
    for number in range(2):
        tensor = model.graph.initializer.add()
        tensor.CopyFrom(large)
        tensor.name = f"large{number}"
    with pytest.raises(AdoptError, match="less than 2048 MiB with all weights, got 3072"):
        screen(model.SerializeToString(), 4 * GIB, (tmp_path, out))
    assert not (out / FILE).exists()
