"""Every way in which a published directory can be wrong."""

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from models.artifact import ArtifactError, ModelArtifact, TensorSpec
from models.repository import ModelRepository
from tests.tiny import publish_tiny, tiny_model


def tree(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*"))


def rewrite_json(repository: ModelRepository, change: Callable[[dict], None]) -> None:  # type: ignore[type-arg]
    path = repository.path("tiny", 1) / "model.json"
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))


def publish_model(
    repository: ModelRepository, model: onnx.ModelProto, name: str = "tiny"
) -> ModelArtifact:
    return publish_tiny(repository.root, name, model)


# What can be wrong with a directory


def wrong_checksum(repository: ModelRepository) -> None:
    path = repository.path("tiny", 1) / "model.onnx"
    path.write_bytes(path.read_bytes() + b"\0")


def missing_model(repository: ModelRepository) -> None:
    (repository.path("tiny", 1) / "model.onnx").unlink()


def model_is_a_folder(repository: ModelRepository) -> None:
    missing_model(repository)
    (repository.path("tiny", 1) / "model.onnx").mkdir()


def missing_golden(repository: ModelRepository) -> None:
    (repository.path("tiny", 1) / "golden/5.png").unlink()


def wrong_golden(repository: ModelRepository) -> None:
    (repository.path("tiny", 1) / "golden/5.png").write_bytes(b"x")


def missing_json(repository: ModelRepository) -> None:
    (repository.path("tiny", 1) / "model.json").unlink()


def broken_json(repository: ModelRepository) -> None:
    (repository.path("tiny", 1) / "model.json").write_text('{"format": 1,')


def unknown_format(repository: ModelRepository) -> None:
    rewrite_json(repository, lambda d: d.update(format=3))


def label_too_many(repository: ModelRepository) -> None:
    rewrite_json(repository, lambda d: d["labels"].append("fifth"))


def renamed_version(repository: ModelRepository) -> None:
    shutil.copytree(repository.path("tiny", 1), repository.path("tiny", 2))
    shutil.rmtree(repository.path("tiny", 1))


WRONG: dict[Callable[[ModelRepository], None], str] = {
    wrong_checksum: r"model.onnx: expected the sha256 \w{12}… of model.json, got another; publish",
    missing_model: "model.onnx: expected a file, got No such file or directory; publish",
    model_is_a_folder: "model.onnx: expected a file, got a folder; publish",
    missing_golden: "golden/5.png: expected a file, got No such file",
    wrong_golden: "golden/5.png: expected the sha256",
    missing_json: "model.json: expected a file, got No such file",
    broken_json: "model.json: expected JSON, got .*; publish it again",
    unknown_format: "model.json: expected format 1 or 2, got 3",
    label_too_many: r"model.json: \$.outputs: expected .*for 5 labels",
    renamed_version: "expected tiny:2, got 'tiny:1'; versions are not copied or renamed by hand",
}


@pytest.mark.parametrize("spoil", WRONG, ids=lambda spoil: str(spoil.__name__))
def test_wrong_directory(
    repository: ModelRepository, spoil: Callable[[ModelRepository], None]
) -> None:
    publish_tiny(repository.root)
    spoil(repository)
    (version,) = repository.versions("tiny")
    with pytest.raises(ArtifactError, match=WRONG[spoil]) as refused:
        repository.verify("tiny", version)
    assert str(repository.root) in str(refused.value)
    assert "\n" not in str(refused.value)


def test_renamed_model(repository: ModelRepository) -> None:
    publish_tiny(repository.root)
    (repository.root / "tiny").rename(repository.root / "other")
    with pytest.raises(ArtifactError, match="expected other:1, got 'tiny:1'"):
        repository.load("other", 1)


def with_other_output_name() -> onnx.ModelProto:
    model = tiny_model()
    model.graph.output[1].name = "logits"
    model.graph.output[0].name = "probabilities"
    return model


def with_fixed_batch() -> onnx.ModelProto:
    model = tiny_model()
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    return model


def with_float_input() -> onnx.ModelProto:
    model = tiny_model()
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.FLOAT
    return model


def with_second_input() -> onnx.ModelProto:
    model = tiny_model()
    model.graph.input.append(onnx.helper.make_tensor_value_info("mask", TensorProto.BOOL, [1]))
    return model


def with_foreign_domain() -> onnx.ModelProto:
    model = tiny_model()
    model.opset_import.append(onnx.helper.make_opsetid("evil.corp", 1))
    return model


def with_external_data() -> onnx.ModelProto:
    model = tiny_model()
    tensor = onnx.numpy_helper.from_array(np.zeros(4096, np.float32), "weights")
    model.graph.initializer.append(tensor)
    onnx.external_data_helper.convert_model_to_external_data(model, location="weights.bin")
    for stored in model.graph.initializer:
        if stored.data_location == TensorProto.EXTERNAL:
            stored.ClearField("raw_data")
    return model


def without_graph() -> onnx.ModelProto:
    model = tiny_model()
    model.ClearField("graph")
    return model


GRAPHS = {
    with_other_output_name: "expected outputs logits FP32 .*, got probabilities FP32",
    with_fixed_batch: r"expected inputs images UINT8 \[-1, .*, got images UINT8 \[1, 8, 8, 1\]",
    with_float_input: "got images FP32",
    with_second_input: r"got images UINT8 .*, mask BOOL \[1\]",
    with_foreign_domain: "expected standard operators, got domain 'evil.corp'",
    with_external_data: "got external data for tensor 'weights'; export with external_data=False",
    without_graph: "expected an ONNX model with a graph, found none; publish",
}


@pytest.mark.parametrize("make", GRAPHS, ids=lambda make: str(make.__name__))
def test_graph_that_the_contract_refuses(
    repository: ModelRepository, make: Callable[[], onnx.ModelProto]
) -> None:
    """Refused before it is published; and, had it got there, before a runtime sees it."""
    with pytest.raises(ArtifactError, match=GRAPHS[make]):
        publish_model(repository, make())
    assert tree(repository.root) == []
    artifact = publish_tiny(repository.root)
    content = make().SerializeToString()
    (repository.path("tiny", 1) / "model.onnx").write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    smuggled = replace(artifact, files=(replace(artifact.files[0], sha256=digest),))
    with pytest.raises(ArtifactError, match=GRAPHS[make]):
        repository.read_model(smuggled, "model.onnx")


def test_random_bytes_as_a_model(repository: ModelRepository) -> None:
    artifact = publish_tiny(repository.root)
    content = b"\xff" * 100
    (repository.path("tiny", 1) / "model.onnx").write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    smuggled = replace(artifact, files=(replace(artifact.files[0], sha256=digest),))
    with pytest.raises(ArtifactError, match=r"model.onnx: expected .*; publish the model again"):
        repository.read_model(smuggled, "model.onnx")


def test_tensor_specs_compare_as_expected() -> None:
    assert TensorSpec("a", "UINT8", (1,)) == TensorSpec("a", "UINT8", (1,))
