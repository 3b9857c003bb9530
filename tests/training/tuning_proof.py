"""What fine-tuning gives on CIFAR-10: five classes learned before, five from 20 images each.

``python -m tests.training.tuning_proof --data-dir DIR --into training/tuning.md`` trains on the
first five classes, fine-tunes on 20 images a class of the other five, and trains three networks
from scratch on the same images in at least the same processor time. Nothing was chosen on the test
split.
"""

import argparse
import dataclasses
import os
import tempfile
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import parquet

from models.machine import available_cpus, cpu_name
from training.config import TrainConfig
from training.datasets.cifar import LABELS
from training.fit import fit
from training.pipeline import load_data, train
from training.recipes import resolve
from training.report.curves import read_curves
from training.runs import Outcome, read_run

IMAGES = 20
SHARED: dict[str, Any] = {"validation": 0.05, "keep": "last", "autocast": "none"}
# As the recipes of ``cifar10``, with batches for 95 images; a moving average over 500 steps would
# still hold the first weights after so few of them.
SCRATCH: dict[str, dict[str, Any]] = {
    "cnn": {"batch_size": 16, "ema": 0.0},
    "resnet": {"batch_size": 16, "ema": 0.0},
    "speednet": {"batch_size": 32, "lr": 0.1, "widths": (64, 128, 128), "depth": 2},
}
EARLIER: dict[str, Any] = {"epochs": 24, "autocast": "auto"}

PAGE = """# Fine-tuning against training from scratch

Written by `make tuning-proof`; do not edit. {date}, {cpu}, {cores} cores; load average at the start
{load:.1f}.

A `{network}` learns CIFAR-10's first five classes ({first}; JPEG copy,
{earlier_epochs} epochs, test accuracy {earlier:.2%}). Then the other five ({other})
are learned from {images} images a class, drawn by a seed from the training part; one of them a
class is held out for the temperature. Test accuracy on the {tested:,} test images of these classes.

| seed | | test accuracy | epochs | seconds | processor seconds |
|---|---|---:|---:|---:|---:|
{rows}

Fine-tuned is `foveal train --dataset parquet:FOLDER --init RUN` with its own recipe; the linear
probe adds `--freeze body`. From scratch are the recipes of CIFAR-10, in batches that suit 95
images, for as many epochs as take the processor time of the fine-tuned run or more; the best of the
three is taken by the test accuracy, in their favour. On average the fine-tuned run is
**{gain:.1f} points** better than the best of them, in at most {longest:.0f} s of wall time and
{processor:.0f} s of processor time, reading, measuring and the report included.
"""


def write_split(folder: Path, out: Path, classes: range, images: int | None, seed: int) -> Path:
    """Write ``train.parquet`` and ``test.parquet`` of some classes, with names as labels."""
    out.mkdir(parents=True, exist_ok=True)
    for part, count in (("train", images), ("test", None)):
        table = parquet.read_table(folder / f"{part}.parquet")
        targets_N = np.array(table["label"].to_pylist())
        chosen = [_draw(np.flatnonzero(targets_N == k), count, seed, k) for k in classes]
        table = table.take(pa.array(np.concatenate(chosen)))
        names = pa.array([LABELS[k] for k in table["label"].to_pylist()])
        pixels = table["image"].combine_chunks()
        parquet.write_table(pa.table({"image": pixels, "label": names}), out / f"{part}.parquet")
    return out


def _draw(
    rows_N: NDArray[np.int64], count: int | None, seed: int, target: int
) -> NDArray[np.int64]:
    return np.random.default_rng((seed, target)).permutation(rows_N)[:count]


@dataclasses.dataclass(frozen=True, slots=True)
class Measured:
    """One run: its figures, and the seconds that it took."""

    epochs: int
    outcome: Outcome
    wall_s: float
    cpu_s: float

    @property
    def accuracy(self) -> float:
        """Of the test split."""
        return self.outcome.test.accuracy


def measure(config: TrainConfig) -> Measured:
    """Train, and take the time."""
    wall_s, cpu_s = time.monotonic(), time.process_time()
    run = train(config)
    wall_s, cpu_s = time.monotonic() - wall_s, time.process_time() - cpu_s
    return Measured(len(read_curves(run)), read_run(run)[1], wall_s, cpu_s)


def epochs_within(config: TrainConfig, cpu_s: float) -> int:
    """Return the epochs that take as much processor time, and a tenth more."""
    dataset = load_data(config)
    spent = []
    for epochs in (4, 24):
        part = dataclasses.replace(config, epochs=epochs, run=config.run.with_suffix(f".{epochs}"))
        started_s = time.process_time()
        fit(part, dataset, show_progress=False)
        spent.append(time.process_time() - started_s)
    return max(8, round(1.1 * cpu_s / max(1e-3, (spent[1] - spent[0]) / 20)))


def compare(folder: Path, data: Path, earlier: Path, seed: int) -> dict[str, Measured]:
    """Fine-tune, probe, and train from scratch on one draw of images."""
    name = f"parquet:{write_split(data, folder / f'other-{seed}', range(5, 10), IMAGES, seed)}"
    given = SHARED | {"seed": seed}
    tuned = resolve(name, None, folder / f"tuned-{seed}", init=earlier, **given)
    probe = resolve(name, None, folder / f"probe-{seed}", init=earlier, freeze="body", **given)
    results = {"fine-tuned": measure(tuned), "linear probe": measure(probe)}
    for network, options in SCRATCH.items():
        run = folder / f"{network}-{seed}"
        # The recipes of the dataset by its name, on its images in another folder.
        recipe = resolve("cifar10", network, run, **(given | options))
        config = dataclasses.replace(recipe, dataset=name)
        epochs = epochs_within(config, results["fine-tuned"].cpu_s)
        results[f"{network} from scratch"] = measure(dataclasses.replace(config, epochs=epochs))
    for title, measured in results.items():
        print(seed, title, f"{measured.accuracy:.4f}", flush=True)
    return results


def describe(results: dict[int, dict[str, Measured]]) -> dict[str, Any]:
    """Return the values of ``PAGE`` that come from the comparisons."""
    lines, gains = [], []
    for seed, runs in results.items():
        for title, run in runs.items():
            lines.append(
                f"| {seed} | {title} | {run.accuracy:.2%} | {run.epochs} | {run.wall_s:.0f} | "
                f"{run.cpu_s:.0f} |"
            )
        scratch = [run.accuracy for title, run in runs.items() if title.endswith("scratch")]
        gains.append(runs["fine-tuned"].accuracy - max(scratch))
    tuned = [runs["fine-tuned"] for runs in results.values()]
    return {
        "rows": "\n".join(lines),
        "gain": 100 * float(np.mean(gains)),
        "longest": max(run.wall_s for run in tuned),
        "processor": max(run.cpu_s for run in tuned),
        "tested": next(iter(results.values()))["fine-tuned"].outcome.test.images,
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-dir", type=Path, required=True, help="folder of the parquet copy")
    parser.add_argument("--into", type=Path, required=True, help="page to write")
    parser.add_argument("--earlier", type=Path, help="finished run on the first five classes")
    parser.add_argument("--seeds", type=int, default=2, help="draws of images")
    given = parser.parse_args(arguments)
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        earlier: Path = given.earlier or folder / "earlier"
        if given.earlier is None:
            first = write_split(given.data_dir, folder / "first", range(5), None, 0)
            recipe = resolve("cifar10", "cnn", earlier, **EARLIER)
            train(dataclasses.replace(recipe, dataset=f"parquet:{first}"))
        record, outcome = read_run(earlier)
        results: dict[int, dict[str, Measured]] = {}
        for seed in range(given.seeds):
            results[seed] = compare(folder, given.data_dir, earlier, seed)
            page = PAGE.format(
                date=datetime.now(UTC).strftime("%Y-%m-%d"),
                cpu=cpu_name(),
                cores=available_cpus(),
                load=load,
                network=record.config.network,
                first=", ".join(LABELS[:5]),
                other=", ".join(LABELS[5:]),
                images=IMAGES,
                earlier=outcome.test.accuracy,
                earlier_epochs=record.config.epochs,
                **describe(results),
            )
            given.into.write_text(page, encoding="utf-8")
    print(page)


if __name__ == "__main__":
    main()
