from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from training.config import TrainConfig
from training.datasets.sources import Dataset
from training.errors import ConfigError
from training.fit import fit
from training.loggers import build_logger

pytestmark = pytest.mark.training

Squares = Callable[..., Dataset]


@pytest.mark.parametrize("name", ["mlflow", "wandb"])
def test_a_logger_that_is_not_installed_is_named(config: TrainConfig, name: Any) -> None:
    if find_spec(name) is not None:
        pytest.skip(f"{name} is installed")
    with pytest.raises(ConfigError, match=f"expected the package {name}, got none; pip install"):
        build_logger(name, config)


def test_tensorboard_and_none(config: TrainConfig, squares: Squares) -> None:
    config = replace(config, epochs=1)
    fit(config, squares(), show_progress=False)
    is_there = find_spec("tensorboard") is not None
    assert len(list(config.run.glob("tensorboard/events*"))) == is_there
    config = replace(config, run=config.run.with_name("none"))
    fit(config, squares(), show_progress=False, logger="none")
    assert not list(config.run.glob("tensorboard"))
    assert (config.run / "metrics.csv").exists()


def test_mlflow_gets_the_figures_and_the_configuration(
    config: TrainConfig, squares: Squares, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"file:{tmp_path / 'tracking'}")
    with pytest.raises(ConfigError, match="expected mlflow to take the run, got The filesystem"):
        build_logger("mlflow", config)
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    fit(config, squares(), show_progress=False, logger="mlflow")
    client = mlflow.MlflowClient(f"file:{tmp_path / 'tracking'}")
    experiment = client.get_experiment_by_name("foveal")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.run_name == config.run.name
    assert run.data.params["network"] == "cnn"
    assert {"train_loss", "validation_accuracy", "lr"} <= set(run.data.metrics)
    history = client.get_metric_history(run.info.run_id, "validation_accuracy")
    assert len(history) == config.epochs
