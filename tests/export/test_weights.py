"""Weights outside the graph: pairs of files, and what they must not do."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import TensorProto

from export import examine
from export.adopt import Request, adopt
from export.errors import AdoptError
from export.examine import Wanted
from export.options import Options
from export.sandbox import Bounds
from export.screen import screen
from export.weights import FILE, MAX_BYTES, write_whole
from models.image import encode_png
from models.machine import available_memory
from models.onnx_file import summarize
from models.repository import ModelRepository
from scoring.local import LocalModel
from tests.export.foreign import LABELS, SIDE, foreign_model, foreign_probabilities
from tests.server import running_server

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


def test_weights_that_the_disk_cannot_hold_are_refused_before_they_are_read(tmp_path: Path) -> None:
    path, out = pair(tmp_path), tmp_path / "out"
    out.mkdir()
    model = onnx.load(path, load_external_data=False)
    large = next(each for each in model.graph.initializer if each.name == "large")
    large.dims[:] = [1 << 60]
    with pytest.raises(AdoptError, match=r"expected \d+ MiB free in .* for a copy of its weights"):
        screen(model.SerializeToString(), 1 << 63, (tmp_path, out))
    assert not (out / FILE).exists()


# Weights that one ONNX file cannot hold


def used_pair(folder: Path) -> Path:
    """A pair whose answer needs 320 KiB of weights: half of its scores come from a wide layer."""
    model = foreign_model()
    generator = np.random.default_rng(4)
    wide = generator.normal(0, 0.05, (16, 4096)).astype(np.float32)
    narrow = generator.normal(0, 0.05, (4096, 4)).astype(np.float32)
    for name, array in (("wide", wide), ("narrow", narrow)):
        model.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    for node in model.graph.node:
        node.output[:] = ["half" if name == "scores" else name for name in node.output]
    at = next(i for i, node in enumerate(model.graph.node) if "half" in node.output)
    nodes = [
        onnx.helper.make_node("MatMul", ["flat", "wide"], ["between"]),
        onnx.helper.make_node("Tanh", ["between"], ["bent2"]),
        onnx.helper.make_node("MatMul", ["bent2", "narrow"], ["other"]),
        onnx.helper.make_node("Add", ["half", "other"], ["scores"]),
    ]
    kept = [*model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend([*kept[: at + 1], *nodes, *kept[at + 1 :]])
    path = folder / "net.onnx"
    onnx.save_model(
        model, path, save_as_external_data=True, location="net.onnx.data", convert_attribute=False
    )
    return path


def answers(path: Path, images: NDArray[np.uint8], scale: float = 1 / 255) -> NDArray[np.float64]:
    """What the foreign graph answers, by onnxruntime alone."""
    pixels = (images.transpose(0, 3, 1, 2) * np.float32(scale)).astype(np.float32)
    logits = onnxruntime.InferenceSession(path).run(None, {"data": pixels})[0].astype(np.float64)
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


@pytest.mark.parametrize("batch", ["free", pytest.param("by row", marks=pytest.mark.thorough)])
def test_weights_beyond_one_file_are_published_beside_the_graph(
    tmp_path: Path, repository: ModelRepository, batch: str
) -> None:
    path = used_pair(tmp_path)
    if batch == "by row":
        model = onnx.load(path, load_external_data=False)
        model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
        model.graph.output[0].type.tensor_type.shape.dim[0].dim_value = 1
        path.write_bytes(model.SerializeToString())
    request = Request(path, LABELS, Options(scale=1 / 255), max_bytes=1 << 18)
    artifact = adopt(request, "apart", repository)
    folder = repository.path("apart", 1)
    assert sorted(each.name for each in folder.iterdir() if each.is_file()) == [
        "model.json",
        "model.onnx",
        "model.onnx.data",
    ]
    assert (folder / "model.onnx").stat().st_size < 20_000
    data = artifact.fp32.data
    assert data is not None
    assert data.size_bytes == (folder / data.path).stat().st_size == 5 << 16
    assert (folder / data.path).stat().st_nlink == 1
    assert repository.verify("apart", 1) == artifact
    images = np.random.default_rng(3).integers(0, 256, (5, SIDE, SIDE, 3), dtype=np.uint8)
    got = LocalModel.load(repository, "apart").run(list(images))
    expected = np.concatenate([answers(path, row[None]) for row in images])
    np.testing.assert_allclose(got, expected, rtol=0, atol=2e-6)
    whole = adopt(replace(request, max_bytes=MAX_BYTES), "whole", repository)
    assert whole.fp32.data is None
    assert [golden.probabilities for golden in whole.golden] == [
        golden.probabilities for golden in artifact.golden
    ]


@pytest.mark.thorough
def test_a_version_with_a_data_file_is_adopted_again_and_compared(
    tmp_path: Path, repository: ModelRepository
) -> None:
    """Its pair is one that ``adopt`` takes; and as the serving version it answers the images."""
    path, pictures = used_pair(tmp_path), tmp_path / "pictures"
    request = Request(path, LABELS, Options(scale=1.0), max_bytes=1 << 18)
    adopt(request, "apart", repository)
    again = Request(repository.path("apart", 1) / "model.onnx", max_bytes=1 << 18)
    assert adopt(again, "again", repository).fp32.data is not None
    colours = np.random.default_rng(5).integers(0, 256, (40, 1, 1, 3), dtype=np.uint8)
    images = np.broadcast_to(colours, (40, SIDE, SIDE, 3)).copy()
    for number, row in enumerate(answers(path, images, 1.0)):
        (pictures / LABELS[row.argmax()]).mkdir(parents=True, exist_ok=True)
        png = encode_png(images[number])
        (pictures / LABELS[row.argmax()] / f"{number}.png").write_bytes(png)
    labelled = replace(request, images=(pictures,))
    metrics = adopt(labelled, "apart", repository).metrics
    assert metrics is not None and metrics.accuracy == 1
    onnx.save(foreign_model(), tmp_path / "worse.onnx")
    with pytest.raises(AdoptError, match=r"apart:2 serves and is right on 100\.00%"):
        adopt(replace(labelled, file=tmp_path / "worse.onnx"), "apart", repository)


def test_weights_that_cannot_be_converted_are_said_before_anything_runs(
    tmp_path: Path, repository: ModelRepository, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(examine, "MAX_BYTES", 1 << 18)
    request = Request(used_pair(tmp_path), LABELS, Options(scale=1 / 255))
    wanted = replace(request, wanted=Wanted(precisions=("fp16",)))
    with pytest.raises(AdoptError, match="precision fp16: expected less than 0 MiB with all"):
        adopt(wanted, "apart", repository)


def test_memory_grows_with_the_weights_unless_it_was_given() -> None:
    memory = available_memory()
    assert Bounds().beside(0) == Bounds()
    assert Bounds().beside(GIB) == Bounds()
    assert Bounds(GIB, is_given=True).beside(8 * GIB).memory_bytes == GIB
    wanted = min(memory, 11 * GIB)
    assert Bounds().beside(4 * GIB).memory_bytes == max(wanted, 4 * GIB)
    assert Bounds().beside(1 << 50).memory_bytes == max(memory, 4 * GIB)


@pytest.mark.slow
def test_more_than_two_gib_are_adopted_verified_and_served(
    tmp_path: Path, repository: ModelRepository
) -> None:
    """Three tables of uint8, 2.25 GiB; the brightest pixel chooses a row of each."""
    columns, tables = 3 << 20, 3
    nodes: list[Any] = [
        onnx.helper.make_node("ReduceMax", ["data"], ["brightest"], axes=[1, 2, 3], keepdims=0),
        onnx.helper.make_node("Cast", ["brightest"], ["row"], to=TensorProto.INT64),
    ]
    constants = [onnx.numpy_helper.from_array(np.arange(4, dtype=np.int64), "first")]
    for number in range(tables):
        table = TensorProto(name=f"table{number}", data_type=TensorProto.UINT8)
        table.dims[:] = [256, columns]
        table.data_location = TensorProto.EXTERNAL
        length = 256 * columns
        for key, value in (
            ("location", "net.onnx.data"),
            ("offset", number * length),
            ("length", length),
        ):
            table.external_data.add(key=key, value=str(value))
        constants.append(table)
        nodes += [
            onnx.helper.make_node("Gather", [table.name, "row"], [f"all{number}"], axis=0),
            onnx.helper.make_node("Gather", [f"all{number}", "first"], [f"few{number}"], axis=1),
            onnx.helper.make_node(
                "Cast", [f"few{number}"], [f"part{number}"], to=TensorProto.FLOAT
            ),
        ]
    nodes.append(onnx.helper.make_node("Sum", [f"part{n}" for n in range(tables)], ["logits"]))
    tensor = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        nodes,
        "tables",
        [tensor("data", TensorProto.FLOAT, ["N", 3, SIDE, SIDE])],
        [tensor("logits", TensorProto.FLOAT, ["N", 4])],
        constants,
    )
    opset = [onnx.helper.make_opsetid("", 17)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=opset, ir_version=8), tmp_path / "n.onnx")
    scores = np.random.default_rng(6).integers(0, 4, (tables, 256, 4), dtype=np.uint8)
    with (tmp_path / "net.onnx.data").open("wb") as file:  # the rest is a hole
        file.truncate(tables * 256 * columns)
        for place in np.ndindex(tables, 256):
            file.seek((place[0] * 256 + place[1]) * columns)
            file.write(scores[place].tobytes())
    artifact = adopt(Request(tmp_path / "n.onnx", LABELS, Options(scale=1.0)), "tables", repository)
    assert artifact.fp32.data is not None
    assert artifact.fp32.data.size_bytes > 2 * GIB
    images = [np.full((SIDE, SIDE, 3), level, np.uint8) for level in (0, 7, 255)]
    logits = scores.sum(axis=0, dtype=np.float64)[[0, 7, 255]]
    expected = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    got = LocalModel.load(repository, "tables").run(images)
    np.testing.assert_allclose(got, expected, rtol=0, atol=2e-6)
    with running_server(repository.root, tmp_path) as server:
        answer = httpx.post(f"{server.url}/predict", content=encode_png(images[1])).json()
        best = answer["results"][0]["predictions"][0]
        assert best["probability"] == pytest.approx(expected[1].max(), abs=1e-5)
        assert server.rss_mib() < 2048
