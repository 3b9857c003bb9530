"""Everything that only a GPU can show, measured by one command in under eight minutes.

    python -m loadtest.bench.gpu_check --out OUT [--carried DIR] [--rehearse]

Each step is a process of its own with a limit of its own, and may also use what those before it
left of theirs. A step that fails, or lacks something that the machine has not, is a line in the
table and stops no other. What they measured becomes ``OUT/report.txt`` and
``results/gpu_<card>_<date>`` (text, JSON and a plot). A rehearsal runs every step on the CPU with
small inputs, and writes into OUT alone.
"""

import argparse
import importlib
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from loadtest.bench import results_file
from loadtest.bench.gpu_steps import HOME, PYTHON, Step, steps

_SHOWN_BYTES = 300


def lacking(step: Step) -> str:
    """Return what a step lacks here, empty if nothing."""
    for name in step.needs:
        try:
            found = importlib.util.find_spec(name)
        except ModuleNotFoundError:
            found = None
        if found is None and shutil.which(name) is None:
            return f"{name} is not installed"
    if step.after is not None and not step.after.exists():
        return f"no {step.after.name}: an earlier step did not leave it"
    return ""


def run(
    planned: Sequence[Step], out: Path, say: Callable[[str], None] = print
) -> list[dict[str, Any]]:
    """Run the steps: each ends when the limits of all up to it have passed, at the latest.

    Returns:
        Of each step ``name``, ``outcome`` (done, failed, skipped or ended), ``seconds`` and
        ``why``; its output is in ``OUT/<name>.log``.
    """
    ends_at = time.monotonic()
    outcomes: list[dict[str, Any]] = []
    for step in planned:
        started = time.monotonic()
        ends_at += step.limit_s
        if why := lacking(step):
            outcome = "skipped"
        else:
            log = out / f"{step.name.replace(' ', '_')}.log"
            outcome, why = _run(step, ends_at - started, log)
        seconds = time.monotonic() - started
        outcomes.append({"name": step.name, "outcome": outcome, "seconds": seconds, "why": why})
        say(f"{step.name}: {outcome} in {seconds:.0f} s{': ' if why else ''}{why}")
    return outcomes


def _run(step: Step, limit_s: float, log: Path) -> tuple[str, str]:
    with log.open("wb") as file:
        process = subprocess.Popen(
            step.words, cwd=HOME, stdout=file, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            code = process.wait(limit_s)
        except subprocess.TimeoutExpired:
            # Its children with it: a service that goes on would take the next step's device.
            os.killpg(process.pid, 9)
            process.wait()
            return "ended", f"not done after {limit_s:.0f} s; {log.name} has what it measured"
    lines = log.read_text(errors="replace").strip().splitlines()
    return ("done", "") if not code else ("failed", (lines or ["no output"])[-1][:_SHOWN_BYTES])


def report(out: Path, card: str, outcomes: Sequence[dict[str, Any]]) -> tuple[str, dict[str, Any]]:
    """Return Markdown and JSON of all that the steps left in a folder."""
    results: dict[str, Any] = {"card": card, "steps": list(outcomes)}
    for path in sorted(out.glob("*.json")):
        results[path.stem] = json.loads(path.read_text())
    lines = [f"{card}.", "", "| step | outcome | seconds | |", "|---|---|---|---|"]
    for each in outcomes:
        why = str(each["why"]).replace("|", "/")
        lines.append(f"| {each['name']} | {each['outcome']} | {each['seconds']:.0f} | {why} |")
    for path in sorted(out.glob("*.md")):
        lines += ["", f"## {path.stem.replace('_', ' ')}", "", path.read_text().strip()]
    scored = _last_json(out / "score.log")
    if scored:
        results["score"] = scored
        lines += ["", "## score", "", f"`{json.dumps(scored)[:2000]}`"]
    return "\n".join(lines) + "\n", results


def _last_json(path: Path) -> dict[str, Any]:
    """Return the object that a log ends with, on one line or several; {} if there is none."""
    try:
        text = path.read_text()
        found: dict[str, Any] = json.loads(text[text.rindex("\n{" if "\n{" in text else "{") :])
    except (OSError, ValueError):
        return {}
    return found


def _card(*, is_rehearsal: bool) -> str:
    if is_rehearsal:
        return "rehearsal: no GPU"
    program = (
        "from service.session.devices import runtime, select_device\n"
        "print(runtime().facts(select_device('cuda').index).name)\n"
    )
    done = subprocess.run(
        [PYTHON, "-c", program], cwd=HOME, capture_output=True, text=True, timeout=90, check=False
    )
    if done.returncode:
        sys.exit(f"gpu-check: {(done.stderr.strip().splitlines() or ['no GPU'])[-1]}")
    return done.stdout.strip().splitlines()[-1]


def _plot(results: dict[str, Any]) -> bytes | None:
    """Return the plot of formats, None where matplotlib is missing or nothing was measured."""
    if importlib.util.find_spec("matplotlib") is None or not results.get("formats"):
        return None
    drawing = importlib.import_module("loadtest.bench.gpu_plot")
    picture: bytes | None = drawing.plot_formats(results["formats"]["figures"])
    return picture


def main() -> None:
    """Run the check and write its results; exits with 1 if a step failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--carried", type=Path)
    parser.add_argument("--rehearse", action="store_true")
    options = parser.parse_args()
    out, is_rehearsal = options.out.absolute(), options.rehearse
    (out / "made").mkdir(parents=True, exist_ok=True)
    (out / "models").mkdir(exist_ok=True)
    card = _card(is_rehearsal=is_rehearsal)
    print(card, flush=True)
    planned = steps(out, options.carried, is_rehearsal=is_rehearsal)
    outcomes = run(planned, out, say=lambda line: print(line, flush=True))
    text, results = report(out, card, outcomes)
    # Also there: from some machines only OUT comes back.
    (out / "report.txt").write_text(text)
    print(text)
    if not is_rehearsal:
        name = "gpu_" + (re.sub(r"[^a-z0-9]+", "-", card.lower()).strip("-") or "unknown")
        picture = _plot(results)
        path = results_file.write(
            name, f"On a GPU: {card}", "make gpu-check", text, results, picture
        )
        print(path)
    sys.exit(any(each["outcome"] in ("failed", "ended") for each in outcomes))


if __name__ == "__main__":
    main()
