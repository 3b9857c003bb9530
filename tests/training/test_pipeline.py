import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from export.errors import ExportError, ParityError
from export.golden import choose_golden
from export.publish import check_contract, stamp
from export.run import open_session
from models.artifact import ArtifactError, ImageSpec
from models.image import decode
from models.onnx_file import GraphTensor, summarize
from models.repository import ModelRepository
from training.config import TrainConfig
from training.datasets.sources import Dataset, load_dataset
from training.errors import ConfigError, RunError
from training.fit import untrained
from training.graph import ServedNetwork, export_onnx
from training.pipeline import export, train
from training.publish import BATCH_SIZES, prove
from training.recipes import resolve
from training.runs import RUN_JSON

pytestmark = pytest.mark.training

Squares = Callable[..., Dataset]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short real run on the digits."""
    folder = tmp_path_factory.mktemp("runs") / "digits"
    options = {"epochs": 8, "widths": (16, 32), "depth": 1, "ema": 0.0, "dropout": 0.0, "lr": 0.01}
    return train(resolve("digits", "cnn", folder, **options))


@pytest.fixture
def served(config: TrainConfig, squares: Squares) -> ServedNetwork:
    torch.manual_seed(0)
    return ServedNetwork(untrained(config, squares()), temperature=2.0)


def test_train_export_publish_load(run: Path, tmp_path: Path) -> None:
    repository = ModelRepository(tmp_path / "models")
    first, second = (export(run, "digits-cnn", repository) for _ in range(2))
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


def test_golden_images_are_answered_as_recorded(run: Path, tmp_path: Path) -> None:
    repository = ModelRepository(tmp_path)
    artifact = export(run, "digits", repository)
    session = open_session(repository.read_model(artifact, "model.onnx"))
    assert len({golden.label for golden in artifact.golden}) == 8
    for golden in artifact.golden:
        image = decode(repository.read_file(artifact, golden.path), ImageSpec("L", 8, 8))
        _, probabilities_NK = session.run(image[None])
        assert probabilities_NK[0].tolist() == list(golden.probabilities)
        assert artifact.labels[int(probabilities_NK[0].argmax())] == golden.label


def test_metrics_are_those_of_the_published_file(run: Path, tmp_path: Path) -> None:
    repository = ModelRepository(tmp_path)
    artifact = export(run, "digits", repository)
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


def test_the_proof_refuses_perturbed_weights(served: ServedNetwork, squares: Squares) -> None:
    content = export_onnx(served, (8, 8, 1)).SerializeToString()
    parity = prove(served, open_session(content).run, squares().train.images_NHWC)
    assert parity.batch_sizes == BATCH_SIZES
    assert parity.max_probability_difference <= 1e-5
    with torch.no_grad():
        next(served.parameters()).add_(1e-3)
    with pytest.raises(ParityError, match="expected probabilities within 1e-05"):
        prove(served, open_session(content).run, squares().train.images_NHWC)


def test_the_proof_refuses_not_a_number(served: ServedNetwork, squares: Squares) -> None:
    content = export_onnx(served, (8, 8, 1)).SerializeToString()
    served.temperature.fill_(float("nan"))
    with pytest.raises(ParityError, match="got inf"):
        prove(served, open_session(content).run, squares().train.images_NHWC)


def test_the_graph_is_clean(served: ServedNetwork) -> None:
    model = export_onnx(served, (8, 8, 1))
    stamp(model, "squares", 3, ("links oben", "größer", "c", "d"))
    content = model.SerializeToString()
    check_contract(content, ImageSpec("L", 8, 8), 4)
    summary = summarize(content)
    assert summary.inputs == (GraphTensor("images", "UINT8", (-1, 8, 8, 1)),)
    assert [t.name for t in summary.outputs] == ["logits", "probabilities"]
    assert summary.domains == ("",)
    assert "Gather" not in {node.op_type for node in model.graph.node}
    for trace in (b".py", str(Path(__file__).parents[2]).encode(), b"pkg.torch"):
        assert trace not in content
    assert json.loads(summarize(content).metadata["foveal.labels"])[1] == "größer"
    with pytest.raises(ExportError, match=r"expected outputs logits FP32 \[-1, 5\]"):
        check_contract(content, ImageSpec("L", 8, 8), 5)


def test_golden_images_survive_a_hopeless_model(served: ServedNetwork, squares: Squares) -> None:
    test = squares().test
    session = open_session(export_onnx(served, (8, 8, 1)).SerializeToString())
    _, probabilities_NK = session.run(test.images_NHWC)
    wrong = (probabilities_NK.argmax(axis=1) + 1) % 4
    rows = choose_golden(probabilities_NK, wrong)
    assert len(rows) == len(set(rows.tolist())) == 8
    rows = choose_golden(probabilities_NK, probabilities_NK.argmax(axis=1))
    assert len(rows) == 8
    assert np.isin(rows, np.arange(16)).all()


def test_a_finished_run_is_not_written_over(run: Path, config: TrainConfig) -> None:
    with pytest.raises(RunError, match="got a finished run; choose another with --run"):
        train(replace(config, run=run))


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
