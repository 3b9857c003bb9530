"""The report of a tuning: one HTML page that needs nothing else, its pictures, and JSON.

``report.html`` holds its pictures inside; ``frontier.png``, ``goodput.png``, ``offers.png`` and
``tune.json`` lie beside it.
"""

import dataclasses
import json
import math
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

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
from report.numbers import without_nan
from report.page import Picture, Table, render, write_pictures

_TEMPLATE = Path(__file__).with_name("report.html")


@dataclass(frozen=True, slots=True)
class Story:
    """What a report contains besides the measurements."""

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
    machine, date = story.machine, datetime.now(UTC).isoformat(timespec="seconds")
    goodput, offers, frontier_ = _pictures(journal, story)
    write_pictures(out, [goodput, offers, frontier_])
    about = f"{machine.cpu}, cores: {machine.cores}, workers: {machine.workers}, {machine.device}, "
    about += f"onnxruntime {machine.onnxruntime}; {date}"
    text = render(
        _TEMPLATE,
        title=f"{story.model} with p99 within {story.wish.p99_ms:g} ms",
        about=about,
        verdict=story.verdict,
        goodput=goodput,
        offers=offers,
        frontier=frontier_,
        served=_served_table(journal, story.outcome),
        sessions=_session_table(journal),
        command=story.command,
    )
    path = out / "report.html"
    path.write_text(text, encoding="utf-8")
    document = without_nan(_document(journal, story, date))
    (out / "tune.json").write_text(json.dumps(document, indent=1) + "\n")
    return path


def _pictures(journal: Journal, story: Story) -> tuple[Picture, Picture, Picture]:
    choice, p99_ms = story.outcome.choice, story.wish.p99_ms
    frontier_png = (
        plot_sessions(journal.sessions, list(journal.served), p99_ms) if journal.sessions else None
    )
    return (
        Picture(
            "goodput",
            "The service",
            "The highest rate of open arrivals at which 99 % of all requests are answered rightly "
            "within the promise, counted from the intended start. The first round chose the "
            "favourite, so only its later one is compared with the defaults'.",
            plot_goodput(journal.served, choice),
            _goodput_words(journal),
        ),
        Picture(
            "offers",
            "Every offer",
            "Each point is a rate that was offered; the highest under the dotted line counts.",
            plot_offers(journal.served, choice, p99_ms),
            f"{sum(len(r.trail) for rounds in journal.served.values() for r in rounds)} offers to "
            f"{len(journal.served)} configurations, against p99 of {p99_ms:g} ms.",
        ),
        Picture(
            "frontier",
            "The session alone",
            "No HTTP, no queue. Along a line batches double, from 1 row to the number at its end. "
            "Rings were also served; the wide line is the frontier: no other point is better in "
            "both. Its points are marked in the table.",
            frontier_png,
            _session_words(journal),
        ),
    )


def _goodput_words(journal: Journal) -> str:
    best = max(journal.served, key=lambda c: settled(journal.served[c]).goodput_per_s)
    rate = settled(journal.served[best]).goodput_per_s
    return (
        f"Goodput of {len(journal.served)} configurations; the highest is {rate:,.0f} requests/s, "
        f"of {best.title}."
    )


def _session_words(journal: Journal) -> str:
    if not journal.sessions:
        return "Nothing was measured."
    point, figure = max(journal.sessions.items(), key=lambda item: item[1].rows_per_s)
    return (
        f"{len(journal.sessions)} points; the most rows a second are {figure.rows_per_s:,.0f}, of "
        f"{point.instances} x {point.threads} threads at {point.rows} rows."
    )


def _document(journal: Journal, story: Story, date: str) -> dict[str, Any]:
    """Return ``tune.json``."""
    return {
        "model": story.model,
        "date": date,
        "command": story.command,
        "verdict": story.verdict,
        "machine": dataclasses.asdict(story.machine),
        "wish": dataclasses.asdict(story.wish),
        "outcome": dataclasses.asdict(story.outcome),
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


def _served_table(journal: Journal, outcome: Outcome) -> Table:
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
    return Table(
        names, [cells(c) for c in order], numbers={1, 2, 3, 5}, marked={order.index(chosen)}
    )


def _session_table(journal: Journal) -> Table:
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
    return Table(
        names,
        [cells(p) for p in order],
        numbers={1, 2, 3, 4, 5},
        marked={i for i, point in enumerate(order) if point in best},
    )


def _ms(value: float) -> str:
    return f"{value:.3g}" if math.isfinite(value) else "-"
