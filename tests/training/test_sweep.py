"""``foveal train --sweep``: what is tried, pruned, resumed, and kept."""

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from training import sweep as sweeps
from training.config import TrainConfig
from training.errors import ConfigError, RunError
from training.recipes import resolve
from training.runs import EVALUATION_JSON, read_run
from training.search import Choice, Range, parse_space

pytestmark = pytest.mark.training
pytest.importorskip("optuna")


def test_ranges_and_choices_are_read() -> None:
    space = parse_space("lr=1e-4..1e-2 log, mixup=0,0.2, --batch-size=8..64,flip=yes,no")
    assert space == {
        "lr": Range(1e-4, 1e-2, is_log=True),
        "mixup": Choice((0.0, 0.2)),
        "batch_size": Range(8, 64),
        "flip": Choice((True, False)),
    }
    assert parse_space("optimizer=sgd, adamw,border=reflect") == {
        "optimizer": Choice(("sgd", "adamw")),
        "border": Choice(("reflect",)),
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected OPTION=LOW..HIGH or OPTION=VALUE,VALUE, got ''"),
        ("0.1", "expected OPTION=LOW..HIGH or OPTION=VALUE,VALUE, got '0.1'"),
        ("lr=", "got 'lr='"),
        ("colour=1,2", "sweep: expected one of .*batch-size.*, got 'colour'"),
        ("seed=1,2", "sweep: expected one of .*, got 'seed'"),
        ("validation=0.1,0.2", "sweep: expected one of .*, got 'validation'"),
        ("lr=1..0.1", "expected lr as numbers LOW..HIGH, the lower one first, got '1..0.1'"),
        ("mixup=0..1 log", "expected mixup as numbers LOW..HIGH above 0"),
        ("lr=0.1,0", "sweep: lr: expected more than 0, got 0.0"),
        ("epochs=1.5,2", "expected epochs as int, got '1.5'"),
        ("flip=maybe", "expected flip as yes or no, got 'maybe'"),
        ("flip=no..yes", "expected flip as numbers LOW..HIGH"),
        ("widths=8,16", "expected an option with a number, a name, or yes and no, got 'widths'"),
        ("lr=0.1,lr=0.2", "expected each option once, got 'lr' twice"),
        ("border=white", "border: expected one of black, reflect, got 'white'"),
    ],
)
def test_what_cannot_be_tried_is_named(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_space(text)


@pytest.fixture
def config(tmp_path: Path) -> TrainConfig:
    options: dict[str, Any] = {"epochs": 2, "batch_size": 64, "hidden": (8,), "dropout": 0.0}
    return resolve("digits", "fcnn", tmp_path / "sweep", **options)


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / sweeps.TABLE).open() as file:
        return list(csv.DictReader(file))


def test_the_best_trial_becomes_the_run(config: TrainConfig) -> None:
    """Rates of which one learns: it is found, and the sweep goes on after it was killed."""
    space = parse_space("lr=1e-7,1e-2")
    folder = sweeps.sweep(config, space, 3)
    first = rows(folder)
    assert len(first) == 3
    assert (folder / EVALUATION_JSON).is_file()
    with pytest.raises(RunError, match="expected a new folder, got a sweep; go on with --resume"):
        sweeps.sweep(config, space, 5)
    with pytest.raises(RunError, match="one with other space and config; repeat its options"):
        sweeps.sweep(replace(config, batch_size=32), parse_space("lr=1e-3,1e-2"), 5, resume=True)
    # A trial that was killed: its folder is half, Optuna's journal says that it runs.
    optuna = sweeps._optuna()
    backend = optuna.storages.journal.JournalFileBackend(str(folder / sweeps.JOURNAL))
    study = optuna.load_study(study_name="sweep", storage=optuna.storages.JournalStorage(backend))
    study.enqueue_trial({"lr": 1e-2})
    killed = study.ask()
    assert killed.suggest_categorical("lr", (1e-7, 1e-2)) == 1e-2
    assert sweeps.sweep(config, space, 5, resume=True) == folder
    now = rows(folder)
    ended = [row for row in now if row["state"] in ("complete", "pruned")]
    assert len(ended) == 5
    assert now[3]["state"] == "fail"
    assert now[4]["lr"] == "0.01"  # tried again
    assert now[:3] == first
    best = max(ended, key=lambda row: float(row["validation_accuracy"] or 0))
    record, outcome = read_run(folder)
    assert record.config.lr == float(best["lr"]) == 1e-2
    assert outcome.validation.accuracy == pytest.approx(float(best["validation_accuracy"]))
    kept = [path.parent.name for path in folder.glob("trials/*/checkpoints")]
    assert len(kept) == 1
    # A finished sweep stays as it is.
    before = (folder / EVALUATION_JSON).read_text()
    assert sweeps.sweep(config, space, 5, resume=True) == folder
    assert (folder / EVALUATION_JSON).read_text() == before


@pytest.mark.thorough
def test_trials_without_a_chance_are_stopped(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two that learn, then one that does not: it ends before its last epoch."""
    monkeypatch.setattr(sweeps, "_FIRST_TRIALS", 2)
    config = replace(config, epochs=4, run=config.run.with_name("pruned"))
    asked = iter([1e-2, 9e-3, 1e-7])
    monkeypatch.setattr(
        sweeps,
        "_propose",
        lambda trial, name, _: trial.suggest_float(name, rate := next(asked), rate),
    )
    folder = sweeps.sweep(config, parse_space("lr=1e-7,1e-2"), 3)
    table = rows(folder)
    assert [row["state"] for row in table] == ["complete", "complete", "pruned"]
    assert int(table[2]["epochs"]) < 4
    assert not (folder / "trials" / "002" / "checkpoints").exists()


def test_a_sweep_of_what_cannot_train_says_why(config: TrainConfig) -> None:
    config = replace(config, network="cnn", widths=(4,) * 9)
    with pytest.raises(RunError, match="expected one trial to end, got none; widths: expected 1"):
        sweeps.sweep(config, parse_space("lr=1e-3,1e-2"), 2)
    with pytest.raises(ConfigError, match="sweep: expected one device, got 1 x 2"):
        sweeps.sweep(replace(config, devices=2), parse_space("lr=1e-3,1e-2"), 2)


@pytest.mark.thorough
def test_the_test_split_does_not_choose(config: TrainConfig) -> None:
    """No trial writes a figure of the test split."""
    folder = sweeps.sweep(config, parse_space("lr=1e-3,1e-2"), 2)
    assert not list(folder.glob(f"trials/*/{EVALUATION_JSON}"))
    assert json.loads((folder / EVALUATION_JSON).read_text())["test"]
    shutil.rmtree(folder / "trials")  # the run does not need them
    assert read_run(folder)
