import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from export.errors import ExportError, ParityError
from export.run import open_session
from models.artifact import ArtifactError, ImageSpec
from models.image import decode
from models.onnx_file import summarize
from models.repository import ModelRepository
from training.config import TrainConfig
from training.datasets.sources import load_dataset
from training.errors import ConfigError, RunError
from training.graph import ServedNetwork, export_onnx
from training.pipeline import export, train
from training.recipes import resolve
from training.runs import RUN_JSON

pytestmark = pytest.mark.training


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short real run on the digits."""
    folder = tmp_path_factory.mktemp("runs") / "digits"
    options = {"epochs": 8, "widths": (16, 32), "depth": 1, "ema": 0.0, "dropout": 0.0, "lr": 0.01}
    return train(resolve("digits", "cnn", folder, **options))


@pytest.fixture(scope="module")
def repository(run: Path, tmp_path_factory: pytest.TempPathFactory) -> ModelRepository:
    """Two exports of the run."""
    repository = ModelRepository(tmp_path_factory.mktemp("models"))
    for _ in range(2):
        export(run, "digits-cnn", repository)
    return repository


def test_train_export_publish_load(repository: ModelRepository) -> None:
    first, second = (repository.load("digits-cnn", version) for version in (1, 2))
    assert (first.version, second.version) == (1, 2)
    assert repository.verify("digits-cnn", 2) == second
    assert second.metrics is not None
    assert second.metrics.split == "test"
    assert second.metrics.images == 359
    assert second.metrics.accuracy > 0.9
    assert second.parity is not None
    assert second.parity.batch_sizes == (1, 2, 7, 64)
    assert second.provenance is not None
    assert second.provenance.command.startswith("foveal train --dataset digits --network cnn")
    assert second.provenance.dataset_sha256 == load_dataset("digits").sha256
    content = repository.read_model(second, "model.onnx")
    assert summarize(content).metadata == {
        "foveal.name": "digits-cnn",
        "foveal.version": "2",
        "foveal.labels": json.dumps(list("0123456789")),
    }


def test_golden_images_are_answered_as_recorded(repository: ModelRepository) -> None:
    artifact = repository.load("digits-cnn", 1)
    session = open_session(repository.read_model(artifact, "model.onnx"))
    assert len({golden.label for golden in artifact.golden}) == 8
    for golden in artifact.golden:
        image = decode(repository.read_file(artifact, golden.path), ImageSpec("L", 8, 8))
        _, probabilities_NK = session.run(image[None])
        assert probabilities_NK[0].tolist() == list(golden.probabilities)
        assert artifact.labels[int(probabilities_NK[0].argmax())] == golden.label


def test_metrics_are_those_of_the_published_file(repository: ModelRepository) -> None:
    artifact = repository.load("digits-cnn", 1)
    test = load_dataset("digits").test
    session = open_session(repository.read_model(artifact, "model.onnx"))
    _, probabilities_NK = session.run(test.images_NHWC)
    assert artifact.metrics is not None
    assert artifact.metrics.accuracy == (probabilities_NK.argmax(axis=1) == test.targets_N).mean()


def test_nothing_is_published_when_parity_fails(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def perturbed(network: ServedNetwork, shape: tuple[int, int, int]) -> object:
        model = export_onnx(network, shape)
        with torch.no_grad():
            next(network.parameters()).mul_(1.001)
        return model

    monkeypatch.setattr("training.publish.export_onnx", perturbed)
    with pytest.raises(ParityError, match="not published"):
        export(run, "digits", ModelRepository(tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_a_share_that_is_none_is_refused_before_the_graph_is_made(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("training.publish.export_onnx", lambda *_: pytest.fail("exported"))
    with pytest.raises(ExportError, match="abstain-precision: expected above 0, at most 1, got 7"):
        export(run, "digits", ModelRepository(tmp_path), abstain_precision=7)


def test_a_finished_run_is_not_written_over(run: Path, config: TrainConfig) -> None:
    with pytest.raises(RunError, match="got a finished run; choose another with --run"):
        train(replace(config, run=run))


@pytest.mark.thorough
def test_a_run_that_is_worse_than_the_serving_version_asks_for_force(
    repository: ModelRepository, tmp_path: Path
) -> None:
    serving = ModelRepository(tmp_path / "models")
    shutil.copytree(repository.root, serving.root)
    worse = train(resolve("digits", "fcnn", tmp_path / "worse", epochs=1, lr=1e-4))
    message = r"digits-cnn:2 serves and is right on 9.* of the same 359 images: .* --force"
    with pytest.raises(ExportError, match=message):
        export(worse, "digits-cnn", serving)
    assert serving.versions("digits-cnn") == [1, 2]
    assert export(worse, "digits-cnn", serving, max_drop=None).version == 3
    even = train(resolve("vertical-line", "neuron", tmp_path / "other", epochs=1))
    serving.set_default("digits-cnn", 2)
    with pytest.raises(ExportError, match=r"expected the same labels, got others; .* --force"):
        export(even, "digits-cnn", serving)


def test_an_unfinished_run_is_not_exported(config: TrainConfig, tmp_path: Path) -> None:
    repository = ModelRepository(tmp_path / "models")
    with pytest.raises(RunError, match=RUN_JSON):
        export(config.run, "digits", repository)
    config.run.mkdir()
    (config.run / RUN_JSON).write_text("{}")
    with pytest.raises(RunError, match="run foveal train to its end"):
        export(config.run, "digits", repository)


def test_changed_data_and_unknown_precisions_and_names_are_refused(
    run: Path, tmp_path: Path
) -> None:
    repository = ModelRepository(tmp_path / "models")
    with pytest.raises(ConfigError, match="precision: expected fp32, int8, fp16, got int7"):
        export(run, "digits", repository, precisions=["fp32", "int7"])
    with pytest.raises(ArtifactError, match="model name"):
        export(run, "Not A Name", repository)
    record = json.loads((run / RUN_JSON).read_text())
    copy = tmp_path / "copy"
    copy.mkdir()
    (copy / "evaluation.json").write_bytes((run / "evaluation.json").read_bytes())
    (copy / RUN_JSON).write_text(json.dumps(record | {"dataset_sha256": "f" * 64}))
    with pytest.raises(RunError, match="expected data with sha256 ffff"):
        export(copy, "digits", repository)
