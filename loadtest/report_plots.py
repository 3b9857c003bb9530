"""The figures of a load test's report, each a PNG. Knows matplotlib and numbers, no files."""

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullFormatter

from loadtest.samples import OUTCOMES
from loadtest.windows import Window

# Colours that stay apart in grey and for the colour-blind (Okabe and Ito).
BLUE, ORANGE, GREEN, PURPLE, YELLOW, GREY = (
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#CC79A7",
    "#E69F00",
    "#666666",
)
_OUTCOME_COLOURS = (GREEN, ORANGE, BLUE, YELLOW, PURPLE, GREY)
_WIDTH, _DPI = 8.0, 110  # inches; the page is one column
_SHARES = (0.0, 0.5, 0.9, 0.95, 0.99, 0.999)


@dataclass(frozen=True, slots=True)
class Point:
    """One load and what came of it: a point of latency against throughput.

    Attributes:
        answered_per_s: Right answers.
        p50_ms: Of answers with 200.
        p99_ms: Likewise.
        is_kept: Whether it kept its promise; None where none was judged.
    """

    answered_per_s: float
    p50_ms: float
    p99_ms: float
    is_kept: bool | None = None


def to_png(figure: Figure) -> bytes:
    """Return a figure as PNG."""
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=_DPI)
    return stream.getvalue()


def plot_frontier(points: Sequence[Point], p99_ms: float, *, is_sequence: bool) -> bytes:
    """Draw latency against throughput.

    Args:
        points: One a load; those without answers are left out.
        p99_ms: The promise, drawn as a line.
        is_sequence: Whether more load makes the next point: then they are joined.
    """
    figure = Figure((_WIDTH, 3.8), layout="constrained")
    axes = figure.subplots()
    known = sorted(
        (p for p in points if not math.isnan(p.p99_ms)), key=lambda p: (p.answered_per_s, p.p99_ms)
    )
    line = "-" if is_sequence else ""
    for name, colour in (("p50", BLUE), ("p99", ORANGE)):
        values = [getattr(point, f"{name}_ms") for point in known]
        rates = [point.answered_per_s for point in known]
        axes.plot(rates, values, line, color=colour, marker="o", markersize=4, label=name)
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
    axes.axhline(p99_ms, color=GREY, linestyle="--", linewidth=0.9, label=f"promise: {p99_ms:g} ms")
    _milliseconds(axes, [v for p in known for v in (p.p50_ms, p.p99_ms)] + [p99_ms])
    axes.set_xlabel("right answers a second")
    axes.set_xlim(left=0)
    _finish(axes)
    return to_png(figure)


def plot_time(windows: Sequence[Window], p99_ms: float) -> bytes:
    """Draw latency percentiles, and the rates below them, over time."""
    figure = Figure((_WIDTH, 5.2), layout="constrained")
    latency, rate = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    seconds = [window.begin_s + window.seconds / 2 for window in windows]
    for name, colour in (("p50", BLUE), ("p95", YELLOW), ("p99", ORANGE)):
        values = [getattr(window, f"{name}_ms") for window in windows]
        latency.plot(seconds, values, color=colour, label=name, linewidth=1.4)
    latency.axhline(p99_ms, color=GREY, linestyle="--", linewidth=0.9, label="promise")
    _milliseconds(latency, [v for w in windows for v in (w.p50_ms, w.p95_ms, w.p99_ms)] + [p99_ms])
    rate.plot(seconds, [w.offered_per_s for w in windows], color=GREY, label="sent", linewidth=1.2)
    rate.plot(seconds, [w.answered_per_s for w in windows], color=GREEN, label="right answers")
    rate.set_ylabel("requests a second")
    rate.set_ylim(bottom=0)
    rate.set_xlabel("seconds since the start, by the moment a request was meant to be sent")
    for axes in (latency, rate):
        _finish(axes)
    return to_png(figure)


def plot_percentiles(latencies_ms: Sequence[float], p99_ms: float) -> bytes:
    """Draw the latency that each share of the answers stays within, with room for the last ones."""
    figure = Figure((_WIDTH, 3.2), layout="constrained")
    axes = figure.subplots()
    ordered = np.sort(np.asarray(latencies_ms))
    shares = (np.arange(len(ordered)) + 0.5) / len(ordered)
    axes.plot(-np.log10(1 - shares), ordered, color=BLUE)
    axes.axhline(p99_ms, color=GREY, linestyle="--", linewidth=0.9, label=f"promise: {p99_ms:g} ms")
    marks = [share for share in _SHARES if share <= shares[-1]]
    axes.xaxis.set_major_locator(FixedLocator([-math.log10(1 - share) for share in marks]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{100 * (1 - 10**-x):.4g} %"))
    axes.set_xlim(left=0)
    axes.set_xlabel("share of the answers with 200")
    _milliseconds(axes, [*ordered[[0, -1]].tolist(), p99_ms])
    _finish(axes)
    return to_png(figure)


def plot_outcomes(windows: Sequence[Window]) -> bytes:
    """Draw what became of the requests of each moment."""
    figure = Figure((_WIDTH, 2.8), layout="constrained")
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
    _finish(axes)
    return to_png(figure)


def plot_batches(batch_rows: Sequence[tuple[float, int]]) -> bytes:
    """Draw how many rows the runs got: (largest rows of the bucket, runs)."""
    figure = Figure((_WIDTH, 2.8), layout="constrained")
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
    """Draw where a request's mean time goes, one stage after the other."""
    figure = Figure((_WIDTH, 1.9), layout="constrained")
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


def _milliseconds(axes: Axes, values: Sequence[float]) -> None:
    """Set a latency axis: logarithmic where the values span more than one power of ten."""
    known = [value for value in values if not math.isnan(value) and value > 0]
    axes.set_ylabel("milliseconds")
    if known and max(known) > 12 * min(known):
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}"))
        axes.yaxis.set_minor_formatter(NullFormatter())
    else:
        axes.set_ylim(bottom=0)
        axes.yaxis.set_major_locator(MaxNLocator(6))


def _finish(axes: Axes) -> None:
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=9, loc="upper left", bbox_to_anchor=(1.0, 1.0))
