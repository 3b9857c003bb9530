"""A load in slices of time, and as points of latency against throughput."""

import math
from dataclasses import dataclass
from itertools import pairwise

from loadtest.samples import OUTCOMES, RIGHT, Samples
from loadtest.shapes import Steps

# As many slices as a plot of one column can tell apart.
_SLICES = 60
_SHORTEST_S = 0.25


@dataclass(frozen=True, slots=True)
class Window:
    """Requests that were meant to be sent in one slice of time.

    Attributes:
        begin_s: Since the start.
        seconds: Its length.
        offered_per_s: Requests that came.
        answered_per_s: Of them, answered with 200 and the recorded labels, whenever.
        p50_ms: Of answers with 200; NaN where there were none.
        p95_ms: Likewise.
        p99_ms: Likewise.
        outcomes: Requests of each of ``OUTCOMES``.
    """

    begin_s: float
    seconds: float
    offered_per_s: float
    answered_per_s: float
    p50_ms: float
    p95_ms: float
    p99_ms: float
    outcomes: tuple[int, ...]


def windows_of(samples: Samples, duration_s: float) -> list[Window]:
    """Return a load in up to 60 slices of equal length."""
    count = max(1, min(_SLICES, int(duration_s / _SHORTEST_S)))
    edges = [duration_s * i / count for i in range(count + 1)]
    return [_window(samples, begin, end) for begin, end in pairwise(edges)]


def windows_of_steps(samples: Samples, steps: Steps, duration_s: float) -> list[Window]:
    """Return a load in one slice a step."""
    edges = [*(begin for begin, _ in steps), duration_s]
    return [_window(samples, begin, end) for begin, end in pairwise(edges)]


def p99_growth(windows: list[Window]) -> float:
    """Return the p99 of the last fifth of a load as a multiple of that of its first fifth."""
    fifth = max(1, len(windows) // 5)
    first, last = (
        _median([w.p99_ms for w in part]) for part in (windows[:fifth], windows[-fifth:])
    )
    return last / first if first else math.nan


def _window(samples: Samples, begin_s: float, end_s: float) -> Window:
    inside = samples.between(begin_s, end_s)
    seconds = end_s - begin_s
    return Window(
        begin_s,
        seconds,
        len(inside) / seconds,
        inside.count(RIGHT) / seconds,
        inside.latency_ms(0.5),
        inside.latency_ms(0.95),
        inside.latency_ms(0.99),
        tuple(inside.count(outcome) for outcome in range(len(OUTCOMES))),
    )


def _median(values: list[float]) -> float:
    known = sorted(value for value in values if not math.isnan(value))
    return known[len(known) // 2] if known else math.nan
