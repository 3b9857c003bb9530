"""The plot of the overload bench: goodput and latency of each server against the load."""

from typing import Any

from report.plots import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    draw_promise,
    finish,
    new_figure,
    set_logarithmic,
    to_png,
)

_COLOURS = (BLUE, GREY, ORANGE, PURPLE, GREEN)
_MARKERS = ("o", "v", "s", "D", "^")


def plot_overload(results: dict[str, Any]) -> bytes:
    """Draw the results of ``overload.run`` as PNG."""
    deadline_ms, capacity = results["plan"]["deadline_ms"], results["capacity_per_s"]
    figures = results["figures"]
    figure = new_figure(6.4)
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
    draw_promise(latency, deadline_ms, "deadline")
    set_logarithmic(latency)
    latency.set_ylabel("p99 of answers with 200, ms")
    latency.set_xlabel(f"sent, as a multiple of {capacity:,.0f} requests a second")
    for axes in (goodput, latency):
        axes.set_xlim(left=0)
        finish(axes)
    return to_png(figure)
