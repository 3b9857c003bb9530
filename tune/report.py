"""The report of a tuning: one HTML page that needs nothing else, its pictures, and the figures.

``report.html`` holds its pictures inside; ``frontier.png``, ``goodput.png``, ``offers.png`` and
``tune.json`` lie beside it.
"""

import base64
import dataclasses
import html
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from models.tuned import Machine
from tune.journal import Journal
from tune.plots import plot_goodput, plot_offers, plot_sessions
from tune.points import DEFAULTS, Configuration, SessionPoint, frontier, latency_ms
from tune.search import Outcome, Wish

_STYLE = """
body { max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #1b1b1b; background: #fff;
       font: 16px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.6rem; margin-bottom: 0; } h2 { font-size: 1.2rem; margin-top: 2.5rem; }
p.note { color: #555; margin: .2rem 0 .8rem; } p.verdict { font-size: 1.2rem; font-weight: 600; }
img { max-width: 100%; height: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .9rem; }
th, td { padding: .15rem .9rem .15rem 0; text-align: left; border-bottom: 1px solid #e3e3e3; }
th.number, td.number { text-align: right; } th { font-weight: 600; }
tr.chosen td { background: #fff3e0; }
pre { background: #f4f4f4; padding: .8rem; white-space: pre-wrap; overflow-wrap: anywhere; }
"""


@dataclass(frozen=True, slots=True)
class Story:
    """What a report tells besides the measurements."""

    model: str
    machine: Machine
    wish: Wish
    outcome: Outcome
    verdict: str
    command: str


def write_report(out: Path, journal: Journal, story: Story) -> Path:
    """Write the page, its pictures and ``tune.json`` into a folder.

    Returns:
        The path of the page.
    """
    machine, wish, outcome = story.machine, story.wish, story.outcome
    pictures = {
        "goodput": plot_goodput(journal.served, outcome.choice),
        "offers": plot_offers(journal.served, outcome.choice, wish.p99_ms),
    }
    if journal.sessions:
        pictures["frontier"] = plot_sessions(journal.sessions, list(journal.served), wish.p99_ms)
    for name, png in pictures.items():
        (out / f"{name}.png").write_bytes(png)
    date = datetime.now(UTC).isoformat(timespec="seconds")
    about = f"{machine.cpu}, {machine.cores} cores, {machine.workers} workers, {machine.device}, "
    about += f"onnxruntime {machine.onnxruntime}; {date}"
    title = f"{story.model} with p99 within {wish.p99_ms:g} ms"
    parts = [
        f"<h1>{html.escape(title)}</h1>",
        _note(about),
        f'<p class="verdict">{html.escape(story.verdict)}</p>',
        "<h2>The service</h2>",
        _note("The highest rate of open arrivals at which 99 % of all requests are answered "
              "rightly within the promise, counted from the intended start. The first round chose "
              "the favourite, so only its later one is compared with the defaults'."),
        _image("goodput", pictures),
        _served_table(journal, outcome),
        "<h2>Every offer</h2>",
        _note("Each point is a rate that was offered; the highest one under the dotted line "
              "counts."),
        _image("offers", pictures),
        "<h2>The session alone</h2>",
        _note("No HTTP, no queue. Along a line batches double, from 1 row to the number at its "
              "end. Rings are what was served; the wide line is the frontier, which nothing "
              "beats in both."),
        _image("frontier", pictures),
        _session_table(journal),
        "<h2>Command</h2>",
        f"<pre>{html.escape(story.command)}</pre>",
    ]  # fmt: skip
    path = out / "report.html"
    path.write_text(_page(title, parts), encoding="utf-8")
    document = {
        "model": story.model, "date": date, "command": story.command, "verdict": story.verdict,
        "machine": dataclasses.asdict(machine), "wish": dataclasses.asdict(wish),
        "outcome": dataclasses.asdict(outcome),
        "served": [
            {"configuration": dataclasses.asdict(c), "title": c.title,
             "rounds": [dataclasses.asdict(r) for r in rounds]}
            for c, rounds in journal.served.items()
        ],
        "sessions": [
            dataclasses.asdict(point) | dataclasses.asdict(figure)
            for point, figure in sorted(journal.sessions.items())
        ],
    }  # fmt: skip
    (out / "tune.json").write_text(json.dumps(_finite(document), indent=1) + "\n")
    return path


def _served_table(journal: Journal, outcome: Outcome) -> str:
    def cells(configuration: Configuration) -> list[str]:
        rounds = journal.served[configuration]
        last = rounds[-1]
        return [
            configuration.title, ", ".join(f"{r.goodput_per_s:,.0f}" for r in rounds),
            _ms(last.p50_ms), _ms(last.p99_ms), last.bound, str(sum(len(r.trail) for r in rounds)),
        ]  # fmt: skip

    order = sorted(journal.served, key=lambda c: -journal.served[c][-1].goodput_per_s)
    names = ("configuration", "goodput, requests/s", "p50, ms", "p99, ms", "bound", "offers")
    chosen = outcome.choice or DEFAULTS
    return _table(
        names, [cells(c) for c in order], numbers={1, 2, 3, 5}, chosen={order.index(chosen)}
    )


def _session_table(journal: Journal) -> str:
    figures = journal.sessions
    best = set(frontier(figures))

    def cells(point: SessionPoint) -> list[str]:
        figure = figures[point]
        return [
            f"{point.precision}, {point.instances} x {point.threads}", str(point.rows),
            f"{figure.rows_per_s:,.0f}", _ms(figure.p50_ms), _ms(figure.p99_ms),
            _ms(latency_ms(figure)),
        ]  # fmt: skip

    order = sorted(figures)
    names = ("instances x threads", "rows", "rows/s", "run p50, ms", "run p99, ms", "two runs, ms")
    return _table(
        names, [cells(p) for p in order], numbers={1, 2, 3, 4, 5},
        chosen={i for i, point in enumerate(order) if point in best},
    )  # fmt: skip


def _table(
    names: Sequence[str], rows: Iterable[Sequence[str]], numbers: set[int], chosen: set[int]
) -> str:
    def line(cell: str, values: Sequence[str], kind: str = "") -> str:
        cells = (
            f"<{cell}{' class=number' if i in numbers else ''}>{html.escape(value)}</{cell}>"
            for i, value in enumerate(values)
        )
        return f"<tr{kind}>{''.join(cells)}</tr>"

    body = (line("td", row, " class=chosen" if i in chosen else "") for i, row in enumerate(rows))
    return f"<table>{line('th', names)}{''.join(body)}</table>"


def _image(name: str, pictures: dict[str, bytes]) -> str:
    if name not in pictures:
        return _note("Nothing was measured.")
    encoded = base64.b64encode(pictures[name]).decode()
    return f'<img alt="{name}" src="data:image/png;base64,{encoded}">'


def _note(text: str) -> str:
    return f'<p class="note">{html.escape(text)}</p>'


def _ms(value: float) -> str:
    return f"{value:.3g}" if math.isfinite(value) else "-"


def _finite(value: Any) -> Any:
    """Return a document without what JSON has no word for."""
    if isinstance(value, dict):
        return {name: _finite(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _page(title: str, parts: Iterable[str]) -> str:
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width">'
        f"<title>{html.escape(title)}</title><style>{_STYLE}</style></head>\n<body>\n"
        + "\n".join(parts)
        + "\n</body></html>\n"
    )
