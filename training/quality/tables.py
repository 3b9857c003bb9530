"""Listing of ``parquet:PATH``: every row of a file, or of the files of each part."""

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import parquet

from models.image import ImageError
from training.datasets.parquet import Columns, name_classes, open_table
from training.errors import DatasetError
from training.quality.listing import WHOLE, Content, Listing, Row

# Rows of encoded images in memory at once.
_ROWS = 256
_PARTS = ("train", "validation", "test")


def list_parquet(name: str, path: Path) -> Listing:
    """List the rows of a parquet file, or of a folder of ``train*``, ``test*`` and ``validation*``.

    Args:
        name: Name of the dataset.
        path: The file or the folder.

    Raises:
        DatasetError: A file is missing or damaged, or lacks a column.
    """
    parts = {WHOLE: [path]}
    if path.is_dir():
        found = {part: sorted(path.glob(f"{part}*.parquet")) for part in _PARTS}
        parts = {part: files for part, files in found.items() if files}
        if not parts:
            raise DatasetError(f"{path}: expected files train*.parquet and test*.parquet, got none")
    files = [(part, file, *open_table(file)) for part, paths in parts.items() for file in paths]
    values = [_labels(file, table, columns) for _, file, table, columns in files]
    labels = next((columns.labels for *_, columns in files if columns.labels), ())
    labels = labels or name_classes(files[0][1], [value for each in values for value in each])
    rows = [
        Row(str(file), number, part, _target(value, labels))
        for (part, file, *_), cells in zip(files, values, strict=True)
        for number, value in enumerate(cells)
    ]
    opened = [(file, table, columns) for _, file, table, columns in files]
    return Listing(name, labels, rows, lambda wanted: _read(opened, wanted))


def _labels(path: Path, table: parquet.ParquetFile, columns: Columns) -> list[Any]:
    try:
        cells: list[Any] = table.read([columns.label]).column(0).to_pylist()
    except (OSError, pa.ArrowException) as error:
        raise _damaged(path, error) from error
    return cells


def _target(value: Any, labels: tuple[str, ...]) -> int:
    """Return the index of a label cell, -1 if it names no class."""
    if isinstance(value, str):
        return labels.index(value) if value in labels else -1
    return value if value is not None and 0 <= value < len(labels) else -1


def _read(
    files: list[tuple[Path, parquet.ParquetFile, Columns]], wanted: Collection[int] | None
) -> Iterator[tuple[int, Content]]:
    index = 0
    for path, table, columns in files:
        try:
            for batch in table.iter_batches(_ROWS, columns=[columns.image]):
                for cell in batch.column(0):
                    if wanted is None or index in wanted:
                        yield index, _content(cell)
                    index += 1
        except (OSError, pa.ArrowException) as error:
            raise _damaged(path, error) from error


def _content(cell: pa.Scalar) -> Content:
    content = cell["bytes"] if isinstance(cell, pa.StructScalar) and cell.is_valid else cell
    encoded: bytes | None = content.as_py()
    return ImageError("image: expected an image, got no bytes") if encoded is None else encoded


def _damaged(path: Path, error: Exception) -> DatasetError:
    return DatasetError(f"{path}: expected readable rows, got {str(error).splitlines()[0]}")
