"""How long one piece of work holds an event loop, and how much memory a server's workers hold.

A machine that runs other tests beside would make any wall-clock bound fail now and then. So in this
process the processor time of a callback is measured, and of a server the best of several rounds. A
core whose other half is busy computes at half its pace: what is over the bound is divided by how
much longer a fixed piece of work takes at that moment.
"""

import asyncio.events
import contextlib
import gc
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]
import pytest

from tests.probe import computed_s
from tests.server import ROOT, RunningServer

# What no input of an allowed size may take, where the yardstick below takes its usual time.
LONGEST_S = 0.05
# What it takes on a 2-core AMD EPYC (Python 3.11, 2026-11-28) while nothing shares the core; while
# something does, it takes 0.00098.
_YARDSTICK_S = 0.0006


class LoopWatch:
    """Measures the callbacks of this thread's loop inside ``watching``.

    Attributes:
        longest_s: Processor time of the longest callback, seconds.
    """

    def __init__(self) -> None:
        self.longest_s = 0.0

    @contextlib.contextmanager
    def watching(self) -> Iterator["LoopWatch"]:
        """Measure every callback that any asyncio loop of this process runs."""
        run = asyncio.events.Handle._run

        def measured(handle: asyncio.events.Handle) -> None:
            started = time.thread_time()
            try:
                run(handle)
            finally:
                self.longest_s = max(self.longest_s, time.thread_time() - started)

        asyncio.events.Handle._run = measured  # type: ignore[assignment, method-assign]
        try:
            yield self
        finally:
            asyncio.events.Handle._run = run  # type: ignore[method-assign]


@contextlib.contextmanager
def collecting_as_the_service() -> Iterator[None]:
    """Let the garbage collector run as rarely as in a worker: a test's process has more objects.

    These stay out of its sight afterwards: nobody needs them to be looked through again.
    """
    thresholds = gc.get_threshold()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)
    try:
        yield
    finally:
        gc.set_threshold(*thresholds)


def shortest_of(rounds: int, measure: Callable[[], float]) -> float:
    """Return the shortest of several measurements, seconds; the first within bounds ends them.

    One that is not within them counts at the pace that the core has then.
    """
    shortest = float("inf")
    for _ in range(rounds):
        seconds = measure()
        if seconds > LONGEST_S:
            seconds /= max(1.0, min(processor_s(_yardstick) for _ in range(5)) / _YARDSTICK_S)
        shortest = min(shortest, seconds)
        if shortest <= LONGEST_S:
            break
    return shortest


def _yardstick() -> int:
    """Do the same work each time: bytes are searched and cut, small objects made and freed."""
    length = 0
    for part in (b'a="\\"b; c' * 2000).split(b";"):
        name, _, value = part.partition(b"=")
        length += len(value.strip()) + len({name: value})
    return length


def processor_s(work: Callable[[], Any]) -> float:
    """Return the processor time of a piece of work on this thread, seconds."""
    started = time.thread_time()
    work()
    return time.thread_time() - started


def longest_hold(work: Callable[[], object]) -> float:
    """Return the longest time that work on a thread kept this thread from running, seconds.

    Counted in the other thread's processor time, as other processes run on this machine, too.
    """
    if sys.platform != "linux":
        pytest.skip("reads another thread's clock")
    is_over, is_read = threading.Event(), threading.Event()

    def run() -> None:
        work()
        is_over.set()
        is_read.wait()  # its clock must be there for the last look at it

    thread = threading.Thread(target=run)
    thread.start()
    assert thread.ident is not None
    clock = time.pthread_getcpuclockid(thread.ident)
    longest, last = 0.0, time.clock_gettime(clock)
    while not is_over.wait(0.0005):
        now = time.clock_gettime(clock)
        longest, last = max(longest, now - last), now
    is_read.set()
    thread.join()
    return longest


class LoopClock:
    """The processor time of the loop of a server's one worker; elsewhere than on Linux the time.

    What the loop is held for between two readings is no longer than it computed between them,
    however busy the machine is.

    Attributes:
        path: The file that says it; None on systems without schedstat.
    """

    def __init__(self, server: RunningServer) -> None:
        [worker] = server.workers()
        path = Path(f"/proc/{worker.pid}/task/{worker.pid}/schedstat")  # the main thread runs it
        self.path = path if path.exists() else None

    def __call__(self) -> float:
        """Return seconds."""
        return computed_s(self.path) if self.path else time.monotonic()


def held_s(clock: Callable[[], float], ask: Callable[[], object]) -> float:
    """Return the longest that a loop can have been held by one exchange, seconds."""
    before, started = clock(), time.monotonic()
    ask()
    return min(time.monotonic() - started, clock() - before)


def probed_s(server: RunningServer, work: Callable[[], object], path: Path | None = None) -> float:
    """Return the longest answer of a server's health meanwhile, seconds; see ``tests.probe``.

    Args:
        server: Server to ask.
        work: Called once, while a process asks.
        path: A further clock.
    """
    words = [sys.executable, "-m", "tests.probe", str(server.port), *([str(path)] if path else [])]
    with subprocess.Popen(
        words, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as probe:
        assert probe.stdout is not None and probe.stdout.readline() == "asking\n"
        try:
            work()
        finally:
            longest, _ = probe.communicate()
    assert probe.returncode == 0
    return float(longest)


def worker_bytes(server: RunningServer) -> int:
    """Return the resident memory of a server's processes."""
    main = psutil.Process(server.process.pid)
    total = 0
    for process in (main, *main.children(recursive=True)):
        with contextlib.suppress(psutil.NoSuchProcess):
            total += process.memory_info().rss
    return total
