"""Two processes on this machine, which talk by gloo as machines would: the curve of one."""

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from training.batches import Batches, Shard
from training.config import TrainConfig
from training.datasets.sources import Dataset, load_dataset
from training.devices import best_autocast, is_first_process
from training.errors import ConfigError
from training.fit import fit
from training.recipes import resolve
from training.report.curves import read_curves
from training.runs import read_run

pytestmark = pytest.mark.training

HOME = Path(__file__).parents[2]


@pytest.mark.thorough
def test_two_processes_reach_the_curve_of_one(tmp_path: Path) -> None:
    options = {"hidden": (32,), "dropout": 0.0, "shift": 0, "epochs": 3, "lr": 0.01}
    one = resolve("digits", "fcnn", tmp_path / "one", **options)
    two = replace(one, run=tmp_path / "two", devices=2)
    fit(one, load_dataset("digits"), show_progress=False)
    options |= {"dataset": "digits", "network": "fcnn", "run": two.run, "hidden": 32, "devices": 2}
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    command: list[str | Path] = [sys.executable, HOME / "foveal.py", "train", *words]
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, cwd=HOME, env=environment, capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("test accuracy") == 1
    said = [line.split(":")[0] for line in done.stderr.splitlines()]
    assert said == ["epoch 1 of 3", "epoch 2 of 3", "epoch 3 of 3", "fcnn on digits"]
    for alone, together in zip(read_curves(one.run), read_curves(two.run), strict=True):
        assert together.step == alone.step
        assert together.lr == alone.lr
        assert together.train_loss == pytest.approx(alone.train_loss, rel=1e-5)
        assert together.validation_loss == pytest.approx(alone.validation_loss, rel=1e-5)
        assert together.train_accuracy == pytest.approx(alone.train_accuracy, abs=2e-3)
        assert together.validation_accuracy == pytest.approx(alone.validation_accuracy, abs=2e-3)
    run, outcome = read_run(two.run)
    assert run.config.devices == 2
    assert outcome.test.images == 359


def test_shards_divide_every_batch(squares: Callable[..., Dataset]) -> None:
    split = squares(rows=30).train

    def rows(seed: tuple[int, ...] | None, *shard: int) -> list[list[int]]:
        batches = Batches(split, 8, seed, shard=Shard(*shard))
        return [[hash(image.numpy().tobytes()) for image in images] for images, _ in batches]

    for seed in ((0, 0), None):
        for whole, *parts in zip(rows(seed), rows(seed, 0, 2), rows(seed, 1, 2), strict=True):
            assert sorted(whole) == sorted(parts[0] + parts[1])


def test_only_the_first_process_writes(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "LOCAL_RANK", "NODE_RANK", "GROUP_RANK", "SLURM_PROCID"):
        monkeypatch.delenv(name, raising=False)
    assert is_first_process()
    monkeypatch.setenv("LOCAL_RANK", "0")
    assert is_first_process()
    monkeypatch.setenv("NODE_RANK", "1")
    assert not is_first_process()


def test_a_batch_must_divide_among_devices() -> None:
    with pytest.raises(ConfigError, match="multiple of devices times nodes, got 32 rows for 3 x 2"):
        resolve("digits", "fcnn", Path("r"), batch_size=32, devices=3, nodes=2)


def test_auto_is_resolved_before_it_is_written_down() -> None:
    assert resolve("digits", "cnn", Path("r"), autocast="auto").autocast == best_autocast()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_missing_devices_are_named(config: TrainConfig, squares: Callable[..., Dataset]) -> None:
    with pytest.raises(ConfigError, match="devices: expected 1 x 99"):
        fit(replace(config, devices=99, batch_size=99), squares(), show_progress=False)
