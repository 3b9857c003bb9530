"""What became of mutated input: a tally a kind, its failures, and the table that is committed.

``python -m tests.hostile.fuzz_report FILE... --into tests/hostile/fuzz.md`` writes the figures of
both fuzzers as one page.
"""

import argparse
import json
import os
import platform
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from models.machine import cpu_name

GROWTH_MIB = 50
MAX_FAILURES = 100  # a run with more of them ends: it has shown enough
PACKAGES = ("bentoml", "uvicorn", "httptools", "grpcio", "Pillow", "simplejpeg")


@dataclass
class Tally:
    """What became of the inputs of one kind.

    Attributes:
        kind: Format of images, or kind of requests.
        seeds: Files or requests that were mutated.
        count: Mutants that were sent.
        answers: By status, how many.
        slowest_ms: The longest answer; of images, the processor's time.
        seconds: The whole run.
        rss_before: Memory of the process after a warm-up, MiB; ``rss_after`` at the end.
        failures: One line each: the mutant's number, and what was wrong.
    """

    kind: str
    seeds: int
    count: int = 0
    answers: Counter[str] = field(default_factory=Counter)
    slowest_ms: float = 0.0
    seconds: float = 0.0
    rss_before: float = 0.0
    rss_after: float = 0.0
    failures: list[str] = field(default_factory=list)

    @property
    def grown(self) -> float:
        """Return by how much memory grew after the warm-up, MiB."""
        return self.rss_after - self.rss_before

    @property
    def has_failed_often(self) -> bool:
        """Whether it makes no sense to go on."""
        return len(self.failures) >= MAX_FAILURES

    def add(self, part: "Tally") -> None:
        """Add what another process did; the memory is that of the one that grew most."""
        self.count += part.count
        self.answers.update(part.answers)
        self.slowest_ms = max(self.slowest_ms, part.slowest_ms)
        self.failures += part.failures
        if not self.rss_after or part.grown > self.grown:
            self.rss_before, self.rss_after = part.rss_before, part.rss_after

    def check_memory(self) -> None:
        """Note a failure if memory grew."""
        if self.grown > GROWTH_MIB:
            self.failures.append(f"memory grew by {self.grown:.0f} MiB")

    def as_dict(self) -> dict[str, Any]:
        """Return all figures for JSON."""
        # dataclasses.asdict makes a Counter of a Counter's pairs.
        return {**vars(self), "answers": dict(self.answers.most_common())}


HEAD = (
    "| kind | seeds | mutants | answers | failures | slowest, ms | MiB before | after | seconds |\n"
    "|---|---|---|---|---|---|---|---|---|"
)


def row(tally: Tally) -> str:
    """Return one line of the table."""
    common = tally.answers.most_common(8)
    rest = tally.answers.total() - sum(count for _, count in common)
    answers = ", ".join(f"{name}: {count:,}" for name, count in common)
    if rest:
        answers += f", others: {rest:,}"
    return (
        f"| {tally.kind} | {tally.seeds} | {tally.count:,} | {answers} | {len(tally.failures)} | "
        f"{tally.slowest_ms:.0f} | {tally.rss_before:.0f} | {tally.rss_after:.0f} | "
        f"{tally.seconds:.0f} |"
    )


def report(title: str, tallies: list[Tally], path: Path | None) -> bool:
    """Print the table, write the figures; return whether something failed."""
    print("\n".join([HEAD, *map(row, tallies)]))
    if path:
        figures = {"title": title, "tallies": [tally.as_dict() for tally in tallies]}
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(figures, indent=1) + "\n")
    return any(tally.failures for tally in tallies)


def page(runs: list[dict[str, Any]]) -> str:
    """Return the figures of several runs as one page."""
    packages = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    lines = [
        "# Mutated input, and what became of it",
        "",
        f"{time.strftime('%Y-%m-%d')}, {cpu_name()}, {os.cpu_count()} cores, Python "
        f"{platform.python_version()}, {packages}. Written by `make fuzz`.",
        "",
        "A failure is a crash, an answer that blames the server, an answer after its deadline, no "
        f"answer, or memory\nthat grows by more than {GROWTH_MIB} MiB. The slowest image is in "
        "time of the processor, the slowest request as its client saw it.",
    ]
    for run in runs:
        tallies = [
            Tally(**{**tally, "answers": Counter(tally["answers"])}) for tally in run["tallies"]
        ]
        lines += ["", f"## {run['title']}", "", HEAD, *map(row, tallies)]
        failures = [f"- {tally.kind} {line}" for tally in tallies for line in tally.failures[:20]]
        lines += ["", *failures] if failures else []
    return "\n".join(lines) + "\n"


def main() -> None:
    """Run the command line; the exit code is 1 if a run had failures."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("files", type=Path, nargs="+", help="figures of the fuzzers, JSON")
    parser.add_argument("--into", type=Path, required=True, help="file to write, Markdown")
    given = parser.parse_args()
    runs = [json.loads(path.read_text()) for path in given.files]
    given.into.write_text(page(runs))
    sys.exit(any(tally["failures"] for run in runs for tally in run["tallies"]))


if __name__ == "__main__":
    main()
