"""Wrong labels that are planted into a dataset, and how many of them a check finds."""

import csv
from pathlib import Path

import numpy as np
from numpy.typing import NDArray


def plant(
    targets_N: NDArray[np.int64], share: float, classes: int, seed: int = 0
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Give a share of the rows another label, each other label as often.

    Returns:
        The changed targets, and the rows that were changed.
    """
    generator = np.random.default_rng(seed)
    rows = np.sort(generator.permutation(len(targets_N))[: round(share * len(targets_N))])
    changed = targets_N.copy()
    changed[rows] = (changed[rows] + generator.integers(1, classes, len(rows))) % classes
    return changed, rows


def read_findings(path: Path, kind: str = "") -> list[dict[str, str]]:
    """Read ``findings.csv``: all rows, or those of one kind."""
    with path.open(encoding="utf-8", newline="") as file:
        return [row for row in csv.DictReader(file) if kind in ("", row["kind"])]
