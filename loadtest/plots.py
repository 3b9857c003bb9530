"""The plots of a load test's report, each a PNG. Knows no files."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.ticker import FixedLocator, FuncFormatter

from loadtest.samples import OUTCOMES
from loadtest.windows import Window
from report.plots import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    YELLOW,
    draw_promise,
    finish,
    new_figure,
    set_milliseconds,
    to_png,
)

_OUTCOME_COLOURS = (GREEN, ORANGE, BLUE, YELLOW, PURPLE, GREY)
_SHARES = (0.0, 0.5, 0.9, 0.95, 0.99, 0.999)


@dataclass(frozen=True, slots=True)
class Point:
    """One point of latency against throughput.

    Attributes:
        answered_per_s: Right answers per second.
        p50_ms: Median latency of answers with 200.
        p99_ms: 99th percentile of their latency.
        is_kept: Whether the load kept its promise; None if it was not judged.
    """

    answered_per_s: float
    p50_ms: float
    p99_ms: float
    is_kept: bool | None = None


def plot_frontier(points: Sequence[Point], p99_ms: float, *, is_sequence: bool) -> bytes:
    """Draw latency against throughput.

    Args:
        points: One point per load; those without answers are left out.
        p99_ms: The promised p99, drawn as a line.
        is_sequence: Whether load grows from point to point; then they are joined.
    """
    figure = new_figure(3.8)
    axes = figure.subplots()
    known = sorted(
        (p for p in points if not math.isnan(p.p99_ms)), key=lambda p: (p.answered_per_s, p.p99_ms)
    )
    line = "-" if is_sequence else "none"
    for name, colour in (("p50", BLUE), ("p99", ORANGE)):
        values = [getattr(point, f"{name}_ms") for point in known]
        rates = [point.answered_per_s for point in known]
        axes.plot(rates, values, "o", linestyle=line, color=colour, markersize=4, label=name)
    broken = [p for p in known if p.is_kept is False]
    if broken:
        axes.plot(
            [p.answered_per_s for p in broken],
            [p.p99_ms for p in broken],
            "x",
            color=GREY,
            markersize=9,
            label="promise broken",
        )
    draw_promise(axes, p99_ms, f"promise: {p99_ms:g} ms")
    set_milliseconds(axes, [v for p in known for v in (p.p50_ms, p.p99_ms)] + [p99_ms])
    axes.set_xlabel("right answers a second")
    axes.set_xlim(left=0)
    finish(axes)
    return to_png(figure)


def plot_time(windows: Sequence[Window], p99_ms: float) -> bytes:
    """Draw latency percentiles over time, with the rates below."""
    figure = new_figure(5.2)
    latency, rate = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    seconds = [window.begin_s + window.seconds / 2 for window in windows]
    for name, colour in (("p50", BLUE), ("p95", YELLOW), ("p99", ORANGE)):
        values = [getattr(window, f"{name}_ms") for window in windows]
        latency.plot(seconds, values, color=colour, label=name, linewidth=1.4)
    draw_promise(latency, p99_ms, "promise")
    set_milliseconds(
        latency, [v for w in windows for v in (w.p50_ms, w.p95_ms, w.p99_ms)] + [p99_ms]
    )
    rate.plot(seconds, [w.offered_per_s for w in windows], color=GREY, label="sent", linewidth=1.2)
    rate.plot(seconds, [w.answered_per_s for w in windows], color=GREEN, label="right answers")
    rate.set_ylabel("requests a second")
    rate.set_ylim(bottom=0)
    rate.set_xlabel("seconds since the start, by the moment a request was meant to be sent")
    for axes in (latency, rate):
        finish(axes)
    return to_png(figure)


def plot_percentiles(latencies_ms: Sequence[float], p99_ms: float) -> bytes:
    """Draw the latency that each share of the answers stays within; the slowest get most room."""
    figure = new_figure(3.2)
    axes = figure.subplots()
    ordered = np.sort(np.asarray(latencies_ms))
    shares = (np.arange(len(ordered)) + 0.5) / len(ordered)
    axes.plot(-np.log10(1 - shares), ordered, color=BLUE)
    draw_promise(axes, p99_ms, f"promise: {p99_ms:g} ms")
    marks = [share for share in _SHARES if share <= shares[-1]]
    axes.xaxis.set_major_locator(FixedLocator([-math.log10(1 - share) for share in marks]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{100 * (1 - 10**-x):.4g} %"))
    axes.set_xlim(left=0)
    axes.set_xlabel("share of the answers with 200")
    set_milliseconds(axes, [*ordered[[0, -1]].tolist(), p99_ms])
    finish(axes)
    return to_png(figure)


def plot_outcomes(windows: Sequence[Window]) -> bytes:
    """Draw the outcomes of requests over time."""
    figure = new_figure(2.8)
    axes = figure.subplots()
    seconds = [window.begin_s + window.seconds / 2 for window in windows]
    kinds = [i for i in range(len(OUTCOMES)) if any(w.outcomes[i] for w in windows)]
    axes.stackplot(
        seconds,
        [[w.outcomes[i] / w.seconds for w in windows] for i in kinds],
        labels=[OUTCOMES[i] for i in kinds],
        colors=[_OUTCOME_COLOURS[i] for i in kinds],
    )
    axes.set_ylabel("requests a second")
    axes.set_xlabel("seconds since the start")
    axes.set_ylim(bottom=0)
    finish(axes)
    return to_png(figure)


def plot_batches(batch_rows: Sequence[tuple[float, int]]) -> bytes:
    """Draw the rows of the runs, from pairs (largest rows of the bucket, runs)."""
    figure = new_figure(2.8)
    axes = figure.subplots()
    last = max((i for i, (_, runs) in enumerate(batch_rows) if runs), default=0)
    shown = batch_rows[: last + 1]
    bounds = [bound for bound, _ in shown]
    names = []
    for below, bound in zip([0.0, *bounds], bounds, strict=False):
        first = int(below) + 1
        if math.isinf(bound):
            names.append(f"over {int(below)}")
        else:
            names.append(f"{first}" if first == bound else f"{first}-{int(bound)}")
    bars = axes.bar(names, [runs for _, runs in shown], color=BLUE, alpha=0.8)
    axes.bar_label(bars, [f"{runs:,}" for _, runs in shown], fontsize=8, color=GREY)
    axes.set_xlabel("rows of one run")
    axes.set_ylabel("runs")
    axes.margins(y=0.12)
    axes.spines[["top", "right"]].set_visible(False)
    return to_png(figure)


def plot_stages(means_ms: Mapping[str, float]) -> bytes:
    """Draw the mean time of a request by stage, one stage after the other."""
    figure = new_figure(1.9)
    axes = figure.subplots()
    left = 0.0
    colours = (BLUE, YELLOW, ORANGE, GREEN, GREY)
    for (name, mean_ms), colour in zip(means_ms.items(), colours, strict=False):
        axes.barh([0], [mean_ms], left=left, color=colour, label=f"{name}: {mean_ms:.3g} ms")
        left += mean_ms
    axes.set_yticks([])
    axes.set_xlabel("mean milliseconds of a request")
    axes.spines[["top", "right", "left"]].set_visible(False)
    figure.legend(loc="outside upper left", ncols=5, frameon=False, fontsize=9)
    return to_png(figure)
