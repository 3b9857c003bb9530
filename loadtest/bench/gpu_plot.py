"""The plot of the GPU check: images/s by number format and layout, a panel a model."""

from collections.abc import Sequence
from typing import Any

from report.plots import BLUE, ORANGE, finish, new_figure, to_png

_COLOURS = {"nchw": BLUE, "nhwc": ORANGE}


def plot_formats(figures: Sequence[dict[str, Any]]) -> bytes | None:
    """Draw figures of ``gpu_formats`` as PNG; None if none was measured."""
    measured = [f for f in figures if "rows" in f and f["search"] == "exhaustive"]
    if not measured:
        return None
    models = list(dict.fromkeys(f["model"] for f in measured))
    picture = new_figure(2.6 * len(models))
    panels = picture.subplots(len(models), 1, squeeze=False)[:, 0]
    for panel, model in zip(panels, models, strict=True):
        mine = [f for f in measured if f["model"] == model]
        names = [f"{f['format']} {f['layout']}, {f['rows']} rows" for f in mine]
        rates = [f["images_per_s"] for f in mine]
        layouts = [f["layout"] for f in mine]
        # One entry of the legend each; names that begin with _ have none.
        labels = [x if x not in layouts[:n] else f"_{n}" for n, x in enumerate(layouts)]
        panel.barh(names, rates, color=[_COLOURS[x] for x in layouts], label=labels)
        panel.invert_yaxis()
        panel.set_xlim(left=0)
        panel.set_title(model)
        finish(panel)
    panels[-1].set_xlabel("images a second, from host to host")
    return to_png(picture)
