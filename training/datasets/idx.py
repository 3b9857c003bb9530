"""The idx format of LeCun's MNIST files, gzipped or plain.

An idx file is two zero bytes, a type byte (8 = unsigned byte), the number of dimensions, each
dimension as a big-endian uint32, then the values. Format: http://yann.lecun.com/exdb/mnist/.
"""

import gzip
import math
import struct
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from training.datasets.splits import Split
from training.errors import DatasetError

_UNSIGNED_BYTE = 8


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
            f"{labels_path}: expected {len(images_NHW)} labels, one per image, got {len(targets_N)}"
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
        uint8, shape from the header, 0-255.

    Raises:
        DatasetError: The file cannot be read, is not idx, or its length is not that in its header.
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


def _find(folder: Path, stem: str) -> Path:
    for path in (folder / f"{stem}.gz", folder / stem):
        if path.is_file():
            return path
    raise DatasetError(
        f"{folder}: expected a file {stem}.gz or {stem}, got none; give the folder with --data-dir"
    )
