import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from export.abstain import choose_threshold, measure_threshold
from export.errors import ExportError
from export.figures import calibration_error
from export.run import open_session, run_images
from models.artifact import ModelArtifact
from models.histograms import entropy, pixel_statistics
from models.repository import ModelRepository
from scoring.local import LocalModel
from tests.shell import Shell
from training.datasets.sources import load_dataset
from training.pipeline import train
from training.recipes import resolve

pytestmark = pytest.mark.training


@st.composite
def rows(draw: st.DrawFn) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Rows of two classes with few different confidences, so that many are equal."""
    sure = draw(st.lists(st.sampled_from([0.5, 0.6, 0.75, 0.9, 1.0]), min_size=1, max_size=12))
    right = draw(st.lists(st.booleans(), min_size=len(sure), max_size=len(sure)))
    probabilities_NK = np.array([[p, 1 - p] for p in sure], np.float32)
    return probabilities_NK, np.array([0 if r else 1 for r in right], np.int64)


@given(rows(), st.sampled_from([0.3, 0.5, 0.75, 0.99, 1.0]))
def test_the_threshold_is_the_lowest_that_is_precise_enough(
    split: tuple[NDArray[np.float32], NDArray[np.int64]], target: float
) -> None:
    probabilities_NK, targets_N = split
    good = [
        float(threshold)
        for threshold in np.unique(probabilities_NK.max(axis=1))
        if measure_threshold("s", probabilities_NK, targets_N, threshold).precision >= target
    ]
    if good:
        assert choose_threshold(probabilities_NK, targets_N, target) == min(good)
    else:
        with pytest.raises(ExportError, match="expected a share that is reached"):
            choose_threshold(probabilities_NK, targets_N, target)


@pytest.mark.parametrize("share", [0.0, -1.0, 1.5, float("nan")])
def test_a_share_out_of_range_is_refused(share: float) -> None:
    with pytest.raises(ExportError, match="expected above 0, at most 1"):
        choose_threshold(np.array([[0.5, 0.5]], np.float32), np.array([0]), share)


def assert_abstains(repository: ModelRepository, artifact: ModelArtifact, threshold: float) -> None:
    """Golden images get a label only where the first probability reaches the threshold."""
    local = LocalModel.load(repository)
    encoded = [repository.read_file(artifact, golden.path) for golden in artifact.golden]
    for result, golden in zip(local.predict(encoded, 3)["results"], artifact.golden, strict=True):
        sure = max(golden.probabilities) >= threshold
        assert result["abstained"] is not sure
        assert result["label"] == (result["predictions"][0]["label"] if sure else None)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A short real run on the digits."""
    options = {"epochs": 4, "widths": (16, 32), "depth": 1, "ema": 0.0, "dropout": 0.0, "lr": 0.01}
    return train(resolve("digits", "cnn", tmp_path / "run", **options))


@pytest.mark.thorough
def test_export_writes_threshold_and_statistics_that_the_files_bear_out(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shell = Shell(capsys, tmp_path / "models")
    said = shell("export", run, "--name", "digits", "--abstain-precision", "0.995")
    assert said.code == 0, said.error
    repository = ModelRepository(tmp_path / "models")
    artifact = repository.verify("digits", 1)
    data = load_dataset("digits", None, validation=0.1, split_seed=0)
    content = repository.read_model(artifact, "model.onnx")
    session = open_session(content)
    logits_NK, probabilities_NK = run_images(session, data.test.images_NHWC)
    confidence_N = probabilities_NK.max(axis=1)
    is_right_N = probabilities_NK.argmax(axis=1) == data.test.targets_N

    abstain = artifact.abstain
    assert abstain is not None and abstain.target_precision == 0.995
    assert abstain.chosen.split == "validation" and abstain.chosen.precision >= 0.995
    is_answered_N = confidence_N >= np.float32(abstain.threshold)
    assert 0 < abstain.measured.answered < 1
    assert abstain.measured.answered == is_answered_N.mean()
    assert abstain.measured.precision == is_right_N[is_answered_N].mean()
    assert_abstains(repository, artifact, abstain.threshold)

    metrics, seen = artifact.metrics, artifact.statistics
    assert metrics is not None and seen is not None
    powers = np.exp(logits_NK.astype(np.float64))
    before_N = (powers / powers.sum(axis=1, keepdims=True)).max(axis=1)
    assert metrics.calibration_error_before == pytest.approx(
        calibration_error(before_N, is_right_N), abs=1e-4
    )
    assert metrics.calibration_error_before != metrics.calibration_error
    record = json.loads((run / "run.json").read_text())["config"]
    data = load_dataset(
        "digits", None, validation=record["validation"], split_seed=record["split_seed"]
    )
    assert seen.images == len(data.train)
    assert seen.pixel_mean == pytest.approx(data.train.images_NHWC.mean(), rel=1e-4)
    spreads = [pixel_statistics(image)[1] for image in data.train.images_NHWC]
    assert seen.pixel_spread == pytest.approx(np.mean(spreads))
    assert sum(seen.class_shares) == pytest.approx(1)
    assert seen.class_shares[3] == (data.train.targets_N == 3).mean()
    _, validation_NK = run_images(session, data.validation.images_NHWC)
    assert seen.entropy == pytest.approx(entropy(validation_NK).mean())

    shown = shell("models", "show", "digits").out
    assert f"below {abstain.threshold:.4f}, chosen for 99.50%" in shown
    assert "without the temperature" in shown
    assert f"{len(data.train)} images, pixels" in shown
    said = shell("export", run, "--name", "digits", "--abstain-precision", "7")
    assert (said.code, repository.versions("digits")) == (1, [1])
    assert said.error.startswith("abstain-precision: expected above 0")
