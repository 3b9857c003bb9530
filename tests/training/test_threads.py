"""Threads of a run: no more than there are free cores."""

import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from models.machine import available_cpus
from training import threads
from training.threads import FreeCores

CORES = 4


@pytest.fixture
def stat(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "stat"
    monkeypatch.setattr(threads, "_STAT", path)
    monkeypatch.setattr(threads, "available_cpus", lambda: CORES)
    monkeypatch.setattr(
        threads, "time", SimpleNamespace(monotonic=lambda: now[0], process_time=lambda: now[1])
    )
    for name in ("OMP_NUM_THREADS", "RANK"):
        monkeypatch.delenv(name, raising=False)
    now[:] = [0.0, 0.0]
    return path


now = [0.0, 0.0]  # seconds: of the clock, and of this process


def write(path: Path, idle_s: float) -> None:
    ticks = round(idle_s * os.sysconf("SC_CLK_TCK"))
    path.write_text(f"cpu 5 0 5 {ticks} 0 0 0 0 0 0\ncpu0 1 0 1 1 0 0 0 0 0 0\n")


@pytest.mark.parametrize(
    ("idle_s", "own_s", "free"),
    [(40, 0, 4), (30, 10, 4), (20, 10, 3), (10, 10, 2), (0, 2, 1), (0, 0, 1), (80, 0, 4)],
)
def test_what_it_uses_itself_is_free(stat: Path, idle_s: float, own_s: float, free: int) -> None:
    write(stat, 100)
    cores = FreeCores()
    write(stat, 100 + idle_s)
    now[:] = [10.0, own_s]
    assert cores.count() == free


def test_all_are_free_where_nobody_says_it(stat: Path) -> None:
    assert not stat.exists()
    cores = FreeCores()
    now[0] = 10.0
    assert cores.count() == CORES


def test_torch_gets_as_many_threads(stat: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    torch = SimpleNamespace(get_num_threads=lambda: 4, set_num_threads=asked.append)
    monkeypatch.setitem(sys.modules, "torch", torch)  # type: ignore[arg-type]
    write(stat, 0)
    cores = FreeCores()
    now[:] = [10.0, 10.0]
    cores.use()
    assert asked == [1]
    for name in ("OMP_NUM_THREADS", "RANK"):
        with monkeypatch.context() as patch:
            patch.setenv(name, "3")
            cores.use()
    write(stat, 30)
    cores.use()
    assert asked == [1], "as many as it has already, or somebody else chooses"


def test_a_busy_core_is_seen() -> None:
    """The machine's own file, beside as many busy processes as there are cores."""
    cores = available_cpus()
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(cores)]
    try:
        deadline = time.monotonic() + 60
        while True:
            free = FreeCores()
            time.sleep(0.2)
            if free.count() == 1:
                break
            assert time.monotonic() < deadline
    finally:
        for process in busy:
            process.kill()
            process.wait()


def test_threads_wait_asleep(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    FreeCores.begin()
    assert os.environ["OMP_WAIT_POLICY"] == "ACTIVE"
    monkeypatch.delenv("OMP_WAIT_POLICY")
    FreeCores.begin()
    assert os.environ["OMP_WAIT_POLICY"] == "PASSIVE"
