"""40 pairs of a network and its transform from a user's environment to HTTP, as one page.

``python -m tests.adoption.table --into tests/adoption/table.md`` needs ``make .venv/.user``; the
figures go into a JSON file beside the page. Ends with 1 if a pair falls short.
"""

import argparse
import json
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from loadtest.machine import machine_line
from tests.adoption.adopting import (
    LEAST_CHANGED,
    LEAST_LABELS,
    PAIRS,
    Row,
    adopt,
    adopt_apart,
    ask,
    compare,
    copy_project,
    train,
    write_photographs,
)
from tests.models.photographs import KINDS, SOURCES
from tests.server import running_server
from tests.user_environment import PACKAGES, make_python

PHOTOGRAPHS, LARGEST = 300, 4000
_OF_A_SERVER = 5
_COMMAND = "make adopt-table"


class Bench:
    """A user's environment and project, and the photographs.

    Args:
        folder: Where all of it goes.
        count: How many photographs.
    """

    def __init__(self, folder: Path, count: int) -> None:
        self.folder = folder
        self.python = make_python(folder / "environment")
        self.project = copy_project(folder / "project")
        self.photographs = folder / "photographs"
        write_photographs(self.photographs, count, LARGEST)

    def publish(self, name: str, models: Path) -> Row | None:
        """Train and adopt a pair; return a row only if that fails."""
        start = time.monotonic()
        try:
            train(self.python, self.project, self.photographs, [name])
            refused = adopt(
                adopt_apart, self.python, self.project, self.photographs, models, name
            ).strip()
        except AssertionError as error:
            refused = str(error).splitlines()[-1]
        took = f"{time.monotonic() - start:.0f} s"
        print(f"{name}: {refused or 'adopted'}, {took}", file=sys.stderr, flush=True)
        return Row(name, refused=refused) if refused else None

    def measure(self, names: Sequence[str], jobs: int) -> Iterator[Row]:
        """Publish some pairs, serve them together, ask each, and remove them."""
        models = self.folder / f"models-{names[0]}"
        models.mkdir()
        with ThreadPoolExecutor(jobs) as pool:
            refused = list(pool.map(lambda name: self.publish(name, models), names))
        yield from (row for row in refused if row is not None)
        published = [name for name, row in zip(names, refused, strict=True) if row is None]
        files = sorted(self.photographs.iterdir())
        if published:
            with running_server(models, self.folder) as server:
                for name in published:
                    row = compare(self.project, name, models, ask(server, name, files))
                    print(row, file=sys.stderr, flush=True)
                    yield row
        shutil.rmtree(models)
        for name in names:
            for file in self.project.glob(f"{name}.*"):
                file.unlink()


def transform_of(name: str) -> str:
    """Return a pair's transform in words."""
    pair = PAIRS[name]
    given: dict[str, Any] = pair["transform"]
    if pair["library"] == "torchvision":
        steps = f"Resize({given['resize']}, {given['filter']})"
        steps += f", CenterCrop({given['crop']})" if "crop" in given else ""
        return f"{given['preset']}: {steps}" if "preset" in given else steps
    if pair["library"] == "timm":
        mode = given.get("crop_mode", "center")
        return f"{given['size'][0]}, {given['filter']}, crop_pct {given['crop_pct']}, {mode}"
    options = {key: value for key, value in given.get("options", {}).items()}
    said = "".join(f", {key} {value}" for key, value in options.items())
    return f"{given['processor']}ImageProcessorPil, {given['filter']}{said}".replace("'", "")


def line_of(row: Row) -> str:
    """Return a pair's line of the table."""
    pair = PAIRS[row.name]
    first = f"| {pair['library']} {pair['network']} | {transform_of(row.name)} | {pair['way']} |"
    if row.refused:
        return f"{first} refused: {row.refused} | | | | | | |"
    return (
        f"{first} {row.exporter} | {row.labels} | {row.margin:.1e} | {row.wrong_filter} | "
        f"{row.wrong_crop} | {row.same} of {row.photographs} | {row.difference:.1e} |"
    )


def page(rows: Sequence[Row], figures: dict[str, Any]) -> str:
    """Return the page."""
    failed = [failure for row in rows for failure in row.failures()]
    lines = [
        "# Pairs of a network and its transform, from the user's environment to HTTP",
        "",
        f"{figures['machine']}, {figures['date']}, `{figures['command']}`, "
        f"{figures['minutes']:.0f} minutes.",
        f"{figures['versions']}.",
        "",
        f"{len(rows) - len({failure.split(':')[0] for failure in failed})} of {len(rows)} pairs "
        "hold: over HTTP every photograph gets the first label of the user's own code, and",
        "probabilities within 0.001.",
        "",
        f"The {figures['photographs']} photographs are crops of the {len(SOURCES)} that",
        "scikit-learn and matplotlib ship (china.jpg, flower.jpg, grace_hopper.jpg), from 20 to",
        f"{LARGEST:,} pixels a side, with noise, by a fixed seed, in {len(KINDS)} kinds of files:",
        f"{'; '.join(KINDS)}.",
        "",
        "The networks have random weights by a fixed seed (normal, 1.5 by the root of the inputs),",
        "their batch norms the statistics of some of the photographs. The last layer is fitted so",
        "that the photographs get many of 37 labels: random directions in the principal components",
        "of its inputs, the first four left out, each scaled to variance 1; of 200 draws the one",
        "whose least difference between a first and a second probability is largest (margin).",
        "",
        "Wrong filter, wrong crop: how many first labels change in the user's own pipeline if its",
        "transform has bicubic for bilinear (else bilinear), or crops another share. A pair falls",
        f"short with less than {LEAST_LABELS} labels in the user's answers, or less than "
        f"{LEAST_CHANGED} that change.",
        "",
        "Way: `make` is a function of a Python file, `folder` as transformers writes it; `dynamo`",
        "and `torchscript` are ONNX files that the user exports by torch's newer or older",
        "exporter, `static` with a fixed batch size; `.pt` is TorchScript, `.pt2` an exported",
        "program. Exporter: whose graph is served.",
        "",
        "| network | transform | way | exporter | labels | margin | wrong filter | wrong crop "
        "| same label | largest difference |",
        "|---|---|---|---|---|---|---|---|---|---|",
        *map(line_of, rows),
        "",
        *(f"Falls short: {failure}" for failure in failed),
    ]
    return "\n".join(lines).rstrip() + "\n"


def versions() -> str:
    """Return the versions that decide about the figures."""
    ours = [f"{name} {version(name)}" for name in ("torch", "onnx", "onnxscript", "onnxruntime")]
    users = [
        next(PACKAGES.glob(f"{name}-*.dist-info")).stem.replace("-", " ")
        for name in ("torchvision", "timm", "transformers")
    ]
    return ", ".join([*users, *ours, f"Pillow {version('pillow')}"])


def kept(file: Path, names: Sequence[str]) -> tuple[list[Row], float]:
    """Return the rows of an earlier run that are not measured again, and the minutes they took."""
    if not file.is_file() or set(names) == set(PAIRS):
        return [], 0.0
    told = json.loads(file.read_text())
    rows = [Row(**row) for row in told["pairs"]]
    return [row for row in rows if row.name in PAIRS and row.name not in names], told["minutes"]


def write(into: Path, rows: Sequence[Row], minutes: float, photographs: int) -> None:
    """Write the page, and its figures beside it."""
    order = list(PAIRS)
    rows = sorted(rows, key=lambda row: order.index(row.name))
    figures = {
        "machine": machine_line(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": _COMMAND,
        "minutes": round(minutes, 1),
        "largest_process_mib": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss >> 10,
        "versions": versions(),
        "photographs": photographs,
        "pairs": [asdict(row) for row in rows],
    }
    into.write_text(page(rows, figures), encoding="utf-8")
    into.with_suffix(".json").write_text(json.dumps(figures, indent=1) + "\n")


def main() -> int:
    """Measure; write the page after each group of pairs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--photographs", type=int, default=PHOTOGRAPHS, help="How many.")
    parser.add_argument("--pairs", nargs="*", default=list(PAIRS), help="Names; others are kept.")
    parser.add_argument("--jobs", type=int, default=2, help="Pairs that are adopted at a time.")
    parser.add_argument("--into", type=Path, required=True, help="The page.")
    given = parser.parse_args()
    start = time.monotonic()
    rows, minutes = kept(given.into.with_suffix(".json"), given.pairs)
    with tempfile.TemporaryDirectory(prefix="foveal-pairs-") as folder:
        bench = Bench(Path(folder), given.photographs)
        for first in range(0, len(given.pairs), _OF_A_SERVER):
            rows += bench.measure(given.pairs[first : first + _OF_A_SERVER], given.jobs)
            took = minutes + (time.monotonic() - start) / 60
            write(given.into, rows, took, given.photographs)
    return 1 if any(row.failures() for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
