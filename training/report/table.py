"""The table of README.md: every network on every dataset, measured.

``python -m training.report.table --data-dir cifar10=FOLDER`` trains, exports, verifies and
publishes one cell after the other, which takes hours. ``OUT/cells.json`` records the finished
cells; the same command continues after them. Stands above ``pipeline``; nothing imports it.
"""

import argparse
import json
import logging
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from models.artifact import ArtifactError, ModelArtifact
from models.repository import ModelRepository
from training.config import TrainConfig
from training.errors import TrainingError
from training.networks import NETWORKS, build_network, multiply_adds
from training.pipeline import export, train
from training.recipes import resolve

DATASETS = ("digits", "fashion-mnist", "cifar10")

# The lines of README.md around the table.
BEGIN, END = "<!-- table of training.report.table -->", "<!-- end of the table -->"


@dataclass(frozen=True, slots=True)
class Cell:
    """The figures of one network on one dataset.

    Attributes:
        dataset: Name of the dataset.
        network: Name of the network.
        parameters: Number of parameters, frozen ones included.
        multiply_adds: Multiply-adds of convolutions and linear layers for one image.
        accuracy: Accuracy on the test split, 0-1.
        calibration_error: Expected calibration error on the test split, 0-1.
        images: Size of the test split.
        epochs: Passes over the training split.
        train_s: Wall time of ``train``: reading, fitting, evaluating.
        onnx_bytes: Size of the published file.
        max_probability_difference: Largest difference between torch and onnxruntime.
    """

    dataset: str
    network: str
    parameters: int
    multiply_adds: int
    accuracy: float
    calibration_error: float
    images: int
    epochs: int
    train_s: float
    onnx_bytes: int
    max_probability_difference: float


def measure_cell(config: TrainConfig, repository: ModelRepository) -> Cell:
    """Train, export, verify and publish one network on one dataset, as ``DATASET-NETWORK``.

    Raises:
        TrainingError: As ``pipeline.train`` and ``pipeline.export``.
        ArtifactError: The repository refuses the version.
    """
    started_s = time.monotonic()
    run = train(config)
    train_s = time.monotonic() - started_s
    artifact = export(run, f"{config.dataset}-{config.network}", repository)
    return _describe(config, artifact, train_s)


def measure_all(
    out: Path,
    datasets: Sequence[str] = DATASETS,
    networks: Sequence[str] = tuple(NETWORKS),
    *,
    data_dirs: Mapping[str, Path] | None = None,
    **options: Any,
) -> list[Cell]:
    """Measure every cell that is not yet in ``OUT/cells.json``.

    Args:
        out: Folder for the runs, a model repository, and ``cells.json``.
        datasets: Names of datasets.
        networks: Names of networks.
        data_dirs: Dataset to the folder of its files, if not the default.
        **options: Fields of ``TrainConfig`` for every cell, in place of the recipes'.

    Returns:
        All cells of ``OUT/cells.json``, in the order in which they were measured.

    Raises:
        TrainingError: As ``measure_cell``; the finished cells are kept.
        ArtifactError: As ``measure_cell``.
    """
    record = out / "cells.json"
    cells = [Cell(**cell) for cell in json.loads(record.read_text())] if record.exists() else []
    done = {(cell.dataset, cell.network) for cell in cells}
    repository = ModelRepository(out / "models")
    for dataset in datasets:
        for network in networks:
            if (dataset, network) in done:
                continue
            run = out / f"{dataset}-{network}"
            data_dir = (data_dirs or {}).get(dataset)
            config = resolve(dataset, network, run, data_dir=data_dir, **options)
            cells.append(measure_cell(config, repository))
            record.write_text(json.dumps([asdict(cell) for cell in cells], indent=2) + "\n")
    return cells


def tabulate(cells: Sequence[Cell]) -> str:
    """Return the cells as a Markdown table."""
    lines = [
        "| dataset | network | parameters | multiply-adds | test accuracy | calibration error "
        "| epochs | training | ONNX bytes |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {cell.dataset} | {cell.network} | {cell.parameters:,} | {cell.multiply_adds:,} "
        f"| {cell.accuracy:.2%} of {cell.images:,} | {cell.calibration_error:.4f} "
        f"| {cell.epochs} | {cell.train_s:,.0f} s | {cell.onnx_bytes:,} |"
        for cell in cells
    ]
    return "\n".join(lines) + "\n"


def put_into(document: Path, table: str) -> None:
    """Replace the text between the two marks of a document.

    Raises:
        ValueError: The document lacks a mark.
    """
    before, begin, rest = document.read_text(encoding="utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{document}: expected the lines {BEGIN} and {END}, got one or none")
    document.write_text(f"{before}{BEGIN}\n{table}{END}{after}", encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure the cells of the command line, print the table, put it into a document."""
    parser = argparse.ArgumentParser("python -m training.report.table", description=__doc__)
    parser.add_argument(
        "--out", type=Path, default=Path("runs/table"), help="output folder (default: runs/table)"
    )
    parser.add_argument(
        "--datasets", default=",".join(DATASETS), help="names, comma-separated (default: all)"
    )
    parser.add_argument(
        "--networks", default=",".join(NETWORKS), help="names, comma-separated (default: all)"
    )
    parser.add_argument("--epochs", type=int, help="epochs of every cell (default: the recipe's)")
    parser.add_argument("--into", type=Path, metavar="FILE", help="document to put the table into")
    parser.add_argument(
        "--data-dir",
        action="append",
        default=[],
        metavar="DATASET=DIR",
        help="folder of a dataset's files; repeatable",
    )
    asked = parser.parse_args(arguments)
    pairs = [text.partition("=") for text in asked.data_dir]
    logging.basicConfig(format="%(message)s")
    logging.getLogger("training").setLevel(logging.INFO)
    try:
        cells = measure_all(
            asked.out,
            asked.datasets.split(","),
            asked.networks.split(","),
            data_dirs={name: Path(folder) for name, _, folder in pairs},
            epochs=asked.epochs,
        )
        table = tabulate(cells)
        if asked.into:
            put_into(asked.into, table)
    except (ArtifactError, TrainingError, OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    print(table, end="")
    return 0


def _describe(config: TrainConfig, artifact: ModelArtifact, train_s: float) -> Cell:
    assert artifact.metrics is not None, "export always measures; this is a bug"
    assert artifact.parity is not None, "export always verifies; this is a bug"
    image_shape = artifact.image.shape_HWC
    network = build_network(config, image_shape, len(artifact.labels))
    return Cell(
        dataset=config.dataset,
        network=config.network,
        parameters=sum(parameter.numel() for parameter in network.parameters()),
        multiply_adds=multiply_adds(network, image_shape),
        accuracy=artifact.metrics.accuracy,
        calibration_error=artifact.metrics.calibration_error,
        images=artifact.metrics.images,
        epochs=config.epochs,
        train_s=train_s,
        onnx_bytes=artifact.files[0].size_bytes,
        max_probability_difference=artifact.parity.max_probability_difference,
    )


if __name__ == "__main__":
    sys.exit(main())
