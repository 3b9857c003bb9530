"""Every end of a run says what it is: its exit code, and one line that says how to go on."""

import multiprocessing
import os
import resource
import signal
import sys
import time
from collections.abc import Callable, Sequence
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import pytest
import torch

from commands.console import explain
from foveal import main
from training.endings import StoppedError, describe_progress, explained
from training.errors import RunError
from training.runs import EVALUATION_JSON

pytestmark = pytest.mark.training

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["training.pipeline", "sklearn.datasets"])


def command(words: Sequence[str], output: Path, most_bytes: int | None = None) -> None:
    """Be the command: its words, its standard error in a file, a bound on what it may write."""
    torch.set_num_threads(1)
    errors = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(errors, 2)
    if most_bytes is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, most_bytes))
    sys.argv = ["foveal", *words]
    main(words)


@pytest.fixture
def start(tmp_path: Path) -> Callable[..., ForkServerProcess]:
    """Start a run on the digits that would take minutes."""

    def started(*words: str, most_bytes: int | None = None) -> ForkServerProcess:
        run = [
            "train",
            "--dataset",
            "digits",
            "--network",
            "neuron",
            "--run",
            str(tmp_path / "run"),
        ]
        arguments = ([*run, *words], tmp_path / "stderr", most_bytes)
        process = CONTEXT.Process(target=command, args=arguments)
        process.start()
        return process

    return started


def lines(tmp_path: Path) -> list[str]:
    return (tmp_path / "stderr").read_text().splitlines()


@pytest.mark.parametrize(
    ("signum", "code"),
    [pytest.param(signal.SIGTERM, 143, marks=pytest.mark.thorough), (signal.SIGINT, 130)],
    ids=["SIGTERM", "SIGINT"],
)
def test_a_signal_and_the_way_on(
    start: Callable[..., ForkServerProcess], tmp_path: Path, signum: int, code: int
) -> None:
    process = start("--epochs", "4000")
    while process.is_alive() and not (tmp_path / "run" / "checkpoints" / "last.ckpt").exists():
        time.sleep(0.02)
    os.kill(process.pid or 0, signum)
    process.join(60)
    assert process.exitcode == code
    last = lines(tmp_path)[-1]
    name = signal.Signals(signum).name
    assert f"of 4000 epochs done: stopped by {name}; continue with: foveal train --dataset" in last
    assert last.endswith("--epochs 4000 --resume")
    assert "Traceback" not in (tmp_path / "stderr").read_text()


@pytest.mark.thorough
def test_a_finished_run_is_resumed_without_work(
    start: Callable[..., ForkServerProcess], tmp_path: Path
) -> None:
    process = start("--epochs", "2", "--resume")
    process.join(60)
    assert process.exitcode == 0
    written = (tmp_path / "run" / EVALUATION_JSON).stat().st_mtime_ns
    for words, code in ((("--resume",), 0), ((), 1), (("--resume", "--seed", "1"), 1)):
        process = start("--epochs", "2", *words)
        process.join(60)
        assert process.exitcode == code, lines(tmp_path)
        assert len(lines(tmp_path)) == 1
    assert "expected the run to resume, got one with seed 0 (now 1)" in lines(tmp_path)[0]
    assert (tmp_path / "run" / EVALUATION_JSON).stat().st_mtime_ns == written


@pytest.mark.thorough
def test_a_full_disk_is_one_line(start: Callable[..., ForkServerProcess], tmp_path: Path) -> None:
    """A limit on the size of files: the checkpoint does not fit."""
    process = start("--epochs", "2", most_bytes=6000)
    process.join(60)
    assert process.exitcode == 1
    last = lines(tmp_path)[-1]
    assert "expected room on the disk, got File too large; free some, then continue with" in last
    assert "Traceback" not in (tmp_path / "stderr").read_text()
    process = start("--epochs", "2", "--resume")
    process.join(60)
    assert process.exitcode == 0, lines(tmp_path)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OSError(28, "No space left on device"), "expected room on the disk, got No space left"),
        (MemoryError("Unable to allocate 9 TiB"), "enough memory, got Unable to allocate 9 TiB; "),
        (RuntimeError("x DefaultCPUAllocator: can't allocate memory: 9 B"), "memory, got 9 B; low"),
    ],
)
def test_what_libraries_raise_becomes_one_line(error: Exception, message: str) -> None:
    with pytest.raises(RunError, match=message) as caught, explained(["train"], lambda: "runs/a"):
        try:
            raise error
        except OSError as full:
            raise RuntimeError("PytorchStreamWriter failed writing file") from full
    assert explain(caught.value) == str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_epoch_without_its_checkpoint_is_not_said_to_be_done(tmp_path: Path) -> None:
    assert describe_progress(tmp_path, 9) == f"{tmp_path}: 0 of 9 epochs done"
    curves, checkpoint = tmp_path / "metrics.csv", tmp_path / "checkpoints" / "last.ckpt"
    curves.write_text("epoch\n1\n2\n")
    assert describe_progress(tmp_path, 9) == f"{tmp_path}: 1 of 9 epochs done"
    checkpoint.parent.mkdir()
    for file, at_s, done in ((checkpoint, 1, 1), (checkpoint, 3, 2), (curves, 4, 1)):
        file.touch()
        os.utime(file, (at_s, at_s))
        if file is checkpoint:
            os.utime(curves, (2, 2))
        assert describe_progress(tmp_path, 9) == f"{tmp_path}: {done} of 9 epochs done"


def test_other_errors_pass_and_signals_are_restored() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(ZeroDivisionError), explained([], lambda: ""):
        raise ZeroDivisionError
    again = explained(["train", "--resume", "a b"], lambda: "runs/a")
    with pytest.raises(StoppedError, match="stopped by SIGTERM") as caught, again:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(5)
    assert str(caught.value).endswith("foveal train 'a b' --resume")
    assert caught.value.exit_code == 143
    assert signal.getsignal(signal.SIGTERM) == before
