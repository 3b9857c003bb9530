"""The dataset stage: from a name to images in memory, divided in train, validation and test.

Maps names to readers (``cifar``, ``digits``, ``folders``, ``mnist``, ``parquet``,
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
from training.datasets.encoded import AS_THEY_ARE, Reading
from training.datasets.folders import list_folder
from training.datasets.listed import load_listing, read_listing
from training.datasets.listing import FOUND, Columns, Listing
from training.datasets.mnist import read_fashion_mnist, read_mnist
from training.datasets.parquet import list_parquet
from training.datasets.splits import Source, Split, checksum, hold_out, one_against_all
from training.datasets.vertical_line import make_vertical_line
from training.errors import ConfigError, DatasetError

# Datasets with a name; a reader takes the folder of the files, None for its default.
SOURCES: dict[str, Callable[[Path | None], Source]] = {
    "cifar10": read_cifar10,
    "digits": read_digits,
    "fashion-mnist": read_fashion_mnist,
    "mnist": read_mnist,
}


def _read_vertical_line(side: str) -> Source:
    if not side.isdecimal():
        raise DatasetError(f"vertical-line: expected a side of 3 or 5, got {side!r}")
    return make_vertical_line(int(side))


# Datasets that are listed before they are decoded, ``kind:path``.
LISTED: dict[str, Callable[[str, Path, Columns], Listing]] = {
    "folder": lambda name, path, _columns: list_folder(name, path),
    "parquet": list_parquet,
}
# Datasets named by kind and argument, ``kind:argument``.
KINDS = {*LISTED, "vertical-line"}


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
    listing = list_named(name, data_dir, reading.columns)
    if listing is not None:
        parts = load_listing(
            listing, reading, validation=validation, split_seed=split_seed, positive=positive
        )
        dataset = Dataset(
            name, parts.labels, parts.train, parts.validation, parts.test, parts.sha256
        )
        _check(dataset.name, dataset.labels, dataset.train, dataset.validation, dataset.test)
        return dataset
    source = read_source(name, data_dir)
    source = _one_against_all(source, positive)
    train, held_out = source.train, source.validation
    if held_out is None:
        train, held_out = hold_out(source.train, validation, split_seed)
    _check(name, source.labels, train, held_out, source.test)
    return Dataset(name, source.labels, train, held_out, source.test, checksum(source))


def list_named(name: str, data_dir: Path | None = None, columns: Columns = FOUND) -> Listing | None:
    """List a dataset of a kind that is listed; None for the others.

    Raises:
        DatasetError: There is nothing to list, or a data folder is given: the name says where.
    """
    kind, _, argument = name.partition(":")
    if kind not in LISTED or not argument:
        return None
    if data_dir is not None:
        raise DatasetError(f"{name}: expected no data folder, got {data_dir}; the name says where")
    return LISTED[kind](name, Path(argument), columns)


def read_source(name: str, data_dir: Path | None = None) -> Source:
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
    listing = list_named(name, data_dir)
    if listing is not None:
        return read_listing(listing)
    if data_dir is not None:
        raise DatasetError(f"{name}: expected no data folder, got {data_dir}; the name says where")
    return _read_vertical_line(argument)


def _one_against_all(source: Source, positive: str | None) -> Source:
    """Reduce a problem to two classes; the second is ``positive``."""
    if positive is None:
        return source
    labels, train_N = one_against_all(source.labels, source.train.targets_N, positive)
    _, test_N = one_against_all(source.labels, source.test.targets_N, positive)
    return Source(
        labels, Split(source.train.images_NHWC, train_N), Split(source.test.images_NHWC, test_N)
    )


def _check(name: str, labels: tuple[str, ...], *splits: Split) -> None:
    shape, *others = (split.images_NHWC.shape[1:] for split in splits)
    wrong = next((other for other in others if other != shape), shape)
    if wrong != shape or shape[-1] not in (1, 3):
        raise DatasetError(
            f"{name}: expected train and test images of one shape [H, W, 1 or 3], "
            f"got {list(shape)} and {list(wrong)}"
        )
    classes = len(labels)
    train_K, held_K = (np.bincount(split.targets_N, minlength=classes) for split in splits[:2])
    together_K = train_K + held_K
    poorest = int(np.argmin(together_K))
    if len(train_K) != classes or together_K[poorest] < 2:
        raise DatasetError(
            f"{name}: expected at least 2 training images of each class, "
            f"got {together_K[poorest]} of {labels[poorest]!r}"
        )
    if not train_K.all():
        raise DatasetError(
            f"{name}: expected an image of each class to fit, got none of "
            f"{labels[int(np.argmin(train_K))]!r}; lower --validation"
        )
