"""The formats of the output: Parquet, CSV, JSONL. Rows are written to parts, parts to the table.

All formats hold the same columns (in CSV, a list is a text); CSV and JSONL write a probability as
the shortest decimal that reads back as the same float32, as the service does. The table depends
only on its rows, never on their division into parts. Knows nothing about models and jobs.

Layout legend: N rows, K classes, T most probable classes.
"""

import dataclasses
import gzip
import io
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
import orjson
from numpy.typing import NDArray

from models.abstain import is_answered
from models.installation import how_to_add
from models.spreadsheet import BEGINS, csv_writer, inert
from scoring.rows import ScoreError
from scoring.stages import OutputOptions, Scored
from scoring.truths import SEPARATOR
from service.pipeline.postprocess import shortest_decimals

try:  # the `score` extra; only Parquet needs it
    import pyarrow
    import pyarrow.parquet
except ImportError:
    pyarrow = None

COLUMNS = ("id", "label", "index", "probability", "error", "model", "version")

# Rows in one row group of a Parquet file: enough to compress well, few enough to hold in memory;
# fewer if each row has many probabilities.
_GROUP_ROWS = 1 << 16
_GROUP_BYTES = 64 << 20
_COPY_BYTES = 1 << 20
# Most of a file's first line that is read to see what the file is.
_LINE_BYTES = 1 << 20
_REPEATING = ("string", "int32", "int64", "bool")


@dataclass(frozen=True, slots=True)
class Layout:
    """The columns of the output.

    Attributes:
        labels: Label of each index, K of them.
        model: Name of the model.
        version: Its version.
        output: What is written for each row.
        kept: Kept columns of the sources, and their types: int64, double, bool or string.
        threshold: If the best label is less probable, the model abstains and ``label`` is empty;
            0 if it never abstains.
        names: Of a multi-label model: name of each label in the column ``labels``, all different;
            else ().
    """

    labels: tuple[str, ...]
    model: str
    version: int
    output: OutputOptions
    kept: dict[str, str]
    threshold: float = 0.0
    names: tuple[str, ...] = ()

    @property
    def top(self) -> int:
        """Return T, the number of labels for each row."""
        return min(self.output.top, len(self.labels))

    @property
    def types(self) -> dict[str, str]:
        """Return every column and its type, in order; a kept one with a taken name is renamed."""
        types = {"id": "string", "label": "string", "index": "int32", "probability": "float"}
        for place in range(2, self.top + 1):
            types |= {f"label_{place}": "string", f"index_{place}": "int32"}
            types[f"probability_{place}"] = "float"
        if self.names:
            types["labels"] = "names"
        if self.output.probabilities:
            types["probabilities"] = "list"
        types |= {"error": "string", "model": "string", "version": "int32"}
        for name, kind in self.kept.items():
            types[name if name not in types else f"source_{name}"] = kind
        return types

    @property
    def group_rows(self) -> int:
        """Return the number of rows that are held in memory and written to Parquet at once."""
        if not self.output.probabilities:
            return _GROUP_ROWS
        return max(1, min(_GROUP_ROWS, _GROUP_BYTES // (4 * len(self.labels))))


class FormatError(ScoreError):
    """The name of an output does not say a format that can be written."""


class _TextSink:
    """Base of the text formats: a table is a header and the lines of all parts.

    Args:
        layout: The columns.
    """

    header = b""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._names = tuple(layout.types)

    def join(self, parts: Sequence[Path], table: BinaryIO) -> None:
        """Write the header and the lines of all parts to a new table."""
        table.write(self.header)
        for part in parts:
            with part.open("rb") as lines:
                shutil.copyfileobj(lines, table, _COPY_BYTES)


class JsonlSink(_TextSink):
    """One JSON object on each line."""

    def write(self, file: BinaryIO, scored: Sequence[Scored]) -> None:
        """Write rows to a new part, or after others to a table."""
        for each in scored:
            file.write(
                b"".join(
                    orjson.dumps(
                        dict(zip(self._names, row, strict=True)), option=orjson.OPT_APPEND_NEWLINE
                    )
                    for row in _text_rows(self._layout, each, orjson.Fragment, list)
                )
            )


class CsvSink(_TextSink):
    """RFC 4180 with a header, but with LF instead of CRLF; None is an empty field.

    A text that a spreadsheet would run has a quote before it, by ``models.spreadsheet``.

    Raises:
        ScoreError: A label of a multi-label model has the character between labels in it.
    """

    def __init__(self, layout: Layout) -> None:
        labels = tuple(map(inert, layout.labels))
        super().__init__(dataclasses.replace(layout, labels=labels, model=inert(layout.model)))
        wrong = next((name for name in layout.names if SEPARATOR in name), None)
        if wrong is not None:
            raise ScoreError(
                f"labels: expected none with {SEPARATOR!r} in it, which stands between labels in "
                f"CSV, got {wrong!r}; write .jsonl or .parquet"
            )
        self.header = (",".join(_quoted(inert(name)) for name in self._names) + "\n").encode()

    def write(self, file: BinaryIO, scored: Sequence[Scored]) -> None:
        """Write rows to a new part, or after others to a table."""
        for each in scored:
            text = io.StringIO(newline="")
            csv_writer(text).writerows(
                _text_rows(self._layout, _inert_rows(each), bytes.decode, _joined)
            )
            file.write(text.getvalue().encode())


class ParquetSink:
    """Typed columns, compressed; needs pyarrow.

    Args:
        layout: The columns.
    """

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        lists = {
            "list": pyarrow.list_(pyarrow.float32()),
            "names": pyarrow.list_(pyarrow.string()),
        }
        self._schema = pyarrow.schema(
            [
                (name, lists[kind] if kind in lists else pyarrow.type_for_alias(kind))
                for name, kind in layout.types.items()
            ]
        )

    def write(self, file: BinaryIO, scored: Sequence[Scored]) -> None:
        """Write rows to a new part."""
        columns = list(_arrays(self._layout, scored))
        table = pyarrow.Table.from_arrays(columns, schema=self._schema)
        pyarrow.parquet.write_table(
            table, file, compression="lz4", use_dictionary=_repeating(self._layout)
        )

    def join(self, parts: Sequence[Path], file: BinaryIO) -> None:
        """Write the rows of all parts, in row groups of one size whatever the parts' sizes."""
        rows = self._layout.group_rows
        waiting = self._schema.empty_table()
        with pyarrow.parquet.ParquetWriter(
            file, self._schema, compression="zstd", use_dictionary=_repeating(self._layout)
        ) as writer:
            for part in parts:
                with part.open("rb") as done:
                    table = pyarrow.parquet.ParquetFile(done).read().cast(self._schema)
                waiting = pyarrow.concat_tables([waiting, table])
                while waiting.num_rows >= rows:
                    _write_group(writer, waiting.slice(0, rows))
                    waiting = waiting.slice(rows)
            if waiting.num_rows:
                _write_group(writer, waiting)


Sink = JsonlSink | CsvSink | ParquetSink
SINKS: dict[str, type[Sink]] = {
    ".parquet": ParquetSink,
    ".csv": CsvSink,
    ".jsonl": JsonlSink,
}


def check_format(name: str, ending: str) -> None:
    """Check that a format can be written.

    Args:
        name: Of the output, for the message.
        ending: Of its name.

    Raises:
        FormatError: The ending is unknown.
        ScoreError: pyarrow is missing.
    """
    if ending not in SINKS:
        raise FormatError(
            f"{name}: expected a name that ends in {', '.join(SINKS)}, got {ending!r}; "
            "rename it or add --format"
        )
    if ending == ".parquet" and pyarrow is None:
        raise ScoreError(
            f"{name}: expected pyarrow for Parquet, got none; write .csv or .jsonl, or add it: "
            f"{how_to_add('score')}"
        )


def is_result(path: Path, ending: str, is_gzip: bool) -> bool:
    """Whether a file begins as the tables that are written here."""
    first = COLUMNS[:4]
    try:
        with gzip.open(path) if is_gzip else path.open("rb") as opened:
            file = cast(BinaryIO, opened)
            if ending == ".parquet":
                return tuple(pyarrow.parquet.read_schema(file).names[:4]) == first
            line = file.readline(_LINE_BYTES)
            if ending == ".csv":
                return line.startswith(",".join(first).encode() + b",")
            return tuple(orjson.loads(line))[:4] == first
    except (
        OSError,
        EOFError,
        ValueError,
        TypeError,
    ):  # pyarrow's errors are ValueErrors or OSErrors
        return False


def _joined(labels: list[str]) -> str:
    return inert(SEPARATOR.join(labels))


def _inert_rows(scored: Scored) -> Scored:
    """Return a chunk whose texts no spreadsheet runs; see the layout for labels and the model."""
    return dataclasses.replace(
        scored,
        ids=[inert(id_) if id_[:1] in BEGINS else id_ for id_ in scored.ids],
        errors={row: inert(error) for row, error in scored.errors.items()},
        kept=[tuple(inert(v) if isinstance(v, str) else v for v in row) for row in scored.kept],
    )


def _text_rows(
    layout: Layout, scored: Scored, digits: Any, join: Callable[[list[str]], Any]
) -> Iterator[tuple[Any, ...]]:
    """Yield the rows of a chunk.

    Args:
        layout: The columns.
        scored: The chunk.
        digits: Turns the text of a probability, or of a list of them, into a cell that is written
            as it is.
        join: Turns the names of the labels that a row gets into a cell.
    """
    rows, errors = len(scored), scored.errors
    labels = layout.labels
    columns: list[Iterable[Any]] = [scored.ids]
    for place in range(layout.top):
        index = scored.index_NT[:, place].tolist()
        written = shortest_decimals(scored.probability_NT[:, place])
        unsure_N = _unsure(layout, scored.probability_NT, place).tolist()
        columns += [
            _without(
                errors,
                [None if unsure else labels[i] for i, unsure in zip(index, unsure_N, strict=True)],
            ),
            _without(errors, index),
            _without(errors, [digits(text) for text in written]),
        ]
    if layout.names:
        names = [[layout.names[i] for i in given] for given in scored.given]
        columns.append(_without(errors, [join(each) for each in names]))
    if scored.probabilities_NK is not None:
        lists = [b"[%s]" % b",".join(shortest_decimals(row)) for row in scored.probabilities_NK]
        columns.append(_without(errors, [digits(text) for text in lists]))
    columns += [_errors(scored), [layout.model] * rows, [layout.version] * rows]
    columns += _kept(layout, scored)
    return zip(*columns, strict=True)


def _arrays(layout: Layout, scored: Sequence[Scored]) -> Iterator[Any]:
    """Yield pyarrow's array of each column."""
    ids = [id_ for each in scored for id_ in each.ids]
    errors = [error for each in scored for error in _errors(each)]
    bad_N = np.zeros(len(ids), bool)
    bad_N[[row for row, error in enumerate(errors) if error is not None]] = True
    labels = pyarrow.array(layout.labels, "string")
    yield pyarrow.array(ids, "string")
    index_NT = np.concatenate([each.index_NT for each in scored])
    probability_NT = np.concatenate([each.probability_NT for each in scored])
    for place in range(layout.top):
        index = pyarrow.array(np.ascontiguousarray(index_NT[:, place]), mask=bad_N)
        unsure_N = _unsure(layout, probability_NT, place)
        yield labels.take(pyarrow.array(index_NT[:, place], mask=bad_N | unsure_N))
        yield index
        yield pyarrow.array(np.ascontiguousarray(probability_NT[:, place]), mask=bad_N)
    if layout.names:
        given = [
            None if is_bad else [layout.names[i] for i in row]
            for is_bad, row in zip(
                bad_N, (row for each in scored for row in each.given), strict=True
            )
        ]
        yield pyarrow.array(given, pyarrow.list_(pyarrow.string()))
    if layout.output.probabilities:
        good = [each.probabilities_NK for each in scored if each.probabilities_NK is not None]
        values_NK = np.concatenate(good)[~bad_N]
        lengths = np.where(bad_N, 0, values_NK.shape[1])
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
        yield pyarrow.ListArray.from_arrays(
            pyarrow.array(offsets), pyarrow.array(values_NK.ravel()), mask=pyarrow.array(bad_N)
        )
    yield pyarrow.array(errors, "string")
    yield pyarrow.repeat(pyarrow.scalar(layout.model, pyarrow.string()), len(ids))
    yield pyarrow.repeat(pyarrow.scalar(layout.version, pyarrow.int32()), len(ids))
    columns = zip(*(_kept(layout, each) for each in scored), strict=True)
    for kind, column in zip(layout.kept.values(), columns, strict=True):
        yield pyarrow.array([value for part in column for value in part], kind)


def _unsure(layout: Layout, probability_NT: NDArray[np.float32], place: int) -> NDArray[np.bool_]:
    """Return the rows on which the model abstains; labels after the first are always written."""
    if place:
        return np.zeros(len(probability_NT), bool)
    return ~is_answered(probability_NT[:, 0], layout.threshold)


def _write_group(writer: Any, table: Any) -> None:
    # As one piece: pyarrow's page boundaries depend on where the pieces of a column end.
    writer.write_table(table.combine_chunks(), row_group_size=table.num_rows)


def _kept(layout: Layout, scored: Scored) -> list[list[Any]]:
    """Return the kept columns, each value as the type of its column."""
    if not scored.kept:
        return [[None] * len(scored) for _ in layout.kept]
    columns = zip(*scored.kept, strict=True)
    return [
        [_text(value) for value in column] if kind == "string" else list(column)
        for kind, column in zip(layout.kept.values(), columns, strict=True)
    ]


def _text(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    return (
        orjson.dumps(value, default=str).decode() if isinstance(value, dict | list) else str(value)
    )


def _errors(scored: Scored) -> list[str | None]:
    """Return the error of each row, None for good ones."""
    errors: list[str | None] = [None] * len(scored)
    for row, error in scored.errors.items():
        errors[row] = error
    return errors


def _repeating(layout: Layout) -> list[str]:
    """Return the columns that a dictionary shrinks; to try it on the others costs time."""
    return [name for name, kind in layout.types.items() if name != "id" and kind in _REPEATING]


def _without(errors: dict[int, str], values: list[Any]) -> list[Any]:
    """Replace the values of bad rows by None."""
    for row in errors:
        values[row] = None
    return values


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"' if set(name) & set(',"\n\r') else name
