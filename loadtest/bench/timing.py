"""How long a piece of work takes when nothing else is asked of the machine. Knows no server."""

import statistics
import threading
import time
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

Work = Callable[[], object]


def repeat(works: Sequence[Work], seconds: float, least_runs: int = 1) -> list[list[float]]:
    """Run each work again and again, after one run that does not count.

    A single work runs on the caller's thread, as GPU contexts need; several start together, each
    on a thread of its own.

    Args:
        works: What to run.
        seconds: How long.
        least_runs: Runs of each work, even if they take longer than that.

    Returns:
        For each work the seconds of its runs.
    """
    times: list[list[float]] = [[] for _ in works]
    barrier = threading.Barrier(len(works))

    def run(work: Work, mine: list[float]) -> None:
        try:
            work()
        except BaseException:
            barrier.abort()  # else the other threads wait for ever
            raise
        barrier.wait()
        now = time.perf_counter()
        end = now + seconds
        while now < end or len(mine) < least_runs:
            work()
            then, now = now, time.perf_counter()
            mine.append(now - then)

    if len(works) == 1:
        run(works[0], times[0])
        return times
    threads = [
        threading.Thread(target=run, args=pair, daemon=True)
        for pair in zip(works, times, strict=True)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return times


def median_s(work: Work, seconds: float, least_runs: int) -> float:
    """Return the median seconds of one run of a work; see ``repeat``."""
    return statistics.median(repeat([work], seconds, least_runs)[0])


def per_s(works: Sequence[Work], seconds: float) -> float:
    """Return the runs per second of all works together; see ``repeat``."""
    return sum(len(mine) / sum(mine) for mine in repeat(works, seconds))


def random_images(rows: int, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """Return the same random batch for the same arguments: uint8 [rows, *shape]."""
    return np.random.default_rng(0).integers(0, 256, (rows, *shape), dtype=np.uint8)
