"""Parquet files with an image and a label in each row, as Hugging Face's ``datasets`` writes them.

The image is a struct of ``bytes`` and ``path`` or plain binary; the label is a text, a category, or
a whole number whose names are in the schema's metadata. Labels are compared by their names. Only
the bytes are used: a path is never followed.
"""

import json
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import parquet

from models.image import ImageError
from models.junk import is_in_hidden_folder
from training.datasets.listing import (
    FOUND,
    PART_NAMES,
    SPLITS,
    WHOLE,
    Columns,
    Content,
    Listing,
    Row,
    one_form,
    part_of,
)
from training.errors import DatasetError

# Rows of encoded images in memory at once.
_ROWS = 256
# Usual names of columns without metadata.
_IMAGES = ("image", "img")
_LABELS = ("label", "labels")
# Between the name of a part and the number of its file, as in train-00000-of-00002.parquet.
_AFTER_PART = re.compile(r"[-_.]")


@dataclass(frozen=True, slots=True)
class _Table:
    """One file: its part, its columns, and the names that its numbers stand for, if any."""

    path: Path
    split: str
    file: parquet.ParquetFile
    columns: Columns
    names: tuple[str, ...]


def list_parquet(name: str, path: Path, columns: Columns = FOUND) -> Listing:
    """List the rows of a parquet file, or of the files in a folder.

    Args:
        name: Name of the dataset.
        path: One file; or a folder of files that are called after their part
            (``train-00000-of-00002.parquet``) or stand in folders that are (``train/0.parquet``),
            or of files without parts.
        columns: The columns to read.

    Raises:
        DatasetError: A file is missing or damaged, lacks a column, or has several of labels.
    """
    tables = [_open(file, split, columns) for file, split in _files(path)]
    values = [_labels(table) for table in tables]
    labels = next((table.names for table in tables if table.names), ())
    labels = labels or _name_classes(tables, values)
    numbers = {label: number for number, label in enumerate(labels)}
    rows: list[Row] = []
    unlabelled: dict[int, str] = {}
    for table, cells in zip(tables, values, strict=True):
        for number, value in enumerate(cells):
            target = _target(value, table.names, numbers)
            if target < 0:
                unlabelled[len(rows)] = (
                    f"expected a label 0 to {len(labels) - 1} ({', '.join(labels[:10])}), "
                    f"got {value!r}"
                )
            rows.append(Row(str(table.path), number, table.split, target))
    return Listing(
        name,
        labels,
        rows,
        lambda wanted: _read(tables, wanted),
        where=str(path),
        unlabelled=unlabelled,
    )


def _files(path: Path) -> list[tuple[Path, str]]:
    """Return the files with their splits, those for training first."""
    if not path.is_dir():
        return [(path, WHOLE)]
    found = [
        file
        for file in sorted(path.rglob("*"))
        if file.suffix.lower() == ".parquet"
        and not is_in_hidden_folder(file.relative_to(path).as_posix())
    ]
    files = [(file, _split(file, path)) for file in found]
    without = [file for file, split in files if not split]
    if not files or (without and len(without) < len(files)):
        got = f"{without[0].name} beside parts" if files else "none"
        raise DatasetError(
            f"{path}: expected files train*.parquet and test*.parquet, called after their part: "
            f"{PART_NAMES}; or files without parts; got {got}"
        )
    if without:
        return [(file, WHOLE) for file in found]
    if not any(split == "train" for _, split in files):
        raise DatasetError(
            f"{path}: expected a part train*.parquet, got {', '.join(f.name for f in found[:5])}"
        )
    return sorted(files, key=lambda file: SPLITS.index(file[1]))


def _split(file: Path, root: Path) -> str:
    """Return the split that a file's name, or the nearest folder's, says; "" if none does."""
    folders = file.relative_to(root).parts[-2::-1]
    return next(filter(None, map(part_of, (_AFTER_PART.split(file.name)[0], *folders))), "")


def _open(path: Path, split: str, columns: Columns) -> _Table:
    try:
        file = parquet.ParquetFile(path)
    except (OSError, pa.ArrowException) as error:
        reason = str(error).splitlines()[0]
        raise DatasetError(f"{path}: expected a parquet file, got {reason}") from error
    schema = file.schema_arrow
    features = _features(schema)
    image = columns.image or _find(schema, features, "Image", _IMAGES) or _IMAGES[0]
    label = columns.label or _label_column(path, schema, features)
    for kind, name in (("image", image), ("label", label)):
        if name not in schema.names:
            raise DatasetError(
                f"{path}: expected a column {name!r} of {kind}s, got {', '.join(schema.names)}; "
                f"name it with --{kind}-column"
            )
    image_type, label_type = schema.field(image).type, schema.field(label).type
    if pa.types.is_struct(image_type) and "bytes" in {field.name for field in image_type}:
        image_type = image_type.field("bytes").type
    if not _is_binary(image_type):
        raise DatasetError(
            f"{path}: expected binary images in {image!r}, plain or as a struct with "
            f"bytes, got {image_type}"
        )
    if not _may_be_label(label_type):
        raise DatasetError(f"{path}: expected integers or texts in {label!r}, got {label_type}")
    names = features.get(label, {}).get("names") or ()
    return _Table(path, split, file, Columns(image, label), tuple(one_form(str(n)) for n in names))


def _features(schema: pa.Schema) -> dict[str, dict[str, Any]]:
    """Return what the metadata of Hugging Face's ``datasets`` says of columns that the file has."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        return {
            name: feature
            for name, feature in features.items()
            if isinstance(feature, dict) and name in schema.names
        }
    except (KeyError, ValueError, TypeError, AttributeError):
        return {}  # metadata of another writer: the usual names; a missing column is reported


def _find(
    schema: pa.Schema, features: dict[str, dict[str, Any]], kind: str, usual: tuple[str, ...]
) -> str:
    """Return the column of a kind, else one with a usual name, else ""."""
    of_kind = [name for name, feature in features.items() if feature.get("_type") == kind]
    named = [name for name in usual if name in (of_kind or schema.names)]
    return named[0] if named else next(iter(of_kind), "")


def _label_column(path: Path, schema: pa.Schema, features: dict[str, dict[str, Any]]) -> str:
    """Return the column of labels; which of several is a question for the user."""
    found = [name for name, feature in features.items() if feature.get("_type") == "ClassLabel"]
    usual = [name for name in _LABELS if name in (found or schema.names)]
    if len(found) > 1 and not usual:
        raise DatasetError(
            f"{path}: expected one column of labels, got {', '.join(found)}; choose one with "
            "--label-column"
        )
    return (usual or found or [_LABELS[0]])[0]


def _labels(table: _Table) -> list[Any]:
    """Return the label cells: texts, whole numbers or None; other numbers as they are."""
    try:
        cells = table.file.read([table.columns.label]).column(0).to_pylist()
    except (OSError, pa.ArrowException) as error:
        raise _damaged(table.path, error) from error
    return [_plain(value) for value in cells]


def _plain(value: Any) -> Any:
    if isinstance(value, float) and value == value // 1:  # pandas writes 3.0 beside a missing one
        return int(value)
    return one_form(value) if isinstance(value, str) else value


def _name_classes(tables: list[_Table], values: list[list[Any]]) -> tuple[str, ...]:
    """Return the names of the classes if no metadata has them: texts in order, or numbers."""
    every = [
        (table, row, value)
        for table, cells in zip(tables, values, strict=True)
        for row, value in enumerate(cells)
        if value is not None
    ]
    if any(isinstance(value, str) for _, _, value in every):
        return tuple(sorted({value for _, _, value in every if isinstance(value, str)}))
    whole = [each for each in every if isinstance(each[2], int)]
    if not whole:
        return ()
    table, row, highest = max(whole, key=lambda each: each[2])
    total = sum(map(len, values))
    if highest >= total:
        raise DatasetError(
            f"{table.path} row {row}: expected a label below the number of rows, {total}, "
            f"got {highest}"
        )
    return tuple(map(str, range(highest + 1)))


def _target(value: Any, names: tuple[str, ...], numbers: dict[str, int]) -> int:
    """Return the index of a label cell, -1 if it names no class."""
    if isinstance(value, str):
        return numbers.get(value, -1)
    if not isinstance(value, int) or value < 0:
        return -1
    if names:
        return numbers.get(names[value], -1) if value < len(names) else -1
    return value if value < len(numbers) else -1


def _read(tables: list[_Table], wanted: Collection[int] | None) -> Iterator[tuple[int, Content]]:
    index = 0
    for table in tables:
        try:
            for batch in table.file.iter_batches(_ROWS, columns=[table.columns.image]):
                for cell in batch.column(0):
                    if wanted is None or index in wanted:
                        yield index, _content(cell)
                    index += 1
        except (OSError, pa.ArrowException) as error:
            raise _damaged(table.path, error) from error


def _content(cell: pa.Scalar) -> Content:
    content = cell["bytes"] if isinstance(cell, pa.StructScalar) and cell.is_valid else cell
    encoded: bytes | None = content.as_py()
    return ImageError("image: expected an image, got no bytes") if encoded is None else encoded


def _damaged(path: Path, error: Exception) -> DatasetError:
    return DatasetError(f"{path}: expected readable rows, got {str(error).splitlines()[0]}")


def _is_any(kind: pa.DataType, *names: str) -> bool:
    return any(getattr(pa.types, f"is_{name}")(kind) for name in names)


def _is_binary(kind: pa.DataType) -> bool:
    return _is_any(kind, "binary", "large_binary", "fixed_size_binary", "binary_view")


def _may_be_label(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return _is_any(kind, "integer", "floating", "string", "large_string", "string_view")
