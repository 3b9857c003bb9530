"""Tables as sources: Parquet with image bytes or with paths, CSV and TSV with paths.

A column of images is binary, or the struct {bytes, path} that Hugging Face's datasets write, or
text: paths relative to the folder of the table. Parquet needs pyarrow.
"""

import csv
import io
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Self

from scoring.files import FileRow, beside, check_rows, open_binary, pin_files
from scoring.pages import Pages
from scoring.rows import (
    CHUNK_BYTES,
    CHUNK_ROWS,
    Chunk,
    Image,
    Label,
    LostError,
    Pin,
    Row,
    ScoreError,
    Truth,
    chunked,
)
from scoring.urls import is_url

try:  # the `score` extra; only Parquet needs it
    import pyarrow
    import pyarrow.parquet
except ImportError:
    pyarrow = None

# What pyarrow raises on damage, its own exceptions among them.
_DAMAGED = (
    *((pyarrow.ArrowException,) if pyarrow else ()),
    LookupError,
    MemoryError,
    OSError,
    OverflowError,
    RuntimeError,
    TypeError,
    ValueError,
)
# Usual names of a column of images or paths, tried in this order if no name is given.
_IMAGES = ("image", "img", "path", "file", "filename", "file_name", "filepath", "file_path")
# A column's pages are read in pieces of this size, to avoid holding a large row group in memory.
_BUFFER_BYTES = 1 << 20
# Most that the rows of a batch may take if each is as long as the longest.
_BATCH_BYTES = 256 << 20


# Longest row of a CSV, and so its longest cell, in characters. The csv module's own limit of a cell
# is the process's and smaller.
_ROW_CHARACTERS = 8 << 20
csv.field_size_limit(_ROW_CHARACTERS)


@dataclass(frozen=True, slots=True)
class Columns:
    """Names of a table's columns; "" searches for the images and uses no column for the others.

    Attributes:
        image: Image bytes, or paths.
        label: True labels: text, or whole numbers that are indexes, or lists of them.
        id: Ids of the rows; by default the path, or the table's path and the row's number.
        keep: Columns to copy to the output.
    """

    image: str = ""
    label: str = ""
    id: str = ""
    keep: tuple[str, ...] = ()


class ParquetSource:
    """The rows of one Parquet file.

    Args:
        path: A local path or a URL.
        columns: Columns to use.

    Raises:
        ScoreError: Not a Parquet file, or a column is missing.
    """

    def __init__(self, path: str, columns: Columns) -> None:
        if pyarrow is None:
            raise ScoreError(f"{path}: expected pyarrow, got none; pip install 'foveal[score]'")
        self.name = FileRow(path).id
        self._path = path
        with open_binary(path) as file:
            size_bytes = file.seek(0, os.SEEK_END)
            try:
                table = pyarrow.parquet.ParquetFile(file)
                self._schema = table.schema_arrow
                groups = [table.metadata.row_group(i) for i in range(table.num_row_groups)]
                self._rows = [group.num_rows for group in groups]
                self._bytes = [group.total_byte_size for group in groups]
            except _DAMAGED as error:
                raise ScoreError(f"{path}: expected a Parquet file, got: {_line(error)}") from None
        if min(self._rows, default=0) < 0:
            raise ScoreError(
                f"{path}: expected row groups of 0 rows or more, got {min(self._rows)}"
            )
        check_rows(path, sum(self._rows), size_bytes)
        image = columns.image or _image_column(path, self._schema.names, self._image_columns())
        self._columns = Columns(image, columns.label, columns.id, columns.keep)
        wanted = [image, *filter(None, (columns.label, columns.id))]
        _require(path, self._schema.names, wanted)
        if image not in self._image_columns():
            raise ScoreError(
                f'{path}: column "{image}": expected binary, text or a struct with bytes, '
                f"got {self._schema.field(image).type}"
            )
        self._wanted = [*wanted, *(name for name in columns.keep if name in self._schema.names)]

    def count(self) -> int:
        """Return the number of rows."""
        return sum(self._rows)

    def chunks(self, start: int = 0, stop: int | None = None) -> Iterator[Chunk]:
        """Stream rows ``start`` to ``stop``; rows of a damaged page have an error."""
        stop = self.count() if stop is None else min(stop, self.count())
        with open_binary(self._path) as file, open_binary(self._path) as second:
            table = pyarrow.parquet.ParquetFile(file, buffer_size=_BUFFER_BYTES)
            pages = None if is_url(self._path) else Pages(second)
            first = 0
            for group, rows in enumerate(self._rows):
                lower, upper = max(start, first), min(stop, first + rows)
                if lower < upper:
                    yield from self._group(table, pages, group, first, lower, upper)
                first += rows

    def cut(self, start: int, stop: int) -> "ParquetSource":  # noqa: ARG002 - a Source's
        """Return itself."""
        return self

    def kinds(self) -> dict[str, str]:
        """Return the kept columns that it has, with their types."""
        fields = {field.name: field for field in self._schema}
        return {name: _kind(fields[name].type) for name in self._columns.keep if name in fields}

    def pin(self) -> Pin:
        """Return a digest of the file's path, size and date."""
        return pin_files(self.name, [self._path])

    def _group(
        self, table: Any, pages: Pages | None, group: int, first: int, lower: int, upper: int
    ) -> Iterator[Chunk]:
        try:
            step = self._step(pages, group)
            for batch in table.iter_batches(step, row_groups=[group], columns=self._wanted):
                if first >= upper:
                    return
                begin, end = max(0, lower - first), min(batch.num_rows, upper - first)
                if begin < end:
                    yield self._chunk(batch.slice(begin, end - begin), first + begin)
                first += batch.num_rows
        except _DAMAGED as error:
            if is_url(self._path) and isinstance(error, OSError):
                raise  # the network failed: the job can resume later without a loss
            damage = ScoreError(f"table: expected a whole row group {group}, got: {_line(error)}")
            ids = (f"{self.name}#{i}" for i in range(max(lower, first), upper))
            yield from chunked(Row(id_, damage) for id_ in ids)

    def _step(self, pages: Pages | None, group: int) -> int:
        """Return how many rows are read at once.

        Behind a URL, each header of a page would be a request: what the footer says must do.
        """
        usual: int = max(1, self._bytes[group] // self._rows[group])
        step = min(CHUNK_ROWS, CHUNK_BYTES // usual)
        if pages is not None:
            step = min(step, _BATCH_BYTES // max(1, pages.row_bytes(group, self._wanted)))
        return max(1, step)

    def _chunk(self, batch: Any, first: int) -> Chunk:
        columns = self._columns
        kept = {
            name: batch.column(name).to_pylist()
            for name in columns.keep
            if name in batch.schema.names
        }
        missing = [None] * batch.num_rows
        return Chunk(
            [f"{self.name}#{i}" for i in range(first, first + batch.num_rows)]
            if not columns.id
            else [str(value) for value in batch.column(columns.id).to_pylist()],
            self._images(batch.column(columns.image)),
            [_truth(value) for value in batch.column(columns.label).to_pylist()]
            if columns.label
            else [],
            list(zip(*(kept.get(name, missing) for name in columns.keep), strict=True)),
            is_declared=True,
        )

    def _images(self, column: Any) -> list[Image]:
        paths: list[Any] = []
        if pyarrow.types.is_struct(column.type):
            fields = [field.name for field in column.type]
            # flatten() also applies the struct's own nulls; field() would not.
            parts = dict(zip(fields, column.flatten(), strict=True))
            column = parts["bytes"]
            paths = parts["path"].to_pylist() if "path" in parts else []
        values = column.to_pylist()
        if _is_text(column.type):
            paths, values = values, [None] * len(values)
        return [
            value if value is not None else self._file(paths[i] if paths else None)
            for i, value in enumerate(values)
        ]

    def _file(self, path: str | None) -> Image:
        return FileRow(beside(self._path, path)) if path else _nothing()

    def _image_columns(self) -> list[str]:
        return [field.name for field in self._schema if _holds_images(field.type)]


class CsvSource:
    """The rows of one CSV (commas) or TSV (tabs) with a header and a column of paths; UTF-8.

    Args:
        path: A local path or a URL.
        columns: Columns to use.

    Raises:
        ScoreError: Not such a table, or a column is missing.
    """

    def __init__(self, path: str, columns: Columns) -> None:
        self.name = FileRow(path).id
        self._path = path
        self._delimiter = "\t" if path.lower().endswith(".tsv") else ","
        try:
            self._header = next(self._lines(), [])
        except (ValueError, csv.Error) as error:
            if isinstance(error, ScoreError):
                raise
            raise ScoreError(f"{path}: expected CSV in UTF-8, got: {error}") from None
        image = columns.image or _image_column(path, self._header, self._header)
        self._columns = Columns(image, columns.label, columns.id, columns.keep)
        _require(path, self._header, [image, *filter(None, (columns.label, columns.id))])

    def count(self) -> int | None:
        """Return None: only reading the whole table would count its rows."""
        return None

    def chunks(self, start: int = 0, stop: int | None = None) -> Iterator[Chunk]:
        """Stream rows ``start`` to ``stop``; damage becomes a last row with an error."""
        return chunked(self._rows(start, stop), is_declared=True)

    def cut(self, start: int, stop: int) -> "CsvSource":  # noqa: ARG002 - a Source's
        """Return itself."""
        return self

    def kinds(self) -> dict[str, str]:
        """Return the kept columns that it has; all are text."""
        return {name: "string" for name in self._columns.keep if name in self._header}

    def pin(self) -> Pin:
        """Return a digest of the file's path, size and date, without those of its images."""
        return pin_files(self.name, [self._path])

    def _rows(self, start: int, stop: int | None) -> Iterator[Row]:
        columns = self._columns
        number = 0
        try:
            for cells in self._lines():
                if stop is not None and number > stop:
                    return
                if number > start:  # the header is number 0
                    cell = dict(zip(self._header, cells, strict=False)).get
                    path = cell(columns.image) or ""
                    yield Row(
                        (cell(columns.id) if columns.id else path) or f"{self.name}#{number - 1}",
                        FileRow(beside(self._path, path)) if path else _nothing(),
                        cell(columns.label) if columns.label else None,
                        tuple(cell(name) for name in columns.keep),
                    )
                number += 1
        except LostError:
            raise
        except (ValueError, csv.Error) as error:
            if number > start:
                damage = ScoreError(f"table: expected CSV in UTF-8, got: {error}")
                yield Row(self.name, damage, None, (None,) * len(columns.keep))

    def _lines(self) -> Iterator[list[str]]:
        with (
            open_binary(self._path) as file,
            io.TextIOWrapper(file, encoding="utf-8-sig", newline="") as text,
        ):
            lines = _Lines(text)
            for cells in csv.reader(lines, delimiter=self._delimiter, strict=True):
                lines.row_characters = 0
                if cells:
                    yield cells


class _Lines:
    """The lines of a text; raises csv.Error where those of one row are too long to be held.

    Args:
        text: A text file.
    """

    def __init__(self, text: io.TextIOWrapper) -> None:
        self._text = text
        self.row_characters = 0

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> str:
        line = self._text.readline(_ROW_CHARACTERS + 1)
        self.row_characters += len(line)
        if self.row_characters > _ROW_CHARACTERS:
            raise csv.Error(f"a row of more than {_ROW_CHARACTERS} characters")
        if not line:
            raise StopIteration
        return line


def _image_column(path: str, names: list[str], candidates: list[str]) -> str:
    """Return the column of images if no name is given."""
    lower = {name.lower(): name for name in reversed(candidates)}
    found = [lower[name] for name in _IMAGES if name in lower]
    if not found and len(candidates) == 1:
        found = candidates
    if not found:
        raise ScoreError(
            f"{path}: expected a column of images or paths, got {', '.join(names) or 'none'}; "
            "name it with --image-column"
        )
    return found[0]


def _require(path: str, names: list[str], wanted: list[str]) -> None:
    for name in wanted:
        if name not in names:
            raise ScoreError(f'{path}: expected a column "{name}", got {", ".join(names)}')


def _holds_images(kind: Any) -> bool:
    types = pyarrow.types
    if types.is_struct(kind):
        return any(field.name == "bytes" and _is_binary(field.type) for field in kind)
    return _is_binary(kind) or _is_text(kind)


def _is_binary(kind: Any) -> bool:
    return bool(pyarrow.types.is_binary(kind) or pyarrow.types.is_large_binary(kind))


def _is_text(kind: Any) -> bool:
    return bool(pyarrow.types.is_string(kind) or pyarrow.types.is_large_string(kind))


def _kind(kind: Any) -> str:
    types = pyarrow.types
    if types.is_boolean(kind):
        return "bool"
    if types.is_integer(kind) and kind != pyarrow.uint64():
        return "int64"
    return "double" if types.is_floating(kind) else "string"


def _truth(value: object) -> Truth:
    if isinstance(value, list):
        return tuple(_label(each) for each in value)
    return _label(value)


def _label(value: object) -> Label:
    if isinstance(value, bool) or value is None:
        return None
    return value if isinstance(value, int) else str(value)


def _nothing() -> ScoreError:
    return ScoreError("image: expected bytes or a path, got nothing")


def _line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else "nothing"
