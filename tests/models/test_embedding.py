"""The optional output ``embedding`` of a model, in ``model.json``."""

import json
from typing import Any

import pytest

from models.artifact import ArtifactError, ModelArtifact
from tests.tiny import build_tiny, tiny_model


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> ModelArtifact:
    return build_tiny(tmp_path_factory.mktemp("artifact"), "tiny", 3, tiny_model())


@pytest.fixture
def document(artifact: ModelArtifact) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(artifact.to_json())
    return loaded


def test_an_embedding_is_a_third_output(document: dict[str, Any]) -> None:
    spec: dict[str, Any] = {"name": "embedding", "datatype": "FP32", "shape": [-1, 64]}
    plain = ModelArtifact.from_json(json.dumps(document))
    document["outputs"].append(spec)
    artifact = ModelArtifact.from_json(json.dumps(document))
    assert (plain.embedding_width, artifact.embedding_width) == (0, 64)
    assert ModelArtifact.from_json(artifact.to_json()) == artifact
    for change in ({"name": "features"}, {"datatype": "FP16"}, {"shape": [-1]}, {"shape": [-1, 0]}):
        document["outputs"][2] = spec | change
        with pytest.raises(ArtifactError, match="outputs: expected"):
            ModelArtifact.from_json(json.dumps(document))
    document["outputs"][2:] = [spec, spec]
    with pytest.raises(ArtifactError, match="outputs: expected"):
        ModelArtifact.from_json(json.dumps(document))
