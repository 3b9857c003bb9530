"""How many planted wrong labels `foveal check` finds in Fashion-MNIST, and how long it takes.

``python -m tests.training.quality.proof --into training/quality/proof.md`` plants 2 % wrong labels
with a fixed seed, runs the command on the files, and writes the table.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from models.machine import available_cpus, cpu_name
from tests.server import ROOT
from tests.training.files import write_idx
from tests.training.quality.planted import plant, read_findings
from training.datasets.sources import read_source

SHARE = 0.02
CLASSES = 10
PARTS = {"train": "train", "t10k": "test"}

PAGE = """# Planted wrong labels in Fashion-MNIST

Written by `make check-proof`; do not edit. {date}, {cpu}, {cores} cores; load average at the
start {load:.1f}.

{planted:,} of the {images:,} labels ({share:.0%} of each split) are changed to another class, each
other class as often (seed 0). Nothing that saw the true labels is used:
`foveal check fashion-mnist --data-dir PLANTED`, cross-validated.

| the first rows of the list | planted among them | of all planted |
|---|---:|---:|
{rows}

The list has {listed:,} rows; the cross-validation agrees with {agreement:.2%} of the given labels.
Among the rest are Fashion-MNIST's own doubtful labels.

| stage | seconds |
|---|---:|
{stages}
| all but labels | {rest:.1f} |
| the command, start and imports included | {wall:.1f} |
| the same in processor time | {cpu_s:.1f} |
"""


def measure(folder: Path) -> dict[str, Any]:
    """Plant, check and count.

    Args:
        folder: For the planted files and the results.

    Returns:
        The values of ``PAGE``, and ``found``: planted rows among the first 1 and 2 times as many.
    """
    source = read_source("fashion-mnist", None)
    planted: set[tuple[str, str]] = set()
    for (name, split), part in zip(PARTS.items(), (source.train, source.test), strict=True):
        targets, rows = plant(part.targets_N, SHARE, CLASSES)
        write_idx(folder / f"{name}-images-idx3-ubyte", part.images_NHWC[..., 0])
        write_idx(folder / f"{name}-labels-idx1-ubyte", targets.astype(np.uint8))
        planted |= {(split, str(row)) for row in rows}
    load, begun_s = os.getloadavg()[0], time.monotonic()
    words = ["check", "fashion-mnist", "--data-dir", str(folder), "--out", str(folder / "out")]
    done = subprocess.run(
        [sys.executable, str(ROOT / "foveal.py"), *words, "--json"],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    wall_s = time.monotonic() - begun_s
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    document = json.loads(done.stdout)
    found = read_findings(folder / "out" / "findings.csv", "label")
    is_planted = [(row["split"], row["row"]) in planted for row in found]
    counts = {times: sum(is_planted[: times * len(planted)]) for times in (1, 2)}
    lines = [
        f"| {times * len(planted):,} | {count:,} | {count / len(planted):.1%} |"
        for times, count in counts.items()
    ]
    seconds = document["seconds"]
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "cpu": cpu_name(),
        "cores": available_cpus(),
        "load": load,
        "planted": len(planted),
        "images": document["images"],
        "share": SHARE,
        "rows": "\n".join(lines),
        "listed": len(found),
        "agreement": document["agreement"],
        "stages": "\n".join(f"| {stage} | {value:.1f} |" for stage, value in seconds.items()),
        "rest": sum(value for stage, value in seconds.items() if stage != "labels"),
        "wall": wall_s,
        "cpu_s": used.ru_utime + used.ru_stime,
        "found": {times: count / len(planted) for times, count in counts.items()},
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--into", type=Path, required=True, help="page to write")
    into: Path = parser.parse_args(arguments).into
    with tempfile.TemporaryDirectory() as folder:
        into.write_text(PAGE.format(**measure(Path(folder))), encoding="utf-8")
    print(into.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
