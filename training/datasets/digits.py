"""The ``digits`` dataset: 1,797 handwritten digits of 8x8 pixels, embedded in scikit-learn.

Needs no file and no network. The pixels are counts of 0-16; they are stretched to 0-255, the range
of an image file. There is no official test part; ``split_off_test`` holds out the same 359 images
in every run.
"""

import importlib
from pathlib import Path

import numpy as np

from models.installation import how_to_add
from training.datasets.splits import Source, Split, split_off_test
from training.errors import DatasetError


def read_digits(data_dir: Path | None) -> Source:
    """Read the digits that are embedded in scikit-learn.

    Args:
        data_dir: Must be None, because there are no files.

    Raises:
        DatasetError: scikit-learn is missing, or a folder was given.
    """
    if data_dir is not None:
        raise DatasetError(f"digits: expected no data folder, got {data_dir}; it is embedded")
    try:
        # Not a top-level import: the other datasets need no scikit-learn.
        sklearn_datasets = importlib.import_module("sklearn.datasets")
    except ImportError as error:
        raise DatasetError(
            f"digits: expected scikit-learn, got none; {how_to_add('train')}"
        ) from error
    bunch = sklearn_datasets.load_digits()
    images_NHW = np.rint(np.asarray(bunch.images) * (255 / 16)).astype(np.uint8)
    everything = Split(images_NHW[..., None], np.asarray(bunch.target, dtype=np.int64))
    return split_off_test(tuple(str(digit) for digit in range(10)), everything)
