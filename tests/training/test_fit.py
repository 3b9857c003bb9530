import csv
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import pytorch_lightning as pl
import torch

from training.checkpoints import CHECKPOINT, LAST_CHECKPOINT
from training.config import TrainConfig
from training.datasets.sources import Dataset
from training.datasets.splits import Split
from training.errors import ConfigError
from training.evaluate import compute_logits
from training.fit import fit
from training.initial import load_checkpoint, untrained

pytestmark = pytest.mark.training

Squares = Callable[..., Dataset]


def accuracy(logits_NK: torch.Tensor, split: Split) -> float:
    return float((logits_NK.argmax(dim=1).numpy() == split.targets_N).mean())


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"ema": 0.8},
        {"autocast": "bfloat16"},
        {"network": "fcnn", "hidden": (32,), "optimizer": "sgd", "lr": 0.02, "schedule": "linear"},
    ],
    ids=["plain", "ema", "bfloat16", "fcnn-sgd"],
)
def test_learns_what_can_be_learnt(
    config: TrainConfig, squares: Squares, change: dict[str, Any]
) -> None:
    dataset = squares()
    options: dict[str, Any] = {"epochs": 15, "batch_size": 16, "shift": 1, "lr": 0.01} | change
    network = fit(replace(config, **options), dataset, show_progress=False)
    assert not network.training
    assert accuracy(compute_logits(network, dataset.test), dataset.test) == 1


def test_the_test_split_is_never_touched(config: TrainConfig, squares: Squares) -> None:
    dataset = squares()
    poisoned = replace(dataset, test=Split(np.empty((0, 1, 1, 1), np.uint8), np.empty(0, np.int64)))
    network = fit(config, poisoned, show_progress=False)
    again = fit(replace(config, run=config.run.with_name("again")), dataset, show_progress=False)
    for name, value in network.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name


def test_the_line_of_an_epoch_comes_when_it_is_kept(
    config: TrainConfig, squares: Squares, caplog: pytest.LogCaptureFixture
) -> None:
    """Who stops a run at a line goes on behind that epoch."""
    kept: list[int] = []

    class Reader(logging.Handler):
        def emit(self, _record: logging.LogRecord) -> None:
            state = torch.load(config.run / LAST_CHECKPOINT, weights_only=True)
            kept.append(state["epoch"] + 1)

    log = logging.getLogger("training.progress")
    reader = Reader()
    log.addHandler(reader)
    try:
        with caplog.at_level(logging.INFO, "training"):
            fit(replace(config, epochs=3), squares(), show_progress=False)
    finally:
        log.removeHandler(reader)
    assert kept == [1, 2, 3]


def test_leaves_curves_and_the_best_checkpoint(config: TrainConfig, squares: Squares) -> None:
    dataset = squares()
    config = replace(config, epochs=4, batch_size=16, lr=0.01)
    fit(config, dataset, show_progress=False)
    with (config.run / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    curve = [float(row["validation_accuracy"]) for row in rows if row["validation_accuracy"]]
    assert len(curve) == 4
    assert sum(bool(row["train_loss"]) for row in rows) == 4
    assert all(row["lr"] for row in rows if row["train_loss"])
    assert (config.run / CHECKPOINT).is_file()
    best = compute_logits(load_checkpoint(config, dataset), dataset.validation)
    assert accuracy(best, dataset.validation) == pytest.approx(max(curve))


def test_keeps_the_weights_that_are_asked_for(config: TrainConfig, squares: Squares) -> None:
    """Two equal runs, in which the best epoch is not the last one."""
    dataset = squares()
    restless: dict[str, Any] = {
        "epochs": 6,
        "lr": 0.05,
        "schedule": "constant",
        "label_smoothing": 0.0,
    }
    kept: dict[str, dict[str, torch.Tensor]] = {}
    files: dict[Literal["best", "last"], Path] = {"best": CHECKPOINT, "last": LAST_CHECKPOINT}
    for keep, file in files.items():
        run = replace(config, run=config.run / keep, keep=keep, **restless)
        kept[keep] = fit(run, dataset, show_progress=False).state_dict()
        saved = torch.load(run.run / file, weights_only=True)["state_dict"]
        for name, value in kept[keep].items():
            assert torch.equal(value, saved[f"network.{name}"]), name
    assert any(not torch.equal(kept["best"][name], kept["last"][name]) for name in kept["best"])


def test_a_short_run_with_an_average_is_as_good_as_one_without(
    config: TrainConfig, squares: Squares
) -> None:
    """A decay of a thousand steps in a run of sixty: most of the average would be random."""
    dataset = squares()
    short: dict[str, Any] = {"epochs": 15, "batch_size": 16, "lr": 0.01, "keep": "last"}
    averaged = fit(replace(config, ema=0.999, **short), dataset, show_progress=False)
    assert accuracy(compute_logits(averaged, dataset.test), dataset.test) == 1


@pytest.mark.parametrize("weights", ["balanced", "sampler"])
def test_small_classes_count_alike(
    config: TrainConfig, weights: Literal["balanced", "sampler"]
) -> None:
    """A pixel that is a little brighter in one of 20 rows: the shares win, unless classes are."""
    generator = np.random.default_rng(0)

    def split(rows: int) -> Split:
        targets_N = (np.arange(rows) % 20 == 0).astype(np.int64)
        noise = generator.normal(100, 10, (rows, 8, 8, 1))
        noise[:, 0, 0, 0] += 15 * targets_N
        return Split(noise.clip(0, 255).astype(np.uint8), targets_N)

    dataset = Dataset("rare", ("usual", "rare"), split(400), split(200), split(400), "0" * 64)

    def recall(name: Literal["none", "balanced", "sampler"]) -> float:
        options: dict[str, Any] = {"network": "neuron", "epochs": 8, "lr": 0.02, "batch_size": 32}
        run = replace(config, run=config.run / name, **options, class_weights=name)
        logits_NK = compute_logits(fit(run, dataset, show_progress=False), dataset.test)
        is_rare = dataset.test.targets_N == 1
        return float((logits_NK.argmax(dim=1).numpy()[is_rare] == 1).mean())

    assert recall(weights) >= recall("none") + 0.2


def test_a_mirror_cannot_show_more_than_there_is(config: TrainConfig, squares: Squares) -> None:
    with pytest.raises(ConfigError, match="shift: expected less than the 8 pixels"):
        fit(replace(config, border="reflect", shift=8), squares(), show_progress=False)


def test_the_seed_decides(config: TrainConfig, squares: Squares) -> None:
    dataset = squares()

    def weights(name: str, seed: int) -> torch.Tensor:
        run = replace(config, run=config.run / name, seed=seed, shift=1, dropout=0.2)
        return torch.cat([p.flatten() for p in fit(run, dataset, show_progress=False).parameters()])

    first = weights("a", 1)
    assert torch.equal(first, weights("b", 1))
    assert not torch.equal(first, weights("c", 2))


def test_clipping_limits_the_step(config: TrainConfig, squares: Squares) -> None:
    """The gradient as a whole is cut, so one step of plain descent is as long as lr x clip."""
    dataset = squares()
    plain: dict[str, Any] = {
        "optimizer": "sgd",
        "momentum": 0.0,
        "weight_decay": 0.0,
        "schedule": "constant",
    }
    plain |= {"warmup": 0.0, "ema": 0.0, "epochs": 1, "batch_size": 64, "lr": 0.5}

    def distance(name: str, clip: float) -> float:
        run = replace(config, run=config.run / name, clip=clip, **plain)
        pl.seed_everything(run.seed, verbose=False)
        before = untrained(run, dataset).parameters()
        after = fit(run, dataset, show_progress=False).parameters()
        moves = [(b - a).detach().flatten() for a, b in zip(before, after, strict=True)]
        return float(torch.cat(moves).norm())

    assert distance("clipped", 1e-3) == pytest.approx(5e-4, rel=0.01)
    assert distance("free", 0.0) > 5e-2


@pytest.mark.parametrize("field", ["network", "optimizer", "schedule", "activation"])
def test_unknown_names_are_listed(config: TrainConfig, squares: Squares, field: str) -> None:
    change: dict[str, Any] = {field: "nonsense"}
    with pytest.raises(ConfigError, match=f"{field}: expected one of .*, got 'nonsense'"):
        fit(replace(config, **change), squares(), show_progress=False)


def test_progress_is_drawn_on_request(
    config: TrainConfig, squares: Squares, capfd: pytest.CaptureFixture[str]
) -> None:
    fit(config, squares(), show_progress=False)
    assert capfd.readouterr() == ("", "")
    fit(replace(config, run=config.run / "b"), squares(), show_progress=True)
    drawn = "".join(capfd.readouterr().err.split())
    for figure in ("2/2", "loss", "train", "validation", "images/s", "00:00left"):
        assert figure in drawn
