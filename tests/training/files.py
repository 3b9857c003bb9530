"""Datasets in their official formats, small, for tests to read."""

import gzip
import json
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import parquet

from models.image import encode_png

CIFAR_BATCHES = (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch")


def write_idx(path: Path, values: np.ndarray) -> Path:
    header = bytes([0, 0, 8, values.ndim]) + struct.pack(f">{values.ndim}I", *values.shape)
    content = header + values.astype(np.uint8).tobytes()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def write_mnist_like(folder: Path, rows: int = 100) -> Path:
    """Two parts of noise in the four files of MNIST, as many of each of ten classes."""
    folder.mkdir(exist_ok=True)
    generator = np.random.default_rng(1)
    for part, suffix in (("train", ".gz"), ("t10k", "")):
        images = generator.integers(0, 256, (rows, 28, 28))
        write_idx(folder / f"{part}-images-idx3-ubyte{suffix}", images)
        write_idx(folder / f"{part}-labels-idx1-ubyte{suffix}", np.arange(rows) % 10)
    return folder


def write_cifar(folder: Path, rows: int = 40) -> Path:
    """The six batches of CIFAR-10, ``rows`` images of noise in each."""
    folder.mkdir(exist_ok=True)
    generator = np.random.default_rng(2)
    for name in CIFAR_BATCHES:
        data = generator.integers(0, 256, (rows, 3072), dtype=np.uint8)
        (folder / name).write_bytes(pickle_batch(data, [row % 10 for row in range(rows)]))
    return folder


def pickle_batch(data: np.ndarray, labels: list[Any]) -> bytes:
    """Pickle a batch as Python 2 and its numpy did: protocol 2, texts as bytes, old module names.

    Assembled by hand, because nothing that runs today writes it; opcodes as in ``pickletools``.
    """
    array = (
        _global("numpy.core.multiarray", "_reconstruct")
        + _global("numpy", "ndarray")
        + b"K\0\x85"
        + _text(b"b")
        + b"\x87R"  # (ndarray, (0,), 'b')
        + b"(K\x01"
        + _number(data.shape[0])
        + _number(data.shape[1])
        + b"\x86"  # version, shape
        + _global("numpy", "dtype")
        + _text(b"u1")
        + b"K\0K\x01\x87R"
        + b"(K\x03"
        + _text(b"|")
        + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\0tb"
        + b"\x89"
        + _text(data.tobytes())
        + b"tb"  # not Fortran order, the values
    )
    batch = (
        _text(b"batch_label")
        + _text(b"training batch 1 of 5")
        + _text(b"labels")
        + b"]("
        + b"".join(map(_number, labels))
        + b"e"
        + _text(b"data")
        + array
        + _text(b"filenames")
        + b"]("
        + _text(b"some_file.png")
        + b"e"
    )
    return b"\x80\x02}(" + batch + b"u."


def write_parquet(
    path: Path,
    images: Sequence[bytes | None],
    labels: list[Any],
    names: list[str] | None = None,
    **columns: Any,
) -> Path:
    """Write a table as Hugging Face's datasets do, or with ``columns`` in place of theirs."""
    table = {
        "image": [{"bytes": image, "path": None} for image in images],
        "label": pa.array(labels),
    } | columns
    written = pa.table({name: values for name, values in table.items() if values is not None})
    if names is not None:
        features = {
            "image": {"_type": "Image"},
            "label": {"_type": "ClassLabel", "names": names},
        }
        metadata = {"huggingface": json.dumps({"info": {"features": features}})}
        written = written.replace_schema_metadata(metadata)
    parquet.write_table(written, path, row_group_size=7)
    return path


def make_pngs(count: int, side: int = 6, channels: int = 3) -> list[bytes]:
    """PNG files of one brightness each: image i is 10 * i everywhere."""
    return [
        encode_png(np.full((side, side, channels), 10 * index, np.uint8)) for index in range(count)
    ]


def _global(module: str, name: str) -> bytes:
    return f"c{module}\n{name}\n".encode()


def _text(content: bytes) -> bytes:
    return b"T" + struct.pack("<I", len(content)) + content


def _number(value: Any) -> bytes:
    return b"J" + struct.pack("<i", value) if isinstance(value, int) else _text(value)
