"""The dataset stage: a name becomes images in memory, divided in train, validation and test.

Readers (``digits``, ``idx``) know formats; this file knows their names and who is held out. Images
stay uint8 [N, H, W, C] until the network, which is what keeps them small and the contract honest.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from training.config import check_name
from training.digits import read_digits
from training.errors import DatasetError
from training.idx import read_fashion_mnist
from training.splits import Source, Split, checksum, hold_out

SOURCES: dict[str, Callable[[Path | None], Source]] = {
    "digits": read_digits,
    "fashion-mnist": read_fashion_mnist,
}


@dataclass(frozen=True, slots=True)
class Dataset:
    """A classification problem in memory.

    Attributes:
        name: As in ``SOURCES``.
        labels: Class names, K of them; a target is an index into them.
        train: What the weights are fitted on.
        validation: What the checkpoint and the temperature are chosen on.
        test: What is measured once, at the end.
        sha256: Checksum of all the data, see ``splits.checksum``.
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
        """What the channels mean, in the words of ``models.artifact.ImageSpec``."""
        return "L" if self.image_shape[2] == 1 else "RGB"


def load_dataset(
    name: str, data_dir: Path | None = None, *, validation: float = 0.1, split_seed: int = 0
) -> Dataset:
    """Read a dataset and hold validation rows out of its training part.

    Args:
        name: A key of ``SOURCES``.
        data_dir: Folder of its files; None means the dataset's own default.
        validation: Share of the training part to hold out, class by class, 0 < share < 1.
        split_seed: Chooses who is held out.

    Raises:
        ConfigError: The name or the share does not exist; the message lists what does.
        DatasetError: The files are missing, damaged, or do not make a classification problem.
    """
    source = check_name("dataset", name, SOURCES)(data_dir)
    _check(name, source)
    train, held_out = hold_out(source.train, validation, split_seed)
    return Dataset(name, source.labels, train, held_out, source.test, checksum(source))


def _check(name: str, source: Source) -> None:
    train_shape, test_shape = (split.images_NHWC.shape[1:] for split in (source.train, source.test))
    if train_shape != test_shape or train_shape[-1] not in (1, 3):
        raise DatasetError(
            f"{name}: expected train and test images of one shape [H, W, 1 or 3], "
            f"got {list(train_shape)} and {list(test_shape)}"
        )
    counts = np.bincount(source.train.targets_N, minlength=len(source.labels))
    # Two rows a class: one to fit on and one to hold out.
    if len(counts) != len(source.labels) or counts.min() < 2:
        poorest = source.labels[int(np.argmin(counts))]
        raise DatasetError(
            f"{name}: expected at least 2 training images of each class, "
            f"got {counts.min()} of {poorest!r}"
        )
