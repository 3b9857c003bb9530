"""Parquet as a source: image bytes, paths or pixels in a column; needs pyarrow.

Pages are checked before they are expanded; a row group that is damaged is rows with an error.
"""

import os
from collections.abc import Iterator
from typing import Any

from scoring.arrow_table import DAMAGED, ArrowTable, line_of, need_pyarrow
from scoring.files import FileSource, check_rows, open_binary
from scoring.pages import Pages
from scoring.rows import CHUNK_BYTES, CHUNK_ROWS, Chunk, LostError, Row, ScoreError, chunked
from scoring.tables import Columns
from scoring.urls import is_url

try:  # the `score` extra
    import pyarrow
    import pyarrow.parquet
except ImportError:
    pyarrow = None

# A column's pages are read in pieces of this size, to avoid holding a large row group in memory.
_BUFFER_BYTES = 1 << 20
# Most that the rows of a batch may take if each is as long as the longest.
_BATCH_BYTES = 256 << 20


class ParquetSource(FileSource):
    """The rows of one Parquet file.

    Args:
        path: A local path or a URL.
        columns: Columns to use.

    Raises:
        ScoreError: Not a Parquet file, or a column is missing.
    """

    def __init__(self, path: str, columns: Columns) -> None:
        need_pyarrow(path)
        super().__init__(path)
        with open_binary(path) as file:
            size_bytes = file.seek(0, os.SEEK_END)
            try:
                table = pyarrow.parquet.ParquetFile(file)
                self._schema = table.schema_arrow
                groups = [table.metadata.row_group(i) for i in range(table.num_row_groups)]
                self._rows = [group.num_rows for group in groups]
                self._bytes = [group.total_byte_size for group in groups]
            except LostError:
                raise
            except DAMAGED as error:
                raise ScoreError(
                    f"{path}: expected a Parquet file, got: {line_of(error)}"
                ) from None
        if min(self._rows, default=0) < 0:
            raise ScoreError(
                f"{path}: expected row groups of 0 rows or more, got {min(self._rows)}"
            )
        check_rows(path, sum(self._rows), size_bytes)
        self._table = ArrowTable(path, self._schema, columns)

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

    def kinds(self) -> dict[str, str]:
        """Return the kept columns that it has, with their types."""
        return self._table.kinds()

    def _group(
        self, table: Any, pages: Pages | None, group: int, first: int, lower: int, upper: int
    ) -> Iterator[Chunk]:
        try:
            step = self._step(pages, group)
            for batch in table.iter_batches(step, row_groups=[group], columns=self._table.wanted):
                if first >= upper:
                    return
                begin, end = max(0, lower - first), min(batch.num_rows, upper - first)
                if begin < end:
                    yield self._table.chunk(batch.slice(begin, end - begin), first + begin)
                first += batch.num_rows
        except DAMAGED as error:
            if is_url(self._path) and isinstance(error, OSError):
                raise  # the network failed: the job can resume later without a loss
            damage = ScoreError(f"table: expected a whole row group {group}, got: {line_of(error)}")
            ids = (f"{self.name}#{i}" for i in range(max(lower, first), upper))
            yield from chunked(Row(id_, damage) for id_ in ids)

    def _step(self, pages: Pages | None, group: int) -> int:
        """Return how many rows are read at once.

        Behind a URL, each header of a page would be a request: what the footer says must do.
        """
        usual: int = max(1, self._bytes[group] // self._rows[group])
        step = min(CHUNK_ROWS, CHUNK_BYTES // usual)
        if pages is not None:
            step = min(step, _BATCH_BYTES // max(1, pages.row_bytes(group, self._table.tops)))
        return max(1, step)
