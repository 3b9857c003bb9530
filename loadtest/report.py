"""The report of a load test: one HTML page that needs nothing else, its plots, CSV and JSON.

``report.html`` holds its pictures inside, so that it can be mailed or kept; ``report/`` has them as
files, ``windows.csv`` and ``figures.json`` the numbers behind them.
"""

import csv
import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from loadtest.machine import machine_line
from loadtest.plots import (
    Point,
    plot_batches,
    plot_frontier,
    plot_outcomes,
    plot_percentiles,
    plot_stages,
    plot_time,
)
from loadtest.samples import OUTCOMES, RIGHT, WRONG
from loadtest.scrape import ServerFigures
from loadtest.trial import FIGURES, Outcome
from loadtest.windows import Window, p99_growth, windows_of, windows_of_steps
from loadtest.words import (
    batch_words,
    frontier_words,
    outcome_words,
    percentile_words,
    stage_words,
    time_words,
)
from report.numbers import three_digits, without_nan
from report.page import Picture, Table, render, write_pictures

_TEMPLATE = Path(__file__).with_name("report.html")
_CAUSES = 12  # Causes of errors that the page lists one by one.


def write_report(folder: Path, outcome: Outcome, command: str) -> Path:
    """Write ``report.html``, ``report/*.png``, ``figures.json``, ``windows.csv``, ``search.csv``.

    Args:
        folder: Created if missing; files of an earlier report are replaced.
        outcome: The load test.
        command: Command that repeats it.

    Returns:
        Path of the page.
    """
    pictures = folder / "report"
    pictures.mkdir(parents=True, exist_ok=True)
    for old in pictures.glob("*.png"):
        old.unlink()
    windows = windows_of(outcome.samples, outcome.traffic.duration_s)
    drawn = _pictures(outcome, windows)
    write_pictures(pictures, drawn)
    _write_windows(folder / "windows.csv", windows)
    if outcome.found is not None:
        _write_search(folder / "search.csv", outcome)
    document = to_json(outcome, command)
    (folder / "figures.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    stages, counts = _server_tables(outcome.server) if outcome.server else (None, None)
    text = render(
        _TEMPLATE,
        title=f"Load test: {outcome.model}",
        about=f"{outcome.url}, {document['date']}; {load_words(outcome)}",
        summary=_summary(outcome),
        warnings=warnings_of(outcome),
        pictures=drawn,
        causes=Table(("cause", "count"), [(c, f"{n:,}") for c, n in _most(outcome)], (1,)),
        figures=Table(
            ("figure", "value"), [(n, three_digits(outcome.figures[n])) for n in FIGURES], (1,)
        ),
        stages=stages,
        counts=counts,
        command=command,
        machine=document["machine"],
    )
    path = folder / "report.html"
    path.write_text(text, encoding="utf-8")
    return path


def to_json(outcome: Outcome, command: str) -> dict[str, Any]:
    """Return everything but the single requests as a JSON document; NaN becomes None."""
    traffic = asdict(outcome.traffic)
    document = {
        "url": outcome.url,
        "model": outcome.model,
        "date": _now(),
        "machine": machine_line(),
        "command": command,
        "traffic": traffic,
        "promise_p99_ms": outcome.p99_ms,
        "figures": dict(outcome.figures),
        "causes": dict(outcome.samples.causes),
        "retry_after_s": dict(outcome.samples.retry_after_s),
        "client": {
            "limit_per_s": outcome.client_limit_per_s,
            "cpu_shares": outcome.samples.cpu_shares,
            "is_saturated": outcome.is_client_saturated,
        },
        "server": None if outcome.server is None else asdict(outcome.server),
        "found": None if outcome.found is None else asdict(outcome.found),
    }
    plain: dict[str, Any] = without_nan(document)
    return plain


def lines_of(outcome: Outcome) -> list[tuple[str, str]]:
    """Return the lines that the command prints, as (name, value)."""
    found = outcome.found
    search = (
        []
        if found is None
        else [
            (
                "highest rate that keeps p99",
                f"{three_digits(found.rate_per_s)}/s, bound by the {found.bound}",
            )
        ]
    )
    return [
        ("model", outcome.model),
        ("load", load_words(outcome)),
        *search,
        *((name, three_digits(outcome.figures[name])) for name in FIGURES),
        ("client's own limit", f"{three_digits(outcome.client_limit_per_s)}/s"),
        *((cause, f"{count:,} times") for cause, count in _most(outcome)),
        *(("warning", line) for line in warnings_of(outcome)),
    ]


def warnings_of(outcome: Outcome) -> list[str]:
    """Return warnings that limit what the figures mean."""
    lines = []
    if outcome.is_client_saturated:
        lines.append(
            "The load generator could not keep up, so the service may do more than these figures "
            "say: give the generator more processes (--processes) or another machine."
        )
    if outcome.found is not None and outcome.found.bound == "client":
        lines.append("The client, not the service, ended the search: the service can do more.")
    if outcome.found is not None and outcome.found.best is None:
        lines.append("No rate that was tried kept the promise.")
    return lines


def load_words(outcome: Outcome) -> str:
    """Return one line that describes the load."""
    traffic = outcome.traffic
    top = max(level for _, level in traffic.steps)
    what = "open arrivals/s" if traffic.is_open else "users in a closed loop"
    steps = f" in {len(traffic.steps)} steps" if len(traffic.steps) > 1 else ""
    kinds = ", ".join(outcome.samples.kinds)
    return f"{kinds}: {top:,.0f} {what}{steps} for {traffic.duration_s:g} s, by {traffic.engine}"


def _pictures(outcome: Outcome, windows: list[Window]) -> list[Picture]:
    """Return the pictures in the order of the page."""
    promise = outcome.p99_ms
    points, words, is_sequence = _points(outcome, windows)
    has_points = any(not math.isnan(point.p99_ms) for point in points)
    frontier = plot_frontier(points, promise, is_sequence=is_sequence) if has_points else None
    counted = (
        "Counted from the intended start of each request, so that waiting for others shows."
        if outcome.traffic.is_open
        else "A closed loop: a slow service gets fewer requests, so queueing does not show."
    )
    change = p99_growth(windows)
    if len(outcome.traffic.steps) == 1 and not math.isnan(change):
        counted += f" p99 of the last fifth is {change:.2f} times that of the first."
    answers = np.isin(outcome.samples.outcome_N, (RIGHT, WRONG))
    latencies_ms = (outcome.samples.latency_s_N[answers] * 1e3).tolist()
    return [
        Picture("frontier", "Latency against throughput", words, frontier, frontier_words(points)),
        Picture(
            "time",
            "Percentiles over time",
            counted,
            plot_time(windows, promise),
            time_words(windows),
        ),
        Picture(
            "percentiles",
            "Latency of all answers",
            "The slowest 1 % get as much room as the others.",
            plot_percentiles(latencies_ms, promise) if latencies_ms else None,
            percentile_words(latencies_ms),
        ),
        Picture(
            "outcomes",
            "Outcomes and errors",
            "right: 200 with the recorded labels; wrong: 200 with others; refused: 429; "
            "expired: 504; failed: other statuses and broken connections; timeout: given up by "
            "the client.",
            plot_outcomes(windows),
            outcome_words(windows),
        ),
        *(_server_pictures(outcome, outcome.server) if outcome.server else []),
    ]


def _server_pictures(outcome: Outcome, server: ServerFigures) -> list[Picture]:
    padded = "" if server.padded_rows is None else f" {server.padded_rows:,} more were padding."
    mean = three_digits(server.mean_batch_rows)
    rows = f"{server.rows:,} rows in {server.batches:,} runs: {mean} each"
    means = _stage_means(outcome, server)
    return [
        Picture(
            "batches",
            "Batch sizes",
            f"{rows}.{padded}",
            plot_batches(server.batch_rows) if server.batches else None,
            batch_words(server.batch_rows),
        ),
        Picture(
            "stages",
            "Where the time goes",
            "Means of what the service measured; beside the service is what the client sees on "
            "top: the network, sockets, and the client's own work.",
            plot_stages(means) if means else None,
            stage_words(means),
        ),
    ]


def _points(outcome: Outcome, windows: list[Window]) -> tuple[list[Point], str, bool]:
    if outcome.found is not None:
        points = [Point(o.answered_per_s, o.p50_ms, o.p99_ms, o.keeps) for o in outcome.found.trail]
        best = three_digits(outcome.found.rate_per_s)
        return (
            points,
            (
                f"Every measurement of the search: {best} requests/s are the most that kept the "
                f"promise; bound by the {outcome.found.bound}."
            ),
            False,
        )
    steps = outcome.traffic.steps
    if len(steps) > 1:
        slices = windows_of_steps(outcome.samples, steps, outcome.traffic.duration_s)
        points = [Point(w.answered_per_s, w.p50_ms, w.p99_ms) for w in slices]
        is_climbing = all(one[1] < next_[1] for one, next_ in pairwise(steps))
        return points, "One point a step of the load.", is_climbing
    points = [Point(w.answered_per_s, w.p50_ms, w.p99_ms) for w in windows]
    return (
        points,
        ("One point a slice of time. A whole curve comes from --shape steps or --find-max."),
        False,
    )


def _stage_means(outcome: Outcome, server: ServerFigures) -> dict[str, float]:
    """Return the mean milliseconds of a request by stage; the last stages get the remainder."""
    stages = server.stages
    if not stages["queue"].count or not stages["request"].count:
        return {}
    means = {name: stages[name].mean_ms for name in ("decode", "queue")}
    means = {name: value for name, value in means.items() if not math.isnan(value)}
    request_ms = stages["request"].mean_ms
    # Not the mean run: that counts batches, and most requests are in the larger, longer ones.
    means["run and answer"] = max(0.0, request_ms - sum(means.values()))
    answered = outcome.samples.latency_s_N[outcome.samples.outcome_N == RIGHT]
    if len(answered):
        means["beside the service"] = max(0.0, float(answered.mean()) * 1e3 - request_ms)
    return means


def _summary(outcome: Outcome) -> dict[str, str]:
    figures = {
        "right answers a second": three_digits(outcome.figures["rps"]),
        "p50 / p99, ms": " / ".join(three_digits(outcome.figures[n]) for n in ("p50_ms", "p99_ms")),
        f"within {outcome.p99_ms:g} ms, a second": three_digits(outcome.figures["goodput_rps"]),
        "errors": three_digits(outcome.figures["errors"]),
        "rows a run": three_digits(outcome.figures["mean_batch_rows"]),
        "client's own limit, a second": three_digits(outcome.client_limit_per_s),
    }
    if outcome.found is not None:
        figures = {"highest rate that keeps p99": three_digits(outcome.found.rate_per_s), **figures}
    return figures


def _most(outcome: Outcome) -> list[tuple[str, int]]:
    """Return the most frequent causes of errors; the others as one sum."""
    causes = list(outcome.samples.causes.items())
    others = sum(count for _, count in causes[_CAUSES:])
    return causes[:_CAUSES] + ([("other causes", others)] if others else [])


def _server_tables(server: ServerFigures) -> tuple[Table, Table]:
    stages = [
        (name, f"{s.count:,}", three_digits(s.mean_ms), f"< {three_digits(s.p99_below_ms)}")
        for name, s in server.stages.items()
        if s.count
    ]
    counts = [(f"answers with {status}", f"{n:,}") for status, n in server.statuses.items()]
    counts += [("rows run", f"{server.rows:,}"), ("rows dropped", f"{server.dropped_rows:,}")]
    return (
        Table(("stage", "count", "mean, ms", "p99, ms"), stages, (1, 2, 3)),
        Table(("what", "count"), counts, (1,)),
    )


def _write_windows(path: Path, windows: Sequence[Window]) -> None:
    names = ("begin_s", "seconds", "offered_per_s", "answered_per_s", "p50_ms", "p95_ms", "p99_ms")
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow((*names, *OUTCOMES))
        for window in windows:
            values = (_cell(getattr(window, name)) for name in names)
            writer.writerow((*values, *window.outcomes))


def _write_search(path: Path, outcome: Outcome) -> None:
    assert outcome.found is not None, "written only after a search; this is a bug"
    names = (
        "rate_per_s",
        "offered_per_s",
        "answered_per_s",
        "goodput_per_s",
        "kept_share",
        "p50_ms",
        "p95_ms",
        "p99_ms",
        "refused",
        "expired",
        "failed",
        "wrong",
        "cpu_share",
        "late_p95_ms",
    )
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow((*names, "keeps"))
        for each in outcome.found.trail:
            writer.writerow((*(_cell(getattr(each, name)) for name in names), int(each.keeps)))


def _cell(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.6g}"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
