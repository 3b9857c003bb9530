"""What a dataset holds, row by row, whatever state its images are in.

A listing names all rows and hands out one content after the other, so that datasets larger than
memory are read and every bad row is named. ``foveal train`` and ``foveal check`` read the same
ones.
"""

import unicodedata
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from models.image import ImageError
from training.datasets.splits import Source

# The split of data that has no parts.
WHOLE = "all"
# The splits in their order: of two copies in two parts, the one in a later part is reported.
SPLITS = ("train", "validation", "test", WHOLE)
# What parts are called, in lower case.
_PARTS = {
    "train": "train",
    "training": "train",
    "test": "test",
    "testing": "test",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
}
PART_NAMES = "train, test and validation (or val, valid), in any case"

# An encoded file, decoded pixels (uint8 [H, W, C]), or why there is neither.
Content = bytes | NDArray[np.uint8] | ImageError


@dataclass(frozen=True, slots=True)
class Columns:
    """The columns of a table to read.

    Attributes:
        image: Name of the column of images; "" to find it.
        label: Name of the column of labels; "" to find it.
    """

    image: str = ""
    label: str = ""


FOUND = Columns()


@dataclass(frozen=True, slots=True)
class Row:
    """One image of a dataset.

    Attributes:
        file: Path of its file; of an array the name of the dataset and the split.
        row: Its number in the file or in the split, from 0; None if it is a file of its own.
        split: ``train``, ``test``, ``validation`` or ``all``.
        target: Index of its label; -1: it has none.
    """

    file: str
    row: int | None
    split: str
    target: int

    def __str__(self) -> str:
        """Return the place, for people."""
        return self.file if self.row is None else f"{self.file} row {self.row}"


@dataclass(frozen=True, slots=True)
class Listing:
    """All rows of a dataset.

    Attributes:
        name: The dataset, as ``foveal train --dataset`` takes it.
        labels: Class names, K of them.
        rows: N rows.
        read: Yields (index, content) in the order of the rows: of those asked for, or of all.
        passed_over: Number of files that are no part of the dataset.
        where: The folder or file, for error messages.
        unlabelled: Rows whose label is none of the labels, and the reason.
    """

    name: str
    labels: tuple[str, ...]
    rows: Sequence[Row]
    read: Callable[[Collection[int] | None], Iterator[tuple[int, Content]]]
    passed_over: int = 0
    where: str = ""
    unlabelled: Mapping[int, str] = field(default_factory=dict)

    @property
    def targets_N(self) -> NDArray[np.int64]:
        """Return int64 [N]; -1 for rows without a label."""
        return np.array([row.target for row in self.rows], np.int64)

    @property
    def splits(self) -> list[str]:
        """Return the names of the splits, in the order of the rows."""
        return list(dict.fromkeys(row.split for row in self.rows))

    def label(self, index: int) -> str:
        """Return the label of a row, empty if it has none."""
        target = self.rows[index].target
        return self.labels[target] if target >= 0 else ""


def part_of(name: str) -> str:
    """Return the split that a part of this name is, in any case; "" if it is no part."""
    return _PARTS.get(name.lower(), "")


def one_form(label: str) -> str:
    """Return a label in the one Unicode form: macOS writes é in file names as two characters."""
    return unicodedata.normalize("NFC", label)


def list_arrays(name: str, source: Source) -> Listing:
    """List a dataset whose images are in memory; a row is named by its number in its split."""
    parts = {"train": source.train, "test": source.test}
    rows = [
        Row(f"{name}/{split}", number, split, int(target))
        for split, part in parts.items()
        for number, target in enumerate(part.targets_N)
    ]

    def read(wanted: Collection[int] | None) -> Iterator[tuple[int, Content]]:
        images = chain(*(part.images_NHWC for part in parts.values()))
        return (pair for pair in enumerate(images) if wanted is None or pair[0] in wanted)

    return Listing(name, source.labels, rows, read)
