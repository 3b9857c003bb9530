"""The idx format (LeCun's MNIST files, gzipped or plain) and the datasets that come in it.

An idx file is two zero bytes, a type byte (8 = unsigned byte), the number of dimensions, each
dimension as a big-endian uint32, then the values. Format: http://yann.lecun.com/exdb/mnist/.
"""

import gzip
import logging
import math
import struct
import zlib
from pathlib import Path

import numpy as np
import pooch
from numpy.typing import NDArray

from training.datasets.splits import Source, Split
from training.errors import DatasetError

_LOG = logging.getLogger(__name__)

_UNSIGNED_BYTE = 8

# Where Debian's package dataset-fashion-mnist puts the four files.
DEBIAN_FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")

_FASHION_MNIST_URL = (
    "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/"
)
# Published in the README of zalandoresearch/fashion-mnist. Debian recompressed the files, so its
# copies have other checksums and the same content.
_FASHION_MNIST_MD5 = {
    "train-images-idx3-ubyte.gz": "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
    "train-labels-idx1-ubyte.gz": "25c81989df183df01b3e8a0aad5dffbe",
    "t10k-images-idx3-ubyte.gz": "bef4ecab320f06d8554ea6380940ec79",
    "t10k-labels-idx1-ubyte.gz": "bb300cfdad3c16e7a12a480ee83cd310",
}
# LeCun's own server asks for a password now; this copy and its checksums are torchvision's.
_MNIST_URL = "https://ossci-datasets.s3.amazonaws.com/mnist/"
_MNIST_MD5 = {
    "train-images-idx3-ubyte.gz": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
    "train-labels-idx1-ubyte.gz": "d53e105ee54ea40749a09fcbcd1e9432",
    "t10k-images-idx3-ubyte.gz": "9fb629c4189551a2d022fa330f9573f3",
    "t10k-labels-idx1-ubyte.gz": "ec29112dd5afa0611ce80d1b7f02629c",
}
_MNIST_LABELS = tuple(str(digit) for digit in range(10))
_FASHION_MNIST_LABELS = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)


def read_fashion_mnist(data_dir: Path | None) -> Source:
    """Read Fashion-MNIST: 60,000 and 10,000 grey images of 28x28 pixels.

    Args:
        data_dir: Folder of the four idx files; None looks in Debian's folder, then downloads into
            the user's cache, checking each file.

    Raises:
        DatasetError: A file is missing, damaged or of another dataset.
    """
    folder = data_dir or (
        DEBIAN_FASHION_MNIST
        if DEBIAN_FASHION_MNIST.is_dir()
        else _download("fashion-mnist", _FASHION_MNIST_URL, _FASHION_MNIST_MD5)
    )
    return _read_parts(folder, _FASHION_MNIST_LABELS)


def read_mnist(data_dir: Path | None) -> Source:
    """Read MNIST: 60,000 and 10,000 grey images of 28x28 pixels.

    Args:
        data_dir: Folder of the four idx files; None downloads into the user's cache, checking each
            file.

    Raises:
        DatasetError: A file is missing, damaged or of another dataset.
    """
    return _read_parts(data_dir or _download("mnist", _MNIST_URL, _MNIST_MD5), _MNIST_LABELS)


def read_pair(folder: Path, part: str, classes: int) -> Split:
    """Read the images and targets of one part of an MNIST-like dataset.

    Args:
        folder: Holds ``<part>-images-idx3-ubyte`` and ``<part>-labels-idx1-ubyte``, plain or .gz.
        part: ``train`` or ``t10k``.
        classes: Targets must be below this.

    Raises:
        DatasetError: A file is missing or damaged, or the two do not belong together.
    """
    images_path = _find(folder, f"{part}-images-idx3-ubyte")
    labels_path = _find(folder, f"{part}-labels-idx1-ubyte")
    images_NHW, targets_N = read_idx(images_path), read_idx(labels_path)
    if images_NHW.ndim != 3 or targets_N.ndim != 1 or not len(images_NHW):
        raise DatasetError(
            f"{images_path}: expected images [N, H, W] and labels [N], "
            f"got {list(images_NHW.shape)} and {list(targets_N.shape)}"
        )
    if len(images_NHW) != len(targets_N):
        raise DatasetError(
            f"{labels_path}: expected {len(images_NHW)} labels, one an image, got {len(targets_N)}"
        )
    if targets_N.max() >= classes:
        row = int(np.argmax(targets_N >= classes))
        raise DatasetError(
            f"{labels_path}: expected labels 0 to {classes - 1}, got {targets_N[row]} at row {row}"
        )
    return Split(images_NHW[..., None], targets_N.astype(np.int64))


def read_idx(path: Path) -> NDArray[np.uint8]:
    """Read one idx file of unsigned bytes.

    Args:
        path: The file; gzipped if it ends in ``.gz``.

    Returns:
        uint8, shape as the header says, 0-255.

    Raises:
        DatasetError: The file cannot be read, is not idx, or is shorter or longer than it says.
    """
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise DatasetError(f"{path}: expected a readable idx file, got {error}") from error
    if len(content) < 4 or content[:2] != b"\0\0" or content[2] != _UNSIGNED_BYTE:
        raise DatasetError(
            f"{path}: expected an idx file of unsigned bytes (00 00 08 ..), "
            f"got {content[:4].hex(' ') or 'an empty file'}"
        )
    start = 4 + 4 * content[3]
    if len(content) < start:
        raise DatasetError(f"{path}: expected a header of {start} bytes, got {len(content)} in all")
    shape = struct.unpack(f">{content[3]}I", content[4:start])
    if len(content) - start != math.prod(shape):
        raise DatasetError(
            f"{path}: expected {math.prod(shape)} values for shape {list(shape)}, "
            f"got {len(content) - start}; fetch the file again"
        )
    # Copied, because bytes are read-only and torch cannot share read-only memory.
    return np.frombuffer(content, dtype=np.uint8, offset=start).reshape(shape).copy()


def _read_parts(folder: Path, labels: tuple[str, ...]) -> Source:
    train, test = (read_pair(folder, part, len(labels)) for part in ("train", "t10k"))
    return Source(labels, train, test)


def _find(folder: Path, stem: str) -> Path:
    for path in (folder / f"{stem}.gz", folder / stem):
        if path.is_file():
            return path
    raise DatasetError(
        f"{folder}: expected a file {stem}.gz or {stem}, got none; give the folder with --data-dir"
    )


def _download(name: str, url: str, files: dict[str, str]) -> Path:
    """Fetch files, name to MD5, into the user's cache."""
    folder = Path(pooch.os_cache("foveal")) / name
    _LOG.info("%s: fetching into %s", name, folder)
    try:
        for file, md5 in files.items():
            pooch.retrieve(f"{url}{file}", f"md5:{md5}", file, folder)
    except (OSError, ValueError) as error:  # requests' errors are OSErrors, pooch's ValueErrors
        reason = str(error).splitlines()[0]
        raise DatasetError(
            f"{name}: expected the files at {url}, got {reason}; give a folder with --data-dir"
        ) from error
    return folder
