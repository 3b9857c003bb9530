"""A version of format 1, published again in format 2."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

from export.errors import ExportError
from export.upgrade import translate, upgrade
from models.artifact import ArtifactError, ImageSpec, ModelArtifact, OpenCVResize, Resize
from models.image import encode_png
from models.repository import ModelRepository
from scoring.local import LocalModel
from tests.shell import Shell
from tests.tiny import SIDE, build_tiny, random_images, tiny_model, tiny_probabilities

OLD = ImageSpec("L", SIDE, SIDE, OpenCVResize("crop", "area"), scaled_decoding=True)


@pytest.fixture
def repository(tmp_path: Path) -> ModelRepository:
    """One version of format 1, with names and labels in its graph and an int8 file."""
    repository = ModelRepository(tmp_path / "models")

    def build(folder: Path, version: int) -> ModelArtifact:
        model = tiny_model()
        labels = json.dumps(["top", "upper", "lower", "bottom"])
        properties = {"foveal.name": "tiny", "foveal.version": str(version), "mine": "kept"}
        onnx.helper.set_model_props(model, properties | {"foveal.labels": labels})
        built = build_tiny(folder, "tiny", version, model, lower={"int8": 1.0})
        return replace(built, image=OLD, format=1)

    repository.publish("tiny", build)
    return repository


def test_the_graph_and_the_answers_stay(repository: ModelRepository) -> None:
    done = upgrade(repository, "tiny", background=(255, 0, 9))
    assert done.artifact.reference == "tiny:2"
    artifact = repository.verify("tiny", 2)
    assert artifact.format == 2
    assert artifact.image == ImageSpec(
        "L", SIDE, SIDE, Resize("shorter", "hamming"), background=(255, 0, 9), scaled_decoding=True
    )
    graphs = [onnx.load(repository.path("tiny", v) / "model.onnx") for v in (1, 2)]
    properties = [{p.key: p.value for p in graph.metadata_props} for graph in graphs]
    assert properties[1] == properties[0] | {"foveal.version": "2"}
    assert graphs[0].graph == graphs[1].graph
    assert [file.precision for file in artifact.files] == ["fp32", "int8"]
    old = repository.load("tiny", 1)
    assert old.format == 1
    assert artifact.golden == old.golden
    images = random_images(3)
    rows = LocalModel.load(repository, "tiny:2").run(list(images))
    np.testing.assert_allclose(rows, tiny_probabilities(images), atol=1e-6)


def test_the_difference_is_measured(repository: ModelRepository, tmp_path: Path) -> None:
    done = upgrade(repository, "tiny")
    assert (done.golden.pictures, done.golden.label_changes) == (8, 0)
    assert done.resized is not None
    assert done.resized.pictures == 48
    assert 0 < done.resized.max_probability_difference < 0.2
    same = tmp_path / "same.png"
    same.write_bytes(encode_png(random_images(1)[0]))
    once = upgrade(repository, "tiny:1", images=[same])
    assert once.artifact.version == 3
    assert once.resized is not None
    assert (once.resized.pictures, once.resized.max_probability_difference) == (1, 0)


def test_without_opencv_the_rest_is_done(
    repository: ModelRepository, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("models.geometry.cv2", None)
    with pytest.raises(ArtifactError, match=r"foveal models upgrade tiny.*make install-opencv"):
        LocalModel.load(repository, "tiny")
    done = upgrade(repository, "tiny")
    assert done.resized is None
    assert done.golden.pictures == 8
    assert LocalModel.load(repository, "tiny").artifact.reference == "tiny:2"


def test_what_cannot_be_upgraded(repository: ModelRepository, tmp_path: Path) -> None:
    text = tmp_path / "a.png"
    text.write_text("no image")
    with pytest.raises(ExportError, match=r"a\.png"):
        upgrade(repository, "tiny", images=[text])
    assert repository.versions("tiny") == [1]
    upgrade(repository, "tiny")
    with pytest.raises(ExportError, match="tiny:2: expected format 1, got format 2"):
        upgrade(repository, "tiny")
    with pytest.raises(ArtifactError, match="no version 9"):
        upgrade(repository, "tiny:9")
    assert repository.versions("tiny") == [1, 2]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (OpenCVResize("stretch", "linear"), Resize("both", "bilinear")),
        (OpenCVResize("crop", "cubic"), Resize("shorter", "bicubic")),
        (OpenCVResize("pad", "nearest"), Resize("longer", "nearest", rounding="half-even")),
    ],
)
def test_rules_and_filters(old: OpenCVResize, new: Resize) -> None:
    assert translate(replace(OLD, resize=old), old) == replace(OLD, resize=new)


def test_the_command(repository: ModelRepository, capsys: pytest.CaptureFixture[str]) -> None:
    shell = Shell(capsys, repository.root)
    said = shell("models", "upgrade", "tiny", "--background", "0,0,0")
    assert (said.code, said.error) == (0, "")
    assert "tiny:2, format 2, of tiny:1" in said.out
    assert "48 pictures: probabilities within" in said.out
    assert repository.load("tiny", 2).image.background == (0, 0, 0)
    said = shell("models", "upgrade", "tiny:1", "--background", "0,0,999")
    assert said.code == 1
    assert "expected R,G,B from 0 to 255" in said.error
