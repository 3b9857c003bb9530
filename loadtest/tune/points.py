"""What can be chosen for a version, what was measured, and which configurations to serve.

Plain values and pure functions; nothing here runs anything.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from models.artifact import Precision

BATCH_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
# Least gain in throughput for which a larger batch, with its longer runs, is chosen.
_BATCH_GAIN = 1.03
# What the service adds to the session, from loadtest/bench/results, on one core of 2.6 GHz: per
# request HTTP, decoding a small image and the response; per batch gathering and hand-over.
_REQUEST_S, _BATCH_S = 40e-6, 60e-6
# Client time per request; client and service may share cores.
_CLIENT_S = 90e-6


@dataclass(frozen=True, slots=True, order=True)
class Configuration:
    """One way to serve a version; ``threads`` 0 leaves them to the service, as the defaults do."""

    precision: Precision
    threads: int
    instances: int
    max_batch_size: int

    @property
    def variables(self) -> dict[str, str]:
        """Return the settings that make the service run this, whatever plan exists."""
        return {
            "FOVEAL_PRECISION": self.precision,
            "FOVEAL_THREADS": str(self.threads),
            "FOVEAL_INSTANCES": str(self.instances),
            "FOVEAL_MAX_BATCH_SIZE": str(self.max_batch_size),
            "FOVEAL_MAX_QUEUE_DELAY_MS": "0",
            "FOVEAL_BUCKETS": "auto",
        }

    @property
    def title(self) -> str:
        """Return its name in reports."""
        if self == DEFAULTS:
            return "defaults"
        return (
            f"{self.precision}, {self.instances} x {self.threads} threads, "
            f"batch {self.max_batch_size}"
        )

    @property
    def trio(self) -> tuple[Precision, int, int]:
        """Return what determines how a session runs: precision, threads, instances."""
        return self.precision, self.threads, self.instances


# What the service does when nothing is set and there is no plan.
DEFAULTS = Configuration("fp32", 0, 1, 64)


@dataclass(frozen=True, slots=True, order=True)
class SessionPoint:
    """``instances`` runs at once of ``rows`` rows each, on ``threads`` threads each."""

    precision: Precision
    threads: int
    instances: int
    rows: int

    @property
    def trio(self) -> tuple[Precision, int, int]:
        """Return the same as ``Configuration.trio``."""
        return self.precision, self.threads, self.instances


@dataclass(frozen=True, slots=True)
class SessionFigure:
    """Measurement of the session alone: rows/s of all instances together, and the time of a run."""

    rows_per_s: float
    p50_ms: float
    p99_ms: float
    runs: int


@dataclass(frozen=True, slots=True)
class Served:
    """Measurement of the service under one configuration.

    Attributes:
        goodput_per_s: Right answers a second within the promise, at the highest rate that kept it.
        rate_per_s: That rate; 0 if none did.
        p50_ms: Of the answers at that rate; NaN if there was none.
        p99_ms: Likewise.
        bound: What stopped the search: ``service``, ``client``, or ``time``: then the service
            may do better.
        trail: (rate, share that kept the promise, p99 in ms) of each offer, in their order.
    """

    goodput_per_s: float
    rate_per_s: float
    p50_ms: float
    p99_ms: float
    bound: str
    trail: tuple[tuple[float, float, float], ...]

    @property
    def at_most_per_s(self) -> float:
        """Return the lowest rate above the highest kept one that broke; infinite if none did."""
        broken = [rate for rate, _, _ in self.trail if rate > self.rate_per_s]
        return min(broken, default=math.inf)


def settled(rounds: Sequence[Served]) -> Served:
    """Return the last complete round, or the last one if none is complete."""
    return next((served for served in reversed(rounds) if served.bound != "time"), rounds[-1])


def grid(
    precisions: Sequence[Precision], cores: int, *, is_gpu: bool = False
) -> list[SessionPoint]:
    """Return every point that fits the cores, the most promising first.

    Threads x instances never exceed the cores; threads are powers of two, and all cores. A GPU is
    one runner, whatever the cores.
    """
    cores = 1 if is_gpu else cores
    powers = sorted({cores, *(1 << n for n in range(cores.bit_length()) if 1 << n <= cores)})
    shapes = [(t, i) for t in powers for i in powers if t * i <= cores]
    # One run alone first, then those that use all cores, then the rest.
    shapes.sort(key=lambda shape: (shape != (1, 1), shape[0] * shape[1] != cores, shape))
    return [
        SessionPoint(precision, threads, instances, rows)
        for threads, instances in shapes
        for precision in precisions
        for rows in BATCH_SIZES
    ]


def latency_ms(figure: SessionFigure) -> float:
    """Return the longest wait of a row under full load: the current run and its own."""
    return 2 * figure.p50_ms


def frontier(figures: dict[SessionPoint, SessionFigure]) -> list[SessionPoint]:
    """Return the points that no other beats in both latency and throughput, fastest first."""
    best = 0.0
    points = []
    for point, figure in sorted(
        figures.items(), key=lambda item: (latency_ms(item[1]), -item[1].rows_per_s, item[0])
    ):
        if figure.rows_per_s > best:
            best = figure.rows_per_s
            points.append(point)
    return points


def survivors(
    figures: dict[SessionPoint, SessionFigure], p99_ms: float, most: int = 4
) -> list[Configuration]:
    """Return the configurations to serve: the best batch size of the best shapes.

    Args:
        figures: Measurements of the session alone.
        p99_ms: The promise, which a row under full load must keep.
        most: How many to return at most.

    Returns:
        By throughput, highest first; empty if nothing keeps the promise. One thread with one
        instance is always among them if it keeps the promise: only that shape runs on the event
        loop, an advantage that the session alone does not show.
    """
    best: dict[tuple[Precision, int, int], tuple[float, Configuration]] = {}
    for point, figure in sorted(figures.items()):  # batch sizes ascend within a trio
        known = best.get(point.trio, (0.0, None))[0]
        rate = 1 / (1 / figure.rows_per_s + _BATCH_S / point.rows)
        if latency_ms(figure) <= p99_ms and rate > known * _BATCH_GAIN:
            best[point.trio] = rate, Configuration(*point.trio, point.rows)
    ranked = [c for _, c in sorted(best.values(), key=lambda item: (-item[0], item[1]))]
    chosen = ranked[:most]
    single = next((c for c in ranked if c.trio[1:] == (1, 1)), None)
    if single is not None and single not in chosen and most > 1:
        chosen[-1] = single
    return chosen


def guess_rate(configuration: Configuration, figures: dict[SessionPoint, SessionFigure]) -> float:
    """Estimate the requests/s of the service with the client on the same machine."""
    rates = [
        figure.rows_per_s
        for point, figure in figures.items()
        if point.rows <= configuration.max_batch_size
        and (point.trio == configuration.trio or not configuration.threads)
        and point.precision == configuration.precision
    ]
    return 0.5 / (1 / max(rates, default=1000.0) + _REQUEST_S + _CLIENT_S)
