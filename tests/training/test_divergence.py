"""A run that has diverged ends with one line, keeps no bad weights, and is never exported."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from models.repository import ModelRepository
from training.checkpoints import LAST_CHECKPOINT
from training.config import TrainConfig
from training.datasets.sources import Dataset
from training.divergence import check_answers
from training.errors import RunError
from training.fit import fit
from training.networks import NETWORKS
from training.pipeline import export, train

pytestmark = pytest.mark.training

Squares = Callable[..., Dataset]


def test_a_loss_that_is_no_number_ends_the_run(config: TrainConfig, tmp_path: Path) -> None:
    wild = replace(config, optimizer="sgd", lr=1e30, warmup=0.0, schedule="constant", epochs=3)
    with pytest.raises(RunError, match=r"expected a finite loss, got (nan|inf) in epoch 1") as bad:
        train(wild)
    assert "try a lower --lr (now 1e+30), --clip 1" in str(bad.value)
    assert not (config.run / LAST_CHECKPOINT).exists()
    with pytest.raises(RunError, match="expected a finished run"):
        export(config.run, "digits", ModelRepository(tmp_path / "models"))


def test_answers_that_do_not_depend_on_the_image_end_the_run(
    config: TrainConfig, squares: Squares, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A dead network: its last layer's weights are all zero and stay it."""
    config = replace(config, epochs=9, lr=1e-30)

    def dead(_config: TrainConfig, shape: tuple[int, int, int], classes: int) -> torch.nn.Module:
        linear = torch.nn.Linear(int(np.prod(shape)), classes)
        torch.nn.init.zeros_(linear.weight)
        return torch.nn.Sequential(torch.nn.Flatten(), linear)

    monkeypatch.setitem(NETWORKS, "cnn", dead)
    with pytest.raises(RunError, match="got the same for all validation images in 2 epochs"):
        fit(config, squares(), show_progress=False)
    assert len((config.run / "metrics.csv").read_text().splitlines()) == 2, "it ends early"


def test_one_answer_for_all_images_is_no_result(config: TrainConfig) -> None:
    check_answers(config, np.array([0, 0, 1]), ("cat", "dog"))
    with pytest.raises(RunError, match="got 'dog' for all 3 validation and test images; try"):
        check_answers(config, np.array([1, 1, 1]), ("cat", "dog"))
