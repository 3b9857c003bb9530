"""The plots of a tuning's report, each a PNG. Knows no files."""

import math
from collections.abc import Mapping, Sequence
from itertools import groupby

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter

from loadtest.tune.points import (
    DEFAULTS,
    Configuration,
    Served,
    SessionFigure,
    SessionPoint,
    frontier,
    latency_ms,
    settled,
)
from report.plots import (
    BLUE,
    COLOURS,
    GREEN,
    GREY,
    MARKERS,
    ORANGE,
    PURPLE,
    YELLOW,
    finish_log_log,
    new_figure,
    to_png,
)

_OTHERS = (BLUE, GREEN, PURPLE, YELLOW)  # beside the choice
_WIDTH = 8.5  # inches; the page is one column


def plot_sessions(
    figures: Mapping[SessionPoint, SessionFigure], served: Sequence[Configuration], p99_ms: float
) -> bytes:
    """Draw throughput against latency of the session alone: a line per shape, and the frontier."""
    figure = new_figure(5.2, _WIDTH)
    axes = figure.subplots()
    _draw_shapes(axes, figures)
    _draw_frontier(axes, figures)
    _draw_served(axes, figures, served)
    axes.axvline(p99_ms, color=GREY, linestyle=":", label=f"promise, {p99_ms:g} ms")
    axes.set(xscale="log", yscale="log")
    axes.set_xlabel("two runs, ms: what a row waits at most under full load")
    axes.set_ylabel("rows/s of all instances")
    finish_log_log(axes)
    figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=8)
    return to_png(figure)


def _draw_shapes(axes: Axes, figures: Mapping[SessionPoint, SessionFigure]) -> None:
    for number, (trio, group) in enumerate(groupby(sorted(figures), lambda point: point.trio)):
        points = list(group)
        precision, threads, instances = trio
        axes.plot(
            [latency_ms(figures[p]) for p in points],
            [figures[p].rows_per_s for p in points],
            color=COLOURS[number % len(COLOURS)],
            marker=MARKERS[number % len(MARKERS)],
            markersize=5,
            linewidth=1,
            label=f"{precision}, {instances} x {threads} threads",
        )
        last = points[-1]
        axes.annotate(
            f"{last.rows}",
            (latency_ms(figures[last]), figures[last].rows_per_s),
            xytext=(4, 3),
            textcoords="offset points",
            fontsize=7,
            color=GREY,
        )


def _draw_frontier(axes: Axes, figures: Mapping[SessionPoint, SessionFigure]) -> None:
    best = frontier(dict(figures))
    axes.plot(
        [latency_ms(figures[p]) for p in best],
        [figures[p].rows_per_s for p in best],
        color="black",
        linewidth=6,
        alpha=0.2,
        label="frontier",
    )


def _draw_served(
    axes: Axes,
    figures: Mapping[SessionPoint, SessionFigure],
    served: Sequence[Configuration],
) -> None:
    rings = [SessionPoint(*c.trio, c.max_batch_size) for c in served]
    rings = [p for p in rings if p in figures]
    axes.scatter(
        [latency_ms(figures[p]) for p in rings],
        [figures[p].rows_per_s for p in rings],
        s=130,
        facecolors="none",
        edgecolors="black",
        label="served, too",
    )


def plot_goodput(
    served: Mapping[Configuration, Sequence[Served]], choice: Configuration | None
) -> bytes:
    """Draw each configuration's goodput: a bar for its last complete round, a dot per round."""
    order = sorted(served, key=lambda c: settled(served[c]).goodput_per_s)
    figure = new_figure(1.2 + 0.42 * len(order), _WIDTH)
    axes = figure.subplots()
    chosen = choice or DEFAULTS
    axes.barh(
        [c.title for c in order],
        [settled(served[c]).goodput_per_s for c in order],
        color=[ORANGE if c == chosen else GREY if c == DEFAULTS else BLUE for c in order],
        height=0.65,
    )
    for line, configuration in enumerate(order):
        rounds = served[configuration]
        values = [r.goodput_per_s for r in rounds]
        axes.plot(values, [line] * len(values), "o", color="black", markersize=4)
        shown = settled(rounds)
        bound = {"client": ", bound by the client", "time": ", cut short"}.get(shown.bound, "")
        axes.annotate(
            f"{shown.goodput_per_s:,.0f}{bound}",
            (max(values), line),
            xytext=(6, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
        )
    axes.margins(x=0.35)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_xlabel("goodput: requests/s answered rightly within the promise; dots are rounds")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    return to_png(figure)


def plot_offers(
    served: Mapping[Configuration, Sequence[Served]], choice: Configuration | None, p99_ms: float
) -> bytes:
    """Draw p99 at every offered rate, which shows where each configuration breaks the promise."""
    figure = new_figure(4.6, _WIDTH)
    axes = figure.subplots()
    for number, configuration in enumerate(served):
        trail = sorted(
            (rate, p99)
            for one in served[configuration]
            for rate, _, p99 in one.trail
            if math.isfinite(p99)
        )
        is_special = configuration in (choice, DEFAULTS)
        best = {rate: p99 for rate, p99 in reversed(trail)}  # the lowest of each rate
        colour = _OTHERS[number % len(_OTHERS)]
        colour = {DEFAULTS: GREY, choice: ORANGE}.get(configuration, colour)
        axes.plot(
            sorted(best),
            [best[rate] for rate in sorted(best)],
            color=colour,
            marker=MARKERS[number % len(MARKERS)],
            markersize=4,
            linewidth=2 if is_special else 0.8,
            label=configuration.title,
        )
        axes.scatter([rate for rate, _ in trail], [p99 for _, p99 in trail], color=colour, s=5)
    axes.axhline(p99_ms, color=GREY, linestyle=":", label=f"promise, {p99_ms:g} ms")
    axes.set(xscale="log", yscale="log")
    axes.set_xlabel("requests/s offered, open arrivals")
    axes.set_ylabel("p99 of the answers, ms")
    finish_log_log(axes)
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=8)
    return to_png(figure)
