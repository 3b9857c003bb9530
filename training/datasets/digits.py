"""The ``digits`` dataset: 1,797 handwritten digits of 8x8 pixels that scikit-learn carries.

Needs no file and no network. The pixels are counts of 0-16; they are stretched to 0-255 so that a
digit saved as a PNG looks like one. There is no official test part, so one is cut off here, with a
seed that is not configurable: every run is measured on the same 359 images.
"""

import importlib
from pathlib import Path

import numpy as np

from training.datasets.splits import Source, Split, hold_out
from training.errors import DatasetError

_TEST_FRACTION = 0.2
_TEST_SEED = 0


def read_digits(data_dir: Path | None) -> Source:
    """Read the digits that are embedded in scikit-learn.

    Args:
        data_dir: Must be None, there is nothing to look for.

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
            "digits: expected scikit-learn, got none; pip install scikit-learn"
        ) from error
    bunch = sklearn_datasets.load_digits()
    images_NHW = np.rint(np.asarray(bunch.images) * (255 / 16)).astype(np.uint8)
    everything = Split(images_NHW[..., None], np.asarray(bunch.target, dtype=np.int64))
    train, test = hold_out(everything, _TEST_FRACTION, _TEST_SEED)
    return Source(tuple(str(digit) for digit in range(10)), train, test)
