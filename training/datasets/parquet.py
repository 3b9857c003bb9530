"""Parquet files with an image and a label in each row, as Hugging Face's ``datasets`` writes them.

The image is a struct of ``bytes`` and ``path`` or plain binary; the label is a text, or an integer
whose names are in the schema's metadata. Only the bytes are used: a path is never followed.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import parquet

from training.datasets.encoded import AS_THEY_ARE, Encoded, Reading, decode_all
from training.datasets.splits import Source, Split, split_off_test
from training.errors import DatasetError

# Rows of encoded images in memory at once.
_ROWS = 1024


@dataclass(frozen=True, slots=True)
class Columns:
    """The columns to read, and the names of the classes.

    Attributes:
        image: Name of the column of images.
        label: Name of the column of labels.
        labels: Names of the classes, empty if the metadata has none.
    """

    image: str
    label: str
    labels: tuple[str, ...]


def read_parquet(path: Path, reading: Reading = AS_THEY_ARE) -> Source:
    """Read a parquet file, or a folder with the files of a train and a test part.

    Args:
        path: One file, of which a fifth of each class becomes the test part; or a folder of
            ``train*.parquet`` and ``test*.parquet``.
        reading: See ``decode_all``.

    Raises:
        DatasetError: A file is missing or damaged, lacks a column, or has a wrong row; the message
            names file and row.
    """
    if not path.is_dir():
        labels, everything = _read_part([path], (), reading)
        return split_off_test(labels, everything)
    train_files, test_files = (sorted(path.glob(f"{part}*.parquet")) for part in ("train", "test"))
    if not train_files or not test_files:
        raise DatasetError(
            f"{path}: expected files train*.parquet and test*.parquet, "
            f"got {len(train_files)} and {len(test_files)}"
        )
    labels, train = _read_part(train_files, (), reading)
    test_labels, test = _read_part(test_files, labels, reading)
    if test_labels != labels:
        raise DatasetError(
            f"{test_files[0]}: expected the labels of {train_files[0].name}, "
            f"{', '.join(labels)}, got {', '.join(test_labels)}"
        )
    return Source(labels, train, test)


def _read_part(
    paths: list[Path], known: tuple[str, ...], reading: Reading
) -> tuple[tuple[str, ...], Split]:
    """Read the files of one part; ``known`` are the labels of the other part."""
    files = [(path, *open_table(path)) for path in paths]
    count = sum(file.metadata.num_rows for _, file, _ in files)
    if not count:
        raise DatasetError(f"{paths[0]}: expected rows, got none")
    values: list[Any] = []
    images_NHWC = decode_all(_rows(files, values), count, reading)
    labels = files[0][2].labels or known or name_classes(paths[0], values)
    return labels, Split(images_NHWC, _targets(files, values, labels))


def open_table(path: Path) -> tuple[parquet.ParquetFile, Columns]:
    """Open a parquet file and find its columns of images and labels.

    Raises:
        DatasetError: The file is missing or damaged, or lacks a column.
    """
    try:
        file = parquet.ParquetFile(path)
    except (OSError, pa.ArrowException) as error:
        reason = str(error).splitlines()[0]
        raise DatasetError(f"{path}: expected a parquet file, got {reason}") from error
    schema = file.schema_arrow
    columns = _columns(schema)
    for kind, name in (("images", columns.image), ("labels", columns.label)):
        if name not in schema.names:
            raise DatasetError(
                f"{path}: expected a column {name!r} of {kind}, got {', '.join(schema.names)}"
            )
    image_type, label_type = schema.field(columns.image).type, schema.field(columns.label).type
    if pa.types.is_struct(image_type) and "bytes" in {field.name for field in image_type}:
        image_type = image_type.field("bytes").type
    if not pa.types.is_binary(image_type) and not pa.types.is_large_binary(image_type):
        raise DatasetError(
            f"{path}: expected binary images in {columns.image!r}, plain or as a struct with "
            f"bytes, got {image_type}"
        )
    if not (pa.types.is_integer(label_type) or _is_text(label_type)):
        raise DatasetError(
            f"{path}: expected integers or texts in {columns.label!r}, got {label_type}"
        )
    return file, columns


def _columns(schema: pa.Schema) -> Columns:
    """Take the columns from the metadata of Hugging Face's ``datasets``, if there is any."""
    image, label = "image", "label"
    labels: tuple[str, ...] = ()
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        for name, feature in features.items():
            if feature.get("_type") == "Image":
                image = name
            elif feature.get("_type") == "ClassLabel":
                label, labels = name, tuple(map(str, feature["names"]))
    except (KeyError, ValueError, TypeError, AttributeError):
        # Metadata of another writer: expect the usual names; a missing column is reported.
        return Columns("image", "label", ())
    return Columns(image, label, labels)


def _rows(
    files: list[tuple[Path, parquet.ParquetFile, Columns]], values: list[Any]
) -> Iterator[Encoded]:
    """Yield the images of all rows, appending each row's label to ``values``."""
    for path, file, columns in files:
        row = 0
        try:
            for batch in file.iter_batches(_ROWS, columns=[columns.image, columns.label]):
                values += batch.column(columns.label).to_pylist()
                for cell in batch.column(columns.image):
                    content = cell["bytes"] if isinstance(cell, pa.StructScalar) else cell
                    encoded = content.as_py()
                    if encoded is None:
                        raise DatasetError(f"{path} row {row}: expected an image, got no bytes")
                    yield Encoded(f"{path} row {row}", encoded)
                    row += 1
        except (OSError, pa.ArrowException) as error:
            reason = str(error).splitlines()[0]
            raise DatasetError(f"{path}: expected readable rows, got {reason}") from error


def name_classes(path: Path, values: list[Any]) -> tuple[str, ...]:
    """Return the names of the classes if the metadata has none.

    Args:
        path: The file of the first value, for error messages.
        values: Label cells: texts, whole numbers or None.

    Raises:
        DatasetError: A number is not below the number of rows.
    """
    given = [value for value in values if value is not None]
    if given and isinstance(given[0], str):
        return tuple(sorted(set(given)))
    highest = max(given, default=0)
    if highest >= len(values):
        raise DatasetError(
            f"{path} row {values.index(highest)}: expected a label below the number of rows, "
            f"{len(values)}, got {highest}"
        )
    return tuple(map(str, range(highest + 1)))


def _targets(
    files: list[tuple[Path, parquet.ParquetFile, Columns]],
    values: list[Any],
    labels: tuple[str, ...],
) -> NDArray[np.int64]:
    """Turn label cells into targets; an error names the first wrong row."""
    numbers = {label: number for number, label in enumerate(labels)}
    targets_N = np.empty(len(values), np.int64)
    position = 0
    for path, file, _ in files:
        for row in range(file.metadata.num_rows):
            value = values[position]
            target = numbers.get(value, -1) if isinstance(value, str) else value
            if target is None or not 0 <= target < len(labels):
                raise DatasetError(
                    f"{path} row {row}: expected a label 0 to {len(labels) - 1} "
                    f"({', '.join(labels[:10])}), got {value!r}"
                )
            targets_N[position] = target
            position += 1
    return targets_N


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))
