"""A run that was killed comes out as if it had not been: the same weights, curves and figures."""

import multiprocessing
import random
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import pytest
import torch

from training.checkpoints import CHECKPOINT, LAST_CHECKPOINT, AtomicCheckpointIO
from training.config import TrainConfig
from training.datasets.sources import Dataset
from training.errors import RunError
from training.fit import fit
from training.pipeline import train
from training.report.curves import METRICS_CSV, Epoch, read_curves
from training.runs import EVALUATION_JSON, RUN_JSON, start_run

pytestmark = pytest.mark.training

Squares = Callable[..., Dataset]


def child(config: TrainConfig) -> None:
    torch.set_num_threads(1)
    train(config, resume=True)


def rows(run: Path) -> list[Epoch]:
    """The curves without the clock."""
    if not (run / METRICS_CSV).exists():
        return []
    return [replace(epoch, seconds=0.0) for epoch in read_curves(run)]


def weights(path: Path, key: str = "state_dict") -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = torch.load(path, weights_only=True)[key]
    return state


def assert_same_run(one: Path, other: Path) -> None:
    for name in (CHECKPOINT, LAST_CHECKPOINT):
        expected = weights(one / name)
        for key, value in weights(other / name).items():
            assert torch.equal(value, expected[key]), (name, key)
    assert rows(one) == rows(other)
    assert (one / EVALUATION_JSON).read_text() == (other / EVALUATION_JSON).read_text()


@pytest.mark.thorough
def test_killed_at_random_moments(config: TrainConfig) -> None:
    """Dropout, augmentation, averaging, clipping, patience: all of it must come back."""
    seed = int(time.time())
    print(f"the moments' seed: {seed}")  # pytest shows it if the test fails
    options: dict[str, Any] = {
        "dropout": 0.3,
        "shift": 1,
        "ema": 0.9,
        "clip": 0.5,
        "patience": 5,
        "epochs": 5,
    }
    config = replace(config, **options, batch_size=64)
    straight = replace(config, run=config.run.with_name("straight"))
    started_s = time.monotonic()
    train(straight)
    epoch_s = (time.monotonic() - started_s) / config.epochs

    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["training.pipeline", "sklearn.datasets"])
    chance = random.Random(seed)

    def start() -> ForkServerProcess:
        process = context.Process(target=child, args=(config,))
        process.start()
        return process

    exits = []
    for epochs in (0, 1, 2, 4):
        process = start()
        while process.is_alive() and len(rows(config.run)) < epochs:
            time.sleep(0.002)
        time.sleep(chance.uniform(0, epoch_s))
        process.kill()
        process.join()
        exits.append(process.exitcode)
    assert exits[:3] == [-signal.SIGKILL] * 3
    if exits[3] != 0:  # else the last kill came too late
        process = start()
        process.join()
        assert process.exitcode == 0
    assert_same_run(straight.run, config.run)


def test_a_stopped_run_stays_stopped(config: TrainConfig, squares: Squares) -> None:
    dataset = squares()
    config = replace(config, epochs=30, patience=2, batch_size=16, lr=0.01)
    fit(config, dataset, show_progress=False)
    before = rows(config.run)
    assert 3 <= len(before) < 30
    best = max(row.validation_accuracy for row in before)
    assert all(row.validation_accuracy <= best for row in before[-2:])
    expected = weights(config.run / LAST_CHECKPOINT)
    fit(config, dataset, show_progress=False, resume=True)
    assert rows(config.run) == before
    assert all(
        torch.equal(value, expected[name])
        for name, value in weights(config.run / LAST_CHECKPOINT).items()
    )


def test_a_moved_run_is_resumed(config: TrainConfig, squares: Squares) -> None:
    dataset = squares()
    config = replace(config, epochs=2, batch_size=16)
    fit(config, dataset, show_progress=False)
    moved = replace(config, run=config.run.with_name("moved"), epochs=3)
    config.run.rename(moved.run)
    fit(moved, dataset, show_progress=False, resume=True)
    assert [row.epoch for row in rows(moved.run)] == [1, 2, 3]
    assert not config.run.exists()
    assert (moved.run / CHECKPOINT).exists()


def test_resuming_nothing_is_starting(config: TrainConfig, squares: Squares) -> None:
    start_run(config, squares(), resume=True)
    assert (config.run / RUN_JSON).exists()
    fit(replace(config, epochs=1), squares(), show_progress=False, resume=True)
    assert len(rows(config.run)) == 1


def test_another_run_is_not_resumed(config: TrainConfig, squares: Squares) -> None:
    dataset = squares()
    start_run(config, dataset)
    start_run(replace(config, data_dir=Path("elsewhere")), dataset, resume=True)
    with pytest.raises(RunError, match=r"one with epochs 2 \(now 9\), seed 0 \(now 1\); repeat"):
        start_run(replace(config, epochs=9, seed=1), dataset, resume=True)
    with pytest.raises(RunError, match=r"data 000000000000… \(now 111111111111…\)"):
        start_run(config, replace(dataset, sha256="1" * 64), resume=True)


def test_starting_anew_forgets_the_old_checkpoints(config: TrainConfig, squares: Squares) -> None:
    fit(config, squares(), show_progress=False)
    with pytest.raises(RunError, match=r"got an interrupted run; go on with --resume, or throw"):
        start_run(config, squares())
    assert (config.run / LAST_CHECKPOINT).exists() and rows(config.run), "nothing is thrown away"
    (config.run / EVALUATION_JSON).write_text("{}")
    with pytest.raises(RunError, match=r"got a finished run; .* or throw it away with --overwrite"):
        start_run(config, squares())
    start_run(config, squares(), overwrite=True)
    for path in (LAST_CHECKPOINT, EVALUATION_JSON):
        assert not (config.run / path).exists()
    assert rows(config.run) == []


def test_a_checkpoint_is_replaced_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "deep" / "last.ckpt"
    AtomicCheckpointIO().save_checkpoint({"epoch": 1}, path)

    def killed(_checkpoint: object, file: object) -> None:
        file.write(b"half of it")  # type: ignore[attr-defined]
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", killed)
    with pytest.raises(KeyboardInterrupt):
        AtomicCheckpointIO().save_checkpoint({"epoch": 2}, path)
    assert torch.load(path, weights_only=True) == {"epoch": 1}
