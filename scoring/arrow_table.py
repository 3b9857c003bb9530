"""Batches of Arrow become chunks: which columns of a table are used, and how they are read.

Parquet and Arrow files are read to batches elsewhere. Needs pyarrow.
"""

from functools import partial
from typing import Any

from models.installation import how_to_add
from scoring.columns import (
    class_names,
    column_of,
    holds_images,
    image_columns,
    images_of,
    may_share,
    names_within,
    output_kind,
    truths_of,
    type_of,
)
from scoring.files import FileRow
from scoring.rows import Chunk, ScoreError
from scoring.tables import Columns, file_of

try:  # the `score` extra
    import pyarrow
except ImportError:
    pyarrow = None

# What pyarrow raises on damage, its own exceptions among them.
DAMAGED = (
    *((pyarrow.ArrowException,) if pyarrow else ()),
    LookupError,
    MemoryError,
    OSError,
    OverflowError,
    RuntimeError,
    TypeError,
    ValueError,
)


class ArrowTable:
    """The columns of one table.

    Args:
        path: The table's file.
        schema: Its schema.
        columns: Columns to use.

    Attributes:
        wanted: Names of the columns that are used, with dots for fields of structs.
        tops: The same without the fields.
        may_share: Whether many rows may be the same memory, so that they take more than the file.

    Raises:
        ScoreError: A column is missing, or the images' has a type that holds none.
    """

    def __init__(self, path: str, schema: Any, columns: Columns) -> None:
        self._path = path
        self._name = FileRow(path).id
        self._schema = schema
        self._asked = columns.keep
        nested = names_within(schema)
        self._columns = columns.within(path, schema.names, image_columns(schema), nested)
        found = self._columns
        kind = type_of(schema, found.image)
        if not holds_images(kind):
            raise ScoreError(
                f'{path}: column "{found.image}": expected binary, text, lists of 0-255 or a '
                f"struct with bytes, got {kind}"
            )
        names = (found.image, found.label, found.id, *found.keep)
        self.wanted = list(dict.fromkeys(filter(None, names)))
        self.tops = [
            name if name in schema.names else name.partition(".")[0] for name in self.wanted
        ]
        self.may_share = may_share(kind)
        self._classes = class_names(schema, found.label) if found.label else ()

    def kinds(self) -> dict[str, str]:
        """Return the kept columns that it has, with their types."""
        return {
            asked: output_kind(type_of(self._schema, name))
            for asked, name in zip(self._asked, self._columns.keep, strict=True)
            if name
        }

    def chunk(self, batch: Any, first: int) -> Chunk:
        """Return the rows of a batch.

        Args:
            batch: A record batch with the wanted columns.
            first: Number of its first row in the table.
        """
        columns = self._columns
        rows = range(first, first + batch.num_rows)
        ids = [f"{self._name}#{i}" for i in rows]
        if columns.id:
            given = column_of(batch, columns.id).to_pylist()
            ids = [
                id_ if value is None else str(value) for id_, value in zip(ids, given, strict=True)
            ]
        missing = [None] * batch.num_rows
        kept = [column_of(batch, name).to_pylist() if name else missing for name in columns.keep]
        return Chunk(
            ids,
            images_of(column_of(batch, columns.image), partial(file_of, self._path)),
            truths_of(column_of(batch, columns.label), self._classes) if columns.label else [],
            list(zip(*kept, strict=True)),
            is_declared=True,
        )


def need_pyarrow(path: str) -> None:
    """Raise ScoreError if pyarrow is missing."""
    if pyarrow is None:
        raise ScoreError(f"{path}: expected pyarrow, got none; {how_to_add('score')}")


def line_of(error: Exception) -> str:
    """Return the first line of an error."""
    return str(error).strip().splitlines()[0] if str(error).strip() else "nothing"
