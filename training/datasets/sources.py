"""The dataset stage: from a name to images in memory, divided in train, validation and test.

Maps names to readers (``cifar``, ``digits``, ``encoded``, ``mnist``, ``parquet``,
``vertical_line``), which know formats. Images stay uint8 [N, H, W, C] until the network: that is
the input of the published model, and a quarter of the memory of float32.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from training.datasets.cifar import read_cifar10
from training.datasets.digits import read_digits
from training.datasets.encoded import AS_THEY_ARE, Reading, read_folder
from training.datasets.mnist import read_fashion_mnist, read_mnist
from training.datasets.parquet import read_parquet
from training.datasets.splits import Source, Split, checksum, hold_out
from training.datasets.vertical_line import make_vertical_line
from training.errors import ConfigError, DatasetError

# Datasets with a name; a reader takes the folder of the files, None for its default.
SOURCES: dict[str, Callable[[Path | None], Source]] = {
    "cifar10": read_cifar10,
    "digits": read_digits,
    "fashion-mnist": read_fashion_mnist,
    "mnist": read_mnist,
}


def _read_vertical_line(side: str, _reading: Reading) -> Source:
    if not side.isdecimal():
        raise DatasetError(f"vertical-line: expected a side of 3 or 5, got {side!r}")
    return make_vertical_line(int(side))


# Datasets named by kind and argument, ``kind:argument``.
KINDS: dict[str, Callable[[str, Reading], Source]] = {
    "folder": lambda path, reading: read_folder(Path(path), reading),
    "parquet": lambda path, reading: read_parquet(Path(path), reading),
    "vertical-line": _read_vertical_line,
}


@dataclass(frozen=True, slots=True)
class Dataset:
    """A classification problem in memory.

    Attributes:
        name: The argument of ``load_dataset``.
        labels: Class names, K of them; a target is an index into them.
        train: Images that the weights are fitted on.
        validation: Images that choose the checkpoint and the temperature.
        test: Images that are measured once, at the end.
        sha256: Checksum of all images and targets, see ``splits.checksum``.
    """

    name: str
    labels: tuple[str, ...]
    train: Split
    validation: Split
    test: Split
    sha256: str

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width and channels of every image."""
        height, width, channels = self.train.images_NHWC.shape[1:]
        return height, width, channels

    @property
    def mode(self) -> Literal["L", "RGB"]:
        """The mode of the images, as in ``models.artifact.ImageSpec``."""
        return "L" if self.image_shape[2] == 1 else "RGB"


def load_dataset(
    name: str,
    data_dir: Path | None = None,
    *,
    validation: float = 0.1,
    split_seed: int = 0,
    positive: str | None = None,
    reading: Reading = AS_THEY_ARE,
) -> Dataset:
    """Read a dataset and hold validation rows out of its training part.

    Args:
        name: A key of ``SOURCES``, or a key of ``KINDS`` with its argument: ``folder:photos``.
        data_dir: Folder of its files; None for the dataset's default.
        validation: Share of the training part to hold out, class by class, 0 < share < 1.
        split_seed: Chooses the rows to hold out.
        positive: The one class to tell from all others; None keeps all classes.
        reading: How encoded images are read.

    Raises:
        ConfigError: The name does not exist, or the share is out of range.
        DatasetError: The files are missing, damaged, or do not make a classification problem.
    """
    source = read_source(name, data_dir, reading)
    if positive is not None:
        source = _one_against_all(source, positive)
    _check(name, source)
    train, held_out = hold_out(source.train, validation, split_seed)
    return Dataset(name, source.labels, train, held_out, source.test, checksum(source))


def read_source(name: str, data_dir: Path | None, reading: Reading = AS_THEY_ARE) -> Source:
    """Read a dataset's two official parts; for the arguments see ``load_dataset``.

    Raises:
        ConfigError: The name does not exist.
        DatasetError: The files are missing or damaged.
    """
    if name in SOURCES:
        return SOURCES[name](data_dir)
    # The smaller of the two generated datasets needs no argument.
    kind, _, argument = ("vertical-line:3" if name == "vertical-line" else name).partition(":")
    if kind not in KINDS or not argument:
        names = sorted([*SOURCES, "folder:PATH", "parquet:PATH", "vertical-line[:5]"])
        raise ConfigError(f"dataset: expected one of {', '.join(names)}, got {name!r}")
    if data_dir is not None:
        raise DatasetError(f"{name}: expected no data folder, got {data_dir}; the name says where")
    return KINDS[kind](argument, reading)


def _one_against_all(source: Source, positive: str) -> Source:
    """Reduce a problem to two classes; the second is ``positive``."""
    if positive not in source.labels:
        raise ConfigError(
            f"positive: expected one of {', '.join(sorted(source.labels))}, got {positive!r}"
        )
    train, test = (
        Split(
            split.images_NHWC, (split.targets_N == source.labels.index(positive)).astype(np.int64)
        )
        for split in (source.train, source.test)
    )
    return Source((f"not {positive}", positive), train, test)


def _check(name: str, source: Source) -> None:
    train_shape, test_shape = (split.images_NHWC.shape[1:] for split in (source.train, source.test))
    if train_shape != test_shape or train_shape[-1] not in (1, 3):
        raise DatasetError(
            f"{name}: expected train and test images of one shape [H, W, 1 or 3], "
            f"got {list(train_shape)} and {list(test_shape)}"
        )
    counts = np.bincount(source.train.targets_N, minlength=len(source.labels))
    # Two rows per class: one to fit and one to hold out.
    if len(counts) != len(source.labels) or counts.min() < 2:
        poorest = source.labels[int(np.argmin(counts))]
        raise DatasetError(
            f"{name}: expected at least 2 training images of each class, "
            f"got {counts.min()} of {poorest!r}"
        )
