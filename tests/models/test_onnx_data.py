"""Weights beside a graph: what a version with a data file must be, and what is refused."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from models.artifact import ArtifactError, ModelArtifact
from models.describe import describe, list_entries
from models.onnx_data import DataFile, data_bytes
from models.onnx_file import OnnxFileError, check_self_contained, summarize
from models.repository import ModelRepository
from service.rollout.loading import LoadOptions, load
from tests.tiny import build_tiny, random_images, tiny_logits, tiny_model

DATA = "model.onnx.data"
PAGE = 4096


@pytest.fixture
def repository(tmp_path: Path) -> ModelRepository:
    return ModelRepository(tmp_path)


def take_out(model: onnx.ModelProto, **entries: str) -> bytes:
    """Move the largest initializer out of a graph, to the second page of its file; return both."""
    tensor = max(model.graph.initializer, key=lambda each: len(each.raw_data))
    content: bytes = bytes(PAGE) + tensor.raw_data
    place = {"location": DATA, "offset": str(PAGE), "length": str(len(tensor.raw_data))}
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (place | entries).items():
        tensor.external_data.add(key=key, value=value)
    return content


def publish_apart(repository: ModelRepository, **entries: str) -> ModelArtifact:
    """Publish a tiny model, its largest tensor in a data file; ``entries`` say where it lies."""
    model = tiny_model(is_slow=True)
    content = take_out(model, **entries)

    def build(folder: Path, version: int) -> ModelArtifact:
        artifact = build_tiny(folder, "tiny", version, model)
        (folder / DATA).write_bytes(content)
        data = DataFile(DATA, hashlib.sha256(content).hexdigest(), len(content))
        return replace(artifact, files=(replace(artifact.files[0], data=data),))

    return repository.publish("tiny", build)


def test_a_version_with_a_data_file_loads_and_answers(repository: ModelRepository) -> None:
    published = publish_apart(repository)
    artifact = repository.verify("tiny", 1)
    assert artifact == published
    assert set(artifact.digests) >= {"model.onnx", DATA}
    session = load(repository, "tiny", 1, LoadOptions(threads=1)).session
    images = random_images(5)
    np.testing.assert_array_equal(session.run(images).logits, tiny_logits(images))
    assert repository.read_file(artifact, DATA)[:PAGE] == bytes(PAGE)


def test_people_are_told_of_it(repository: ModelRepository) -> None:
    artifact = publish_apart(repository)
    assert any(f"{DATA}: its weights, " in text for _, text in describe(artifact))
    (entry,) = list_entries(repository)
    whole = sum((repository.path("tiny", 1) / path).stat().st_size for path in ("model.onnx", DATA))
    assert entry.size_bytes == whole


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def link(path: Path) -> None:
    elsewhere = path.parent.parent.parent / "elsewhere"
    path.rename(elsewhere)
    path.symlink_to(elsewhere)


def make_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize(
    ("harm", "reason"),
    [
        (flip, "expected the sha256 .* of model.json, got another"),
        (lambda path: path.write_bytes(path.read_bytes()[:-1]), "528383 bytes, not 528384"),
        (Path.unlink, "got No such file"),
        (link, "got a link"),
        (make_folder, "got a folder"),
    ],
)
def test_data_that_is_not_what_was_published(
    repository: ModelRepository, harm: Callable[[Path], None], reason: str
) -> None:
    publish_apart(repository)
    harm(repository.path("tiny", 1) / DATA)
    checks: list[Callable[[str, int], object]] = [
        repository.verify,
        lambda name, version: load(repository, name, version, LoadOptions()),
    ]
    for check in checks:
        with pytest.raises(ArtifactError, match=rf"tiny/1/{DATA}: .*{reason}.*; publish") as caught:
            check("tiny", 1)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("entries", "reason"),
    [
        ({"location": "/etc/passwd"}, "expected location model.onnx.data, offset, length, got '"),
        ({"location": "../1/" + DATA}, "expected location"),
        ({"location": "./" + DATA}, "expected location"),
        ({"location": "model.onnx"}, "expected location"),
        ({"location": "*/_ORT_MEM_ADDR_/*"}, "expected location"),
        ({"checksum": "0" * 40}, "expected location"),
        ({"offset": "-1"}, "expected an offset and a length"),
        ({"offset": "1e3"}, "expected an offset and a length"),
        ({"length": ""}, "expected an offset and a length"),
        ({"length": "9" * 30}, "expected an offset and a length"),
        ({"offset": "4097"}, "expected 524288 bytes for its shape within the 528384 of"),
        ({"length": "524284"}, "got 524284 at 4096"),
    ],
)
def test_tensors_that_do_not_lie_in_the_data_file(
    repository: ModelRepository, entries: dict[str, str], reason: str
) -> None:
    with pytest.raises(ArtifactError, match=rf'tensor "zeros": .*{reason}') as caught:
        publish_apart(repository, **entries)
    assert "\n" not in str(caught.value)
    assert repository.versions("tiny") == []


def apart(change: Callable[[onnx.ModelProto], None]) -> bytes:
    model = tiny_model(is_slow=True)
    take_out(model)
    change(model)
    return bytes(model.SerializeToString())


def outside(model: onnx.ModelProto) -> TensorProto:
    """A copy of the tensor that lies outside."""
    tensor = TensorProto()
    tensor.CopyFrom(next(t for t in model.graph.initializer if t.external_data))
    return tensor


def twice_the_key(model: onnx.ModelProto) -> None:
    stored = next(t for t in model.graph.initializer if t.external_data)
    stored.external_data.add(key="location", value=DATA)


def the_same_bytes_twice(model: onnx.ModelProto) -> None:
    tensor = outside(model)
    tensor.name = "again"
    model.graph.initializer.append(tensor)


def inside_a_node(model: onnx.ModelProto) -> None:
    model.graph.node.append(helper.make_node("Constant", [], ["c"], value=outside(model)))


def texts(model: onnx.ModelProto) -> None:
    next(t for t in model.graph.initializer if t.external_data).data_type = TensorProto.STRING


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (twice_the_key, "expected location"),
        (the_same_bytes_twice, "which overlap"),
        (inside_a_node, "got external data for tensor 'zeros'"),
        (texts, "expected -1 bytes"),
    ],
)
def test_graphs_that_use_the_data_file_otherwise(
    change: Callable[[onnx.ModelProto], None], reason: str
) -> None:
    data = DataFile(DATA, "", PAGE + (1 << 19))
    check_self_contained(summarize(apart(lambda _: None)), data)
    with pytest.raises(OnnxFileError, match=reason):
        check_self_contained(summarize(apart(change)), data)


def test_without_a_data_file_nothing_is_outside() -> None:
    with pytest.raises(OnnxFileError, match="external data for tensor 'zeros'"):
        check_self_contained(summarize(apart(lambda _: None)))


@pytest.mark.parametrize("path", ["other/model.onnx.data", "../model.onnx.data"])
def test_the_data_file_is_beside_its_graph(repository: ModelRepository, path: str) -> None:
    publish_apart(repository)
    file = repository.path("tiny", 1) / "model.json"
    document = json.loads(file.read_text())
    document["files"][0]["data"]["path"] = path
    file.write_text(json.dumps(document))
    with pytest.raises(ArtifactError, match="expected"):
        repository.load("tiny", 1)


def test_a_version_without_one_says_nothing_of_it(repository: ModelRepository) -> None:
    """An earlier release reads it."""
    publish_apart(repository)
    assert '"data"' in (repository.path("tiny", 1) / "model.json").read_text()
    repository.publish("tiny", lambda folder, v: build_tiny(folder, "tiny", v, tiny_model()))
    assert '"data"' not in (repository.path("tiny", 2) / "model.json").read_text()


@pytest.mark.parametrize(
    ("datatype", "sides", "expected"),
    [
        (TensorProto.FLOAT, [3, 5], 60),
        (TensorProto.FLOAT, [], 4),
        (TensorProto.BFLOAT16, [7], 14),
        (TensorProto.INT4, [3], 2),
        (TensorProto.FLOAT8E4M3FN, [9], 9),
        (TensorProto.FLOAT, [-1], -1),
        (TensorProto.STRING, [1], -1),
        (TensorProto.FLOAT, [1] * 65, -1),
    ],
)
def test_bytes_of_external_data(datatype: int, sides: list[int], expected: int) -> None:
    assert data_bytes(datatype, sides) == expected
