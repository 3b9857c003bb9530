"""The report of a tuning: one HTML page that needs nothing else, its pictures, and the figures.

``report.html`` holds its pictures inside; ``frontier.png``, ``goodput.png``, ``offers.png`` and
``tune.json`` lie beside it.
"""

import dataclasses
import html
import json
import math
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from loadtest.tune.journal import Journal
from loadtest.tune.plots import plot_goodput, plot_offers, plot_sessions
from loadtest.tune.points import (
    DEFAULTS,
    Configuration,
    SessionPoint,
    frontier,
    latency_ms,
    settled,
)
from loadtest.tune.search import Outcome, Wish
from models.machine import Machine
from report.page import heading, image, page, paragraph, table, without_nan


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
        paragraph(about, "note"),
        paragraph(story.verdict, "verdict"),
        heading(
            "The service",
            "The highest rate of open arrivals at which 99 % of all requests are answered rightly "
            "within the promise, counted from the intended start. The first round chose the "
            "favourite, so only its later one is compared with the defaults'.",
        ),
        _picture("goodput", pictures),
        _served_table(journal, outcome),
        heading(
            "Every offer",
            "Each point is a rate that was offered; the highest under the dotted line counts.",
        ),
        _picture("offers", pictures),
        heading(
            "The session alone",
            "No HTTP, no queue. Along a line batches double, from 1 row to the number at its end. "
            "Rings are what was served; the wide line is the frontier, which nothing beats in "
            "both. Marked rows of the table are on it.",
        ),
        _picture("frontier", pictures),
        _session_table(journal),
        heading("Command", "Repeats it; what is measured already is not measured again."),
        f"<pre>{html.escape(story.command)}</pre>",
    ]
    path = out / "report.html"
    path.write_text(page(title, parts), encoding="utf-8")
    document = {
        "model": story.model,
        "date": date,
        "command": story.command,
        "verdict": story.verdict,
        "machine": dataclasses.asdict(machine),
        "wish": dataclasses.asdict(wish),
        "outcome": dataclasses.asdict(outcome),
        "served": [
            {
                "configuration": dataclasses.asdict(c),
                "title": c.title,
                "rounds": [dataclasses.asdict(r) for r in rounds],
            }
            for c, rounds in journal.served.items()
        ],
        "sessions": [
            dataclasses.asdict(point) | dataclasses.asdict(figure)
            for point, figure in sorted(journal.sessions.items())
        ],
    }
    (out / "tune.json").write_text(json.dumps(without_nan(document), indent=1) + "\n")
    return path


def _served_table(journal: Journal, outcome: Outcome) -> str:
    def cells(configuration: Configuration) -> list[str]:
        rounds = journal.served[configuration]
        last = settled(rounds)
        return [
            configuration.title,
            ", ".join(f"{r.goodput_per_s:,.0f}" for r in rounds),
            _ms(last.p50_ms),
            _ms(last.p99_ms),
            last.bound,
            str(sum(len(r.trail) for r in rounds)),
        ]

    order = sorted(journal.served, key=lambda c: -settled(journal.served[c]).goodput_per_s)
    names = ("configuration", "goodput, requests/s", "p50, ms", "p99, ms", "bound", "offers")
    chosen = outcome.choice or DEFAULTS
    return table(
        names, [cells(c) for c in order], numbers={1, 2, 3, 5}, marked={order.index(chosen)}
    )


def _session_table(journal: Journal) -> str:
    figures = journal.sessions
    best = set(frontier(figures))

    def cells(point: SessionPoint) -> list[str]:
        figure = figures[point]
        return [
            f"{point.precision}, {point.instances} x {point.threads}",
            str(point.rows),
            f"{figure.rows_per_s:,.0f}",
            _ms(figure.p50_ms),
            _ms(figure.p99_ms),
            _ms(latency_ms(figure)),
        ]

    order = sorted(figures)
    names = ("instances x threads", "rows", "rows/s", "run p50, ms", "run p99, ms", "two runs, ms")
    return table(
        names,
        [cells(p) for p in order],
        numbers={1, 2, 3, 4, 5},
        marked={i for i, point in enumerate(order) if point in best},
    )


def _picture(name: str, pictures: dict[str, bytes]) -> str:
    return image(name, pictures[name]) if name in pictures else "<p>Nothing was measured.</p>"


def _ms(value: float) -> str:
    return f"{value:.3g}" if math.isfinite(value) else "-"
