"""How many threads a run computes with: as many as there are cores that nothing else keeps busy.

Threads of one operation wait for each other. On a core that another program uses, all of them wait
for the one that has to share it, and those that spin meanwhile take the other program's time: both
get slower by more than what they share. So they wait asleep, and there is none without a core.
Imports only the standard library and ``models.machine``: the variables count when torch is loaded.
"""

import logging
import os
import sys
import time
from pathlib import Path
from typing import Self

from models.machine import available_cpus

_LOG = logging.getLogger(__name__)
_STAT = Path("/proc/stat")
# OpenMP's own: who sets it knows better.
_THREADS = "OMP_NUM_THREADS"
_RANK = "RANK"  # of a process that torchrun or Lightning started: its threads are theirs to choose


class FreeCores:
    """Measures from its creation on; what this process uses itself is free to it."""

    def __init__(self) -> None:
        self._idle_s = _idle_s()
        self._at_s = time.monotonic()
        self._own_s = time.process_time()

    def count(self) -> int:
        """Return the cores that were free since, at least 1; all that may be used if unknown."""
        cores, idle_s = available_cpus(), _idle_s()
        seconds = time.monotonic() - self._at_s
        if idle_s is None or self._idle_s is None or seconds <= 0:
            return cores
        own_s = time.process_time() - self._own_s
        return max(1, min(cores, round((idle_s - self._idle_s + own_s) / seconds)))

    @classmethod
    def begin(cls) -> Self:
        """Let OpenMP's threads wait asleep, and begin to measure; call it before torch is loaded.

        The variable is read when OpenMP is loaded. What is set already stays.
        """
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
        return cls()

    def use(self) -> None:
        """Let torch, which is loaded by now, compute with as many threads as there are free cores.

        Not where OMP_NUM_THREADS says how many, nor in one of several processes of a run.
        """
        if _THREADS in os.environ or _RANK in os.environ:
            return
        torch = sys.modules["torch"]
        free = self.count()
        if free < torch.get_num_threads():
            _LOG.info("busy cores: %d of %d; threads to compute with: %d", *_busy(free), free)
            torch.set_num_threads(free)


def _busy(free: int) -> tuple[int, int]:
    cores = available_cpus()
    return cores - free, cores


def _idle_s() -> float | None:
    """Return the seconds that all cores together were idle since the boot; None: not Linux.

    Source: proc_stat(5): the fourth and the fifth number of the first line, in clock ticks.
    """
    try:
        words = _STAT.read_text().split("\n", 1)[0].split()
    except OSError:
        return None
    return (int(words[4]) + int(words[5])) / os.sysconf("SC_CLK_TCK")
