"""Measure runs of a session within a budget. Knows no plans and no choices.

Layout legend: N rows, H height, W width, C channels.
"""

import time

import numpy as np
from numpy.typing import NDArray

from models.artifact import ModelArtifact
from service.session.buckets import default_buckets
from service.session.progress import Budget
from service.session.session import Session


def best_of(
    session: Session, images_NHWC: NDArray[np.uint8], runs: int, budget: Budget | None = None
) -> float:
    """Return the seconds of the shortest run; the first, which allocates, is not counted.

    Where the budget ends earlier, fewer runs count, and the first one if it is the only one.
    """
    times: list[float] = []
    for _ in range(runs + 1):
        started = time.perf_counter()
        session.run(images_NHWC)
        times.append(time.perf_counter() - started)
        if budget is not None:
            budget.spend(times[-1])
            if budget.left_s < times[-1]:
                break
    return min(times[1:] or times)


def largest_batch(
    session: Session, artifact: ModelArtifact, most: int, runs: int, budget: Budget
) -> tuple[NDArray[np.uint8], float]:
    """Find the largest batch that can be run several times within a budget.

    Doubles the rows while further runs fit, by the time that the last one took, or one more: a busy
    machine, or a graph whose time grows faster than its rows, ends the search early.

    Args:
        session: Session on one of the version's files; its buckets are the sizes that are tried.
        artifact: The version.
        most: Rows of the largest batch.
        runs: How often it is to be run; batches of one row have been in any case.
        budget: What it is found and run with.

    Returns:
        The batch, uint8 [N, H, W, C], and the seconds of its one run.
    """
    first, *larger = session.plan.buckets or default_buckets(most)
    images_NHWC = blank(artifact, first)
    seconds = best_of(session, images_NHWC, 0, budget)
    for rows in larger:
        more = rows / len(images_NHWC) * (runs + 1)
        if budget.left_s < seconds * more:
            if seconds < budget.left_s:  # another process may have had the core
                seconds = min(seconds, best_of(session, images_NHWC, 0, budget))
            if budget.left_s < seconds * more:
                break
        images_NHWC = blank(artifact, rows)
        seconds = best_of(session, images_NHWC, 0, budget)
    return images_NHWC, seconds


def blank(artifact: ModelArtifact, rows: int) -> NDArray[np.uint8]:
    """Return black rows of a version, uint8 [N, H, W, C]."""
    return np.zeros((rows, *artifact.image.shape_HWC), np.uint8)
