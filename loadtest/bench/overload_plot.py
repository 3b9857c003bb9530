"""The figure of the overload bench: goodput and latency of each server against what is sent."""

from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from loadtest.report_plots import BLUE, GREEN, GREY, ORANGE, PURPLE, to_png

_COLOURS = (BLUE, ORANGE, PURPLE, GREEN)
_MARKERS = ("o", "s", "D", "^")


def plot_overload(results: dict[str, Any]) -> bytes:
    """Draw the results of ``bench_overload.run`` as PNG."""
    deadline_ms, capacity = results["plan"]["deadline_ms"], results["capacity_per_s"]
    figures = results["figures"]
    figure = Figure((8.0, 6.4), layout="constrained")
    goodput, latency = figure.subplots(2, 1, sharex=True)
    names = list(dict.fromkeys(f["server"] for f in figures))
    for name, colour, marker in zip(names, _COLOURS, _MARKERS, strict=False):
        mine = sorted((f for f in figures if f["server"] == name), key=lambda f: f["load"])
        loads = [f["load"] for f in mine]
        style = {"color": colour, "marker": marker, "markersize": 5, "label": name}
        goodput.plot(loads, [f["goodput_per_s"] for f in mine], **style)
        answered = [f for f in mine if f["p99_ms"]]
        latency.plot([f["load"] for f in answered], [f["p99_ms"] for f in answered], **style)
    top = max(f["load"] for f in figures)
    goodput.plot([0, 1, top], [0, capacity, capacity], ":", color=GREY, label="all that can be")
    goodput.set_ylabel(f"answers a second within {deadline_ms:g} ms")
    goodput.set_ylim(bottom=0)
    goodput.set_title(f"{results['plan']['model']}: answers in time, and the p99 of all answers")
    latency.axhline(deadline_ms, color=GREY, linestyle="--", linewidth=0.9, label="deadline")
    latency.set_yscale("log")
    latency.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}"))
    latency.yaxis.set_minor_formatter(NullFormatter())
    latency.set_ylabel("p99 of answers with 200, ms")
    latency.set_xlabel(f"sent, as a multiple of {capacity:,.0f} requests a second")
    for axes in (goodput, latency):
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_xlim(left=0)
        axes.legend(frameon=False, fontsize=9, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return to_png(figure)
