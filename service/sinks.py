"""The last stage of scoring: rows into a Parquet, CSV or JSONL file that is there whole or not.

Everything goes into a hidden file beside the one asked for and is renamed at the end. All formats
hold the same columns; CSV and JSONL write a probability as the shortest decimal that reads back as
the same float32, as the service does. Knows nothing about models.
"""

import contextlib
import csv
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import orjson

from service.sources import ScoreError

try:  # the `score` extra; only Parquet needs it
    import pyarrow
    import pyarrow.parquet
except ImportError:
    pyarrow = None

COLUMNS = ("id", "label", "index", "probability", "error", "model", "version")

# Rows in one row group of a Parquet file: large enough to compress, small enough to hold.
_GROUP_ROWS = 1 << 16


@dataclass(frozen=True, slots=True)
class ScoredRow:
    """One row of the output; ``error`` is None, or the three fields of the answer are.

    The label alone is None where the model abstained.
    """

    id: str
    label: str | None
    index: int | None
    probability: np.float32 | None
    error: str | None
    model: str
    version: int


class Sink(Protocol):
    """A file being written."""

    def write(self, rows: list[ScoredRow]) -> None:
        """Append rows."""

    def close(self) -> None:
        """Write what is left and close the file."""


class JsonlSink:
    """One JSON object a line.

    Args:
        path: The file to write.
    """

    def __init__(self, path: Path) -> None:
        self._file = path.open("wb")

    def write(self, rows: list[ScoredRow]) -> None:
        """Append rows."""
        option = orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_APPEND_NEWLINE
        self._file.write(b"".join(orjson.dumps(row, option=option) for row in rows))

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class CsvSink:
    """RFC 4180 with a header, but plain line feeds; None is an empty field.

    Args:
        path: The file to write.
    """

    def __init__(self, path: Path) -> None:
        self._file = path.open("w", encoding="utf-8", newline="")
        self._writer = csv.writer(self._file, lineterminator="\n")
        self._writer.writerow(COLUMNS)

    def write(self, rows: list[ScoredRow]) -> None:
        """Append rows."""
        self._writer.writerows(
            (r.id, r.label, r.index, _digits(r.probability), r.error, r.model, r.version)
            for r in rows
        )

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class ParquetSink:
    """Typed columns, compressed; needs pyarrow.

    Args:
        path: The file to write.
    """

    def __init__(self, path: Path) -> None:
        types = ("string", "string", "int32", "float", "string", "string", "int32")
        fields = zip(COLUMNS, map(pyarrow.type_for_alias, types), strict=True)
        self._schema = pyarrow.schema(list(fields))
        self._writer: Any = pyarrow.parquet.ParquetWriter(path, self._schema, compression="zstd")
        self._waiting: list[ScoredRow] = []

    def write(self, rows: list[ScoredRow]) -> None:
        """Append rows; they reach the file a row group at a time."""
        self._waiting += rows
        if len(self._waiting) >= _GROUP_ROWS:
            self._flush()

    def close(self) -> None:
        """Write the last row group and the footer."""
        try:
            self._flush()
        finally:
            self._writer.close()

    def _flush(self) -> None:
        rows, self._waiting = self._waiting, []
        columns = [
            pyarrow.array([getattr(row, name) for row in rows], type=self._schema.field(name).type)
            for name in COLUMNS
        ]
        self._writer.write_table(pyarrow.Table.from_arrays(columns, schema=self._schema))


SINKS: dict[str, type[JsonlSink] | type[CsvSink] | type[ParquetSink]] = {
    ".parquet": ParquetSink,
    ".csv": CsvSink,
    ".jsonl": JsonlSink,
}


def check_out(out: Path) -> None:
    """See to it that a file could be written, before any work is done for it.

    Raises:
        ScoreError: The ending is unknown, the folder is missing, or pyarrow is.
    """
    if out.suffix not in SINKS:
        raise ScoreError(
            f"{out}: expected a name that ends in {', '.join(SINKS)}, got {out.suffix!r}"
        )
    if out.is_dir() or not out.parent.is_dir():
        got = "a folder of that name" if out.is_dir() else f"no folder {out.parent}"
        raise ScoreError(f"{out}: expected a file in a folder that exists, got {got}")
    if SINKS[out.suffix] is ParquetSink and pyarrow is None:
        raise ScoreError(
            f"{out}: expected pyarrow for Parquet, got none; "
            "pip install 'foveal[score]', or write .csv or .jsonl"
        )


@contextlib.contextmanager
def open_sink(out: Path) -> Iterator[Sink]:
    """Open a sink whose file appears at ``out`` when the block ends well, and only then.

    Args:
        out: The file; its ending chooses the format. One that exists is replaced.

    Raises:
        ScoreError: As ``check_out``.
    """
    check_out(out)
    part = out.with_name(f".{out.name}.{os.getpid()}.part")
    try:
        with contextlib.closing(SINKS[out.suffix](part)) as sink:
            yield sink
        part.replace(out)
    finally:
        part.unlink(missing_ok=True)


def _digits(probability: np.float32 | None) -> str | None:
    if probability is None:
        return None
    return orjson.dumps(probability, option=orjson.OPT_SERIALIZE_NUMPY).decode()
