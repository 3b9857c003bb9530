"""Draw the dashboard without Grafana: one HTML file with every panel, from a running Prometheus.

``python -m deploy.page http://localhost:9090 --minutes 30 --out dashboard.html``. The same queries
as Grafana's, over everything that Prometheus scrapes; no scripts, nothing fetched.
"""

import argparse
import html
import io
import re
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
from matplotlib.figure import Figure
from numpy.typing import NDArray

from deploy.panels import ROWS, Panel

# Every instance and every model; requests that found no model have an empty label.
WHERE = 'job="foveal"'
_POINTS = 240
# Okabe and Ito's colours: told apart by those who see fewer, too.
_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#6B6B6B", "#B8A800")
_SCALES: dict[str, tuple[float, str]] = {
    "s": (1000, "ms"),
    "percentunit": (100, "%"),
    "reqps": (1, "requests/s"),
    "rowsps": (1, "rows/s"),
    "bytes": (2**-20, "MiB"),
    "percent": (1, "%"),
    "celsius": (1, "°C"),
    "watt": (1, "W"),
    "short": (1, ""),
}


@dataclass(frozen=True, slots=True)
class Series:
    """One line of a panel.

    Attributes:
        name: Its legend.
        times_s: float64 [T], Unix time.
        values: float64 [T], in the panel's unit; NaN where Prometheus has none.
        labels: As Prometheus tells them.
    """

    name: str
    times_s: NDArray[np.float64]
    values: NDArray[np.float64]
    labels: dict[str, str]


class Prometheus:
    """Asks a Prometheus.

    Args:
        client: With its address.
        end_s: Unix time that is asked about.
        span_s: Seconds before it.
        window: What rates are taken over, such as ``1m``.
    """

    def __init__(self, client: httpx.Client, end_s: float, span_s: float, window: str) -> None:
        self._client = client
        self._end_s = end_s
        self._span_s = span_s
        self._window = window

    def series(self, panel: Panel) -> list[Series]:
        """Return the lines of a panel; of a number or a table what is now.

        Raises:
            httpx.HTTPError: Prometheus does not answer.
            ValueError: It does not understand the expression.
        """
        found = []
        step_s = self._span_s / _POINTS
        for query in panel.queries:
            said = self._ask(
                "query_range",
                query=query.filled(WHERE, self._window),
                end=f"{self._end_s:.3f}",
                start=f"{self._end_s - self._span_s:.3f}",
                step=f"{step_s:.3f}",
            )
            for series in said:
                points = np.array(series["values"], dtype=np.float64)
                labels = {k: v for k, v in series["metric"].items() if k != "__name__"}
                times, values = _with_gaps(points[:, 0], points[:, 1], step_s)
                found.append(Series(_named(query.legend, labels), times, values, labels))
        return found

    def _ask(self, what: str, **parameters: str) -> list[dict[str, Any]]:
        answer = self._client.post(f"/api/v1/{what}", data=parameters)
        said = answer.json()
        if said["status"] != "success":
            raise ValueError(f"{parameters['query']}: {said['error']}")
        result: list[dict[str, Any]] = said["data"]["result"]
        return result


def _with_gaps(
    times_s: NDArray[np.float64], values: NDArray[np.float64], step_s: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Put NaN where points are missing: no line goes over what is not known."""
    gaps = np.flatnonzero(np.diff(times_s) > 1.5 * step_s) + 1
    return np.insert(times_s, gaps, times_s[gaps - 1] + step_s), np.insert(values, gaps, np.nan)


def _named(legend: str, labels: dict[str, str]) -> str:
    return re.sub(r"{{(\w+)}}", lambda found: labels.get(found[1], "") or "none", legend)


def page(prometheus: Prometheus, title: str) -> str:
    """Return the whole page.

    Args:
        prometheus: Who is asked.
        title: What was watched, and when.
    """
    parts = [f"<h1>{html.escape(title)}</h1>"]
    for row in ROWS:
        parts.append(f"<h2>{html.escape(row.title)}</h2><section>")
        parts += [_figure(panel, prometheus.series(panel)) for panel in row.panels]
        parts.append("</section>")
    return _FRAME.format(title=html.escape(title), body="\n".join(parts))


def _figure(panel: Panel, series: list[Series]) -> str:
    if not series:
        inner = '<p class="none">no data</p>'
    elif panel.kind == "number":
        inner = "".join(
            f'<p class="number">{_written(one.values[-1], panel.unit)}'
            f"<small>{html.escape(one.name)}</small></p>"
            for one in series
        )
    elif panel.kind == "table":
        inner = _table(panel, series)
    else:
        inner = _chart(panel, series)
    return (
        f'<figure style="grid-column: span {panel.width}"><h3>{html.escape(panel.title)}</h3>'
        f"{inner}<figcaption>{html.escape(panel.says)}</figcaption></figure>"
    )


def _written(value: float, unit: str) -> str:
    scale, name = _SCALES[unit]
    return f"{value * scale:.4g}{' ' * (name not in ('', '%'))}{name}"


def _table(panel: Panel, series: list[Series]) -> str:
    """Return what is now; a line that has ended is left out."""
    latest = max(one.times_s[-1] for one in series)
    rows = sorted(
        [
            _written(one.values[-1], panel.unit) if key == "Value" else one.labels.get(key, "")
            for key, _ in panel.columns
        ]
        for one in series
        if one.times_s[-1] == latest
    )
    head = "".join(f"<th>{html.escape(name)}</th>" for _, name in panel.columns)
    body = "".join(
        "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows
    )
    return f"<table><tr>{head}</tr>{body}</table>"


def _chart(panel: Panel, series: list[Series]) -> str:
    """Return an SVG."""
    scale, unit = _SCALES[panel.unit]
    with mpl.rc_context({"svg.fonttype": "none", "font.family": "sans-serif", "font.size": 9}):
        figure = Figure(figsize=(panel.width * 0.56, 2.5), layout="constrained")
        axes = figure.add_subplot()
        if panel.kind == "stacked":
            _stack(axes, series, scale)
        else:
            for i, one in enumerate(series):
                axes.plot(
                    _days(one.times_s),
                    one.values * scale,
                    color=_COLOURS[i % len(_COLOURS)],
                    linestyle="--" if one.name.endswith("in training") else "-",
                    linewidth=1.3,
                    label=one.name,
                )
        axes.set_ylim(0, axes.dataLim.y1 * 1.08 or 1)
        axes.set_ylabel(unit)
        axes.grid(visible=True, color="#ddd", linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
        locator = AutoDateLocator(maxticks=7)  # type: ignore[no-untyped-call]  # matplotlib's
        axes.xaxis.set_major_locator(locator)
        formatter = ConciseDateFormatter(locator, show_offset=False)  # type: ignore[no-untyped-call]
        axes.xaxis.set_major_formatter(formatter)
        columns = max(1, panel.width // 4)
        figure.legend(loc="outside lower left", ncols=columns, frameon=False, fontsize=8)
        drawn = io.StringIO()
        figure.savefig(drawn, format="svg", transparent=True)
    return drawn.getvalue()[drawn.getvalue().index("<svg") :]


def _days(times_s: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return matplotlib's dates: days since 1970."""
    return times_s / 86_400


def _stack(axes: Axes, series: list[Series], scale: float) -> None:
    times_s = np.unique(np.concatenate([one.times_s for one in series]))
    heights = np.zeros((len(series), len(times_s)))
    for height, one in zip(heights, series, strict=True):
        height[np.searchsorted(times_s, one.times_s)] = np.nan_to_num(one.values) * scale
    colours = [_COLOURS[i % len(_COLOURS)] for i in range(len(series))]
    names = [one.name for one in series]
    axes.stackplot(_days(times_s), heights, labels=names, colors=colours, alpha=0.75)


_FRAME = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<meta name="viewport" content="width=device-width">
<style>
:root {{ color-scheme: light; }}
body {{ font: 14px/1.4 system-ui, sans-serif; color: #222; background: #f4f4f2; margin: 1.5rem auto;
  max-width: 100rem; padding: 0 1rem; }}
h1 {{ font-size: 1.3rem; }} h2 {{ font-size: 1.05rem; margin: 1.6rem 0 .5rem; }}
section {{ display: grid; grid-template-columns: repeat(24, 1fr); gap: .7rem; }}
figure {{ background: #fff; border: 1px solid #ddd; border-radius: 4px; margin: 0; padding: .7rem;
  display: flex; flex-direction: column; min-width: 0; overflow-x: auto; }}
h3 {{ font-size: .95rem; margin: 0 0 .3rem; }}
figure svg {{ width: 100%; height: auto; }}
figcaption {{ color: #666; font-size: .8rem; margin-top: auto; padding-top: .3rem; }}
.number {{ font-size: 2.2rem; margin: .5rem 0; }} .number small {{ font-size: .9rem; color: #666;
  margin-left: .5rem; }}
.none {{ color: #888; padding: 3rem 0; text-align: center; }}
table {{ border-collapse: collapse; font-size: .9rem; }}
th, td {{ text-align: left; padding: .2rem .8rem .2rem 0; border-bottom: 1px solid #eee; }}
@media (max-width: 60rem) {{ section {{ display: block; }} figure {{ margin-bottom: .7rem; }} }}
</style></head><body>
{body}
</body></html>
"""


def main() -> None:
    """Write the page."""
    parser = argparse.ArgumentParser(description="Draw the dashboard as one HTML file.")
    parser.add_argument("url", help="Prometheus, such as http://localhost:9090")
    parser.add_argument("--minutes", type=float, default=60, help="how far back (60)")
    parser.add_argument("--window", default="1m", help="what rates are taken over (1m)")
    parser.add_argument("--out", type=Path, default=Path("dashboard.html"))
    options = parser.parse_args()
    now = time.time()
    at = time.strftime("%Y-%m-%d %H:%M", time.gmtime(now))
    try:
        with httpx.Client(base_url=options.url, timeout=30) as client:
            prometheus = Prometheus(client, now, options.minutes * 60, options.window)
            drawn = page(prometheus, f"Foveal: {options.minutes:.3g} minutes to {at} UTC")
    except (httpx.HTTPError, ValueError) as error:
        sys.exit(f"{options.url}: expected a Prometheus that answers, got: {error}")
    options.out.write_text(drawn)
    print(options.out)


if __name__ == "__main__":
    main()
