"""CIFAR-10: the official python batches, or a copy of the dataset as parquet.

A batch is a pickle of a dictionary with ``data``, uint8 [N, 3072] (1,024 red, then green, then
blue values, row by row), and ``labels``, a list of N targets. A pickle is a program; the reader
here knows only the four functions that an array needs and refuses all others.
Format and checksum: https://www.cs.toronto.edu/~kriz/cifar.html.
"""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.datasets.download import download
from training.datasets.encoded import Reading
from training.datasets.listed import read_listing
from training.datasets.parquet import list_parquet
from training.datasets.splits import Source, Split
from training.errors import DatasetError

LABELS = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")

_URL = "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz"
_MD5 = "c58f30108f718f92721af3b95e74349a"
_FOLDER = "cifar-10-batches-py"
_TRAIN = tuple(f"data_batch_{number}" for number in range(1, 6))
_TEST = ("test_batch",)
_SIDE = 32


def _encode(text: str, _codec: str) -> bytes:
    """Return the bytes that Python 3 stored as latin-1 text in an old pickle protocol."""
    return text.encode("latin-1")


# Pickles name them by the module that numpy had them in when the file was written.
_RECONSTRUCT: Any = np.empty(0).__reduce__()[0]  # type: ignore[index]  # numpy's stub says str
_ALLOWED: dict[tuple[str, str], Any] = {
    ("numpy.core.multiarray", "_reconstruct"): _RECONSTRUCT,
    ("numpy._core.multiarray", "_reconstruct"): _RECONSTRUCT,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("_codecs", "encode"): _encode,
}


class _ArrayUnpickler(pickle.Unpickler):
    """An unpickler that builds only arrays, numbers, texts, lists and dictionaries."""

    def find_class(self, module: str, name: str) -> Callable[..., Any]:
        """Return one of the allowed functions; import nothing."""
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"{module}.{name}, which no batch needs")
        allowed: Callable[..., Any] = _ALLOWED[module, name]
        return allowed


def read_cifar10(data_dir: Path | None) -> Source:
    """Read CIFAR-10: 50,000 and 10,000 RGB images of 32x32 pixels.

    Args:
        data_dir: Folder of the official batches (or the folder above them), or of ``train.parquet``
            and ``test.parquet``; None downloads the batches.

    Raises:
        DatasetError: A file is missing, damaged or of another dataset.
    """
    folder = data_dir or download(
        "cifar10", {_URL: _MD5}, unpack=[f"{_FOLDER}/{name}" for name in (*_TRAIN, *_TEST)]
    )
    if (folder / "train.parquet").exists():
        listing = list_parquet("cifar10", folder)
        source = read_listing(listing, Reading((_SIDE, _SIDE)))
        if source.labels != LABELS:
            raise DatasetError(
                f"{folder}: expected the labels of CIFAR-10, got {', '.join(source.labels)}"
            )
        return source
    if (folder / _FOLDER).is_dir():
        folder = folder / _FOLDER
    return Source(LABELS, _read_part(folder, _TRAIN), _read_part(folder, _TEST))


def read_batch(path: Path) -> Split:
    """Read one official batch.

    Raises:
        DatasetError: The file is missing, no pickle or a pickle of anything but arrays, or its
            arrays are not those of a batch; the message names the row of a wrong label.
    """
    images_NP, labels = _checked(path, *_unpickle(path))
    if images_NP.dtype != np.uint8 or images_NP.ndim != 2 or images_NP.shape[1] != 3 * _SIDE**2:
        raise DatasetError(
            f"{path}: expected data of uint8 [N, {3 * _SIDE**2}], "
            f"got {images_NP.dtype} {list(images_NP.shape)}"
        )
    if len(labels) != len(images_NP) or not labels:
        raise DatasetError(f"{path}: expected {len(images_NP)} labels, got {len(labels)}")
    for row, label in enumerate(labels):
        if not isinstance(label, int) or not 0 <= label < len(LABELS):
            raise DatasetError(
                f"{path}: expected labels 0 to {len(LABELS) - 1}, got {label!r} at row {row}"
            )
    images_NCHW = images_NP.reshape(-1, 3, _SIDE, _SIDE)
    return Split(
        np.ascontiguousarray(images_NCHW.transpose(0, 2, 3, 1)), np.array(labels, np.int64)
    )


def _read_part(folder: Path, names: tuple[str, ...]) -> Split:
    splits = [read_batch(folder / name) for name in names]
    return Split(
        np.concatenate([split.images_NHWC for split in splits]),
        np.concatenate([split.targets_N for split in splits]),
    )


def _unpickle(path: Path) -> tuple[Any, Any]:
    try:
        with path.open("rb") as file:
            content = _ArrayUnpickler(file, encoding="bytes").load()
    except FileNotFoundError as error:
        raise DatasetError(
            f"{path}: expected an official batch of CIFAR-10, got no file; "
            "give the folder of the batches with --data-dir"
        ) from error
    except Exception as error:
        # Damaged opcodes call the allowed functions with anything: no narrower list is complete.
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DatasetError(
            f"{path}: expected an official batch of CIFAR-10, got {reason}"
        ) from error
    if not isinstance(content, dict):
        raise DatasetError(f"{path}: expected a dictionary, got {type(content).__name__}")
    # Python 2 wrote bytes where Python 3 writes text.
    named = {
        key.decode("latin-1") if isinstance(key, bytes) else key: value
        for key, value in content.items()
    }
    return named.get("data"), named.get("labels")


def _checked(path: Path, images: Any, labels: Any) -> tuple[NDArray[Any], list[Any]]:
    if not isinstance(images, np.ndarray) or not isinstance(labels, list):
        raise DatasetError(
            f"{path}: expected an array data and a list labels, "
            f"got {type(images).__name__} and {type(labels).__name__}"
        )
    return images, labels
