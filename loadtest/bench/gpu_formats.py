"""Number formats and layouts on a GPU, and where the time of a first start goes.

    python -m loadtest.bench.gpu_formats --out DIR [--resnet50 MODELS] [--lower DIR]

Images/s are from uint8 arrays of the host to answers there, two batches in turns, as the service
runs them. ``--lower`` has ``cifar10-cnn.fp16.onnx``, ``--resnet50`` is a repository that has this
model. ``--device cpu`` is a rehearsal: every line of it runs, and no figure means anything.
"""

import argparse
import json
import logging
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from loadtest.bench.device import staged_s
from loadtest.bench.timing import median_s, random_images
from models.artifact import Precision
from models.repository import ModelRepository
from service.errors import InferenceError
from service.pipeline.limits import BatchLimits
from service.rollout.loading import LoadOptions, load
from service.session.devices import select_device
from service.session.formats import Choice, Variant, variants
from service.session.planning import DeviceOptions
from service.session.plans import SelectedDevice
from service.session.session import Session

HOME = Path(__file__).resolve().parents[2]
ROWS = (64, 256)
_SECONDS, _RUNS = 0.3, 5


@dataclass(frozen=True, slots=True)
class _Subject:
    """A model to measure: its files by precision."""

    name: str
    files: dict[Precision, Path]


def measure_formats(
    subject: _Subject, selected: SelectedDevice, rows: Sequence[int]
) -> Iterator[dict[str, Any]]:
    """Measure every format and layout of a model; what does not run is a line with ``error``."""
    reference = Session(subject.files["fp32"], DeviceOptions().plan(Variant("fp32"), 4, 1, ()))
    shape = reference.row_shape
    sample = random_images(8, shape)
    expected = reference.run(sample).probabilities
    gated = {precision for precision in subject.files if precision != "fp32"}
    for variant in variants(selected.device, "auto", "auto", gated):
        for search in ("exhaustive", "heuristic") if selected.device == "cuda" else ("exhaustive",):
            figure: dict[str, Any] = {"model": subject.name, "search": search}
            figure |= {"format": variant.format, "layout": variant.layout}
            try:
                device = DeviceOptions(selected, buckets=tuple(rows), tf32="auto")
                plan = device.plan(variant, 1, rows[-1], shape)
                started = time.perf_counter()
                session = Session(subject.files[variant.precision], replace(plan, search=search))
                figure["opened_s"] = time.perf_counter() - started
                figure["parts_s"] = session.opening_s
                answers = session.run(sample).probabilities
                figure["difference"] = float(np.abs(answers - expected).max())
                for size in rows:
                    seconds = _batch_s(session, size, shape)
                    yield {**figure, "rows": size, "images_per_s": size / seconds}
            except InferenceError as error:
                yield {**figure, "error": error.message}
            session = None  # type: ignore[assignment]  # let go before the next one is opened


def measure_starts(
    models: Path, name: str, selected: SelectedDevice, rows: int
) -> list[dict[str, Any]]:
    """Load a model as a service does: exactly, then with the fastest format, first and again."""
    starts = []
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "models"
        root.mkdir()
        (root / name).mkdir()
        repository = ModelRepository(models)
        version = repository.resolve(name)[1]
        (root / name / str(version)).symlink_to(repository.path(name, version).resolve())
        asked: tuple[tuple[str, Choice], ...] = (
            ("exact", "fp32"),
            ("first", "auto"),
            ("again", "auto"),
        )
        for words, precision in asked:
            options = LoadOptions(
                BatchLimits(rows),
                precision=precision,
                device=DeviceOptions(selected, tf32="auto"),
            )
            started = time.perf_counter()
            session = load(ModelRepository(root), name, version, options).session
            assert isinstance(session, Session), "the service opens these; this is a bug"
            plan = session.plan
            starts.append(
                {
                    "start": words,
                    "model": name,
                    "seconds": time.perf_counter() - started,
                    "format": plan.format,
                    "layout": plan.layout,
                    "buckets": plan.buckets,
                    "binding": plan.binding,
                    "parts_s": session.opening_s,
                }
            )
            del session
    return starts


def targets(figures: Sequence[dict[str, Any]]) -> dict[str, float | None]:
    """Return what was aimed at, as measured; None where it was not."""
    half = [
        figure["images_per_s"]
        for figure in figures
        if (figure["model"], figure["format"], figure.get("rows")) == ("resnet50", "fp16", 64)
    ]
    return {"resnet50, float16, images/s at 64 (at least 10,000)": max(half, default=None)}


def table(results: dict[str, Any]) -> str:
    """Return Markdown: images/s by model, format and layout, then the starts."""
    rows = sorted({f["rows"] for f in results["figures"] if "rows" in f})
    lines = [
        f"| model | format | layout | cuDNN's search | {' | '.join(f'{r} rows' for r in rows)} | "
        "largest difference | opened in, s |",
        "|---" * (6 + len(rows)) + "|",
    ]
    seen: dict[tuple[str, ...], dict[int, float]] = {}
    more: dict[tuple[str, ...], dict[str, Any]] = {}
    for figure in results["figures"]:
        key = tuple(figure[word] for word in ("model", "format", "layout", "search"))
        more[key] = figure
        if "rows" in figure:
            seen.setdefault(key, {})[figure["rows"]] = figure["images_per_s"]
    for key, figure in more.items():
        if key not in seen:
            lines.append(f"| {' | '.join(key)} | {figure['error']} |")
            continue
        cells = " | ".join(f"{seen[key].get(size, 0):,.0f}" for size in rows)
        off, opened = figure["difference"], figure["opened_s"]
        lines.append(f"| {' | '.join(key)} | {cells} | {off:.1g} | {opened:.1f} |")
    lines += ["", "| start of | seconds | runs | parts of opening it |", "|---|---|---|---|"]
    for start in results["starts"]:
        parts = ", ".join(f"{part} {seconds:.1f}" for part, seconds in start["parts_s"].items())
        runs = f"{start['format']} {start['layout']}, buckets {start['buckets']}"
        lines.append(
            f"| {start['model']}, {start['start']} | {start['seconds']:.1f} | {runs} | {parts} |"
        )
    return "\n".join(lines) + "\n"


def _batch_s(session: Session, rows: int, shape: tuple[int, ...]) -> float:
    images = random_images(rows, shape)
    if session.executor is None:
        return median_s(lambda: session.run(images), _SECONDS, _RUNS)
    return staged_s(session, images)


def main() -> None:
    """Measure, and write ``formats.json`` and ``formats.md``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--resnet50", type=Path)
    parser.add_argument("--lower", type=Path)
    parser.add_argument("--rows", type=lambda text: tuple(map(int, text.split(","))), default=ROWS)
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    selected = select_device(options.device)
    subjects = list(_subjects(options.resnet50, options.lower))
    results: dict[str, Any] = {"figures": [], "starts": []}

    def save() -> None:
        results["targets"] = targets(results["figures"])
        (options.out / "formats.json").write_text(json.dumps(results, indent=1) + "\n")
        (options.out / "formats.md").write_text(table(results))

    for subject in subjects:
        if subject.name == "resnet50":
            results["starts"] += measure_starts(
                options.resnet50, "resnet50", selected, options.rows[0]
            )
            save()
        for figure in measure_formats(subject, selected, options.rows):
            print(json.dumps(figure), file=sys.stderr, flush=True)
            results["figures"].append(figure)
            save()


def _subjects(resnet50: Path | None, lower: Path | None) -> Iterator[_Subject]:
    if resnet50 is not None and (resnet50 / "resnet50").exists():
        repository = ModelRepository(resnet50)
        artifact = repository.load(*repository.resolve("resnet50"))
        folder = repository.path(artifact.name, artifact.version)
        yield _Subject("resnet50", {f.precision: folder / f.path for f in artifact.files})
    shipped = ModelRepository(HOME / "models")
    files: dict[Precision, Path] = {
        "fp32": shipped.path(*shipped.resolve("cifar10-cnn")) / "model.onnx"
    }
    half = lower / "cifar10-cnn.fp16.onnx" if lower else None
    if half is not None and half.exists():
        files["fp16"] = half
    yield _Subject("cifar10-cnn", files)


if __name__ == "__main__":
    try:
        main()
    except InferenceError as refusal:
        sys.exit(f"bench: {refusal.message}")
