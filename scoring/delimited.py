"""CSV and its kin as sources: a column of paths; delimiter, encoding and header are found.

A row that breaks the rules of quotes is read alone, without them, so that it costs no other row.
What is guessed is said in ``notes``.
"""

import csv
import re
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any, Self

from models.image import ENDINGS
from scoring.files import FileSource, beside
from scoring.rows import Chunk, LostError, Row, ScoreError, chunked
from scoring.tables import Columns, file_of, image_column, is_file, resolve, usual_image
from scoring.text_files import DAMAGED, WINDOWS, LongLineError, encoding_of, kind_of, open_text
from scoring.urls import is_url

ENDINGS_OF_TABLES = (".csv", ".tsv", ".csv.gz", ".tsv.gz")
# Longest row of a table, and so its longest cell, in characters. The csv module's own limit of a
# cell is the process's and smaller.
_ROW_CHARACTERS = 8 << 20
csv.field_size_limit(_ROW_CHARACTERS)
_ENCODINGS = "UTF-8, UTF-16 or Windows-1252"
# The delimiter is found in so much of a table.
_SAMPLE_ROWS = 32
_SAMPLE_CHARACTERS = 1 << 16
_DELIMITERS = (",", ";", "\t")
# What Excel writes and reads as the first line.
_SEPARATOR = re.compile('"?sep=(.)"?')
# Never between columns, though a header may hold them.
_WITHIN_NAMES = frozenset("_-.\"'\r\n")


class CsvSource(FileSource):
    """The rows of one CSV or TSV: a column of paths, and perhaps labels.

    Args:
        path: A local path or a URL; packed if it ends in ``.gz``.
        columns: Columns to use; of a table without a header they are 1, 2 and so on.

    Raises:
        ScoreError: Not such a table, or a column is missing.
    """

    def __init__(self, path: str, columns: Columns) -> None:
        super().__init__(path)
        self._notes: list[str] = []
        usual = "\t" if kind_of(path) == ".tsv" else ","
        try:
            self._encoding = encoding_of(path)
            lines = _sample(path, self._encoding)
            said = _SEPARATOR.fullmatch(lines[0].strip()) if lines else None
            self._skipped_rows = 1 if said else 0
            self._delimiter = said[1] if said else _sniff(lines, usual, columns)
            first = next(islice(self._rows_of_cells(), self._skipped_rows, None), [])
        except LostError:
            raise
        except (*DAMAGED, LongLineError, csv.Error) as error:
            raise ScoreError(f"{path}: expected CSV in {_ENCODINGS}, got: {error}") from None
        if self._encoding == WINDOWS:
            self._notes.append(f"{self.name}: it is not UTF-8, and read as Windows-1252")
        if self._delimiter != usual:
            self._notes.append(f"{self.name}: columns are separated by {self._delimiter!r}")
        names = [name.strip() for name in first]
        pictured = [str(i) for i, cell in enumerate(first, 1) if self._is_image(cell)]
        is_named = resolve(columns.image, names) if columns.image else usual_image(names)
        if is_named or not pictured:
            self._skipped_rows += 1
            image = columns.image or image_column(path, names, names)
            found = Columns(image, columns.label, columns.id, columns.keep)
            self._columns = found.within(path, names, names)
        else:
            names = [str(i) for i in range(1, len(first) + 1)]
            try:
                self._columns = columns.within(path, names, pictured)
            except ScoreError as error:
                raise ScoreError(f"{error}; without a header, columns are numbered") from None
            self._notes.append(
                f"{self.name}: it has no header; images are in column {self._columns.image}"
            )
        self._asked = columns.keep
        self._places = {name: place for place, name in reversed(list(enumerate(names)))}

    def count(self) -> int | None:
        """Return None: only reading the whole table would count its rows."""
        return None

    def chunks(self, start: int = 0, stop: int | None = None) -> Iterator[Chunk]:
        """Stream rows ``start`` to ``stop``; damage becomes a last row with an error."""
        return chunked(self._rows(start, stop), is_declared=True)

    def kinds(self) -> dict[str, str]:
        """Return the kept columns that it has; all are text."""
        found = zip(self._asked, self._columns.keep, strict=True)
        return {name: "string" for name, actual in found if actual}

    def notes(self) -> list[str]:
        """Return what was guessed: the encoding, the delimiter, and that there is no header."""
        return self._notes

    def _rows(self, start: int, stop: int | None) -> Iterator[Row]:
        found = self._columns
        image, label, id_, *kept = (
            self._places.get(name, -1) for name in (found.image, found.label, found.id, *found.keep)
        )
        number = 0
        try:
            rows = islice(self._rows_of_cells(), self._skipped_rows, None)
            for cells in rows:
                if stop is not None and number >= stop:
                    return
                if number >= start:
                    path = _cell(cells, image) or ""
                    yield Row(
                        _cell(cells, id_) or path or f"{self.name}#{number}",
                        file_of(self._path, path),
                        _cell(cells, label),
                        tuple(_cell(cells, place) for place in kept),
                    )
                number += 1
        except LostError:
            raise
        except (*DAMAGED, LongLineError, csv.Error) as error:
            if number >= start:
                damage = ScoreError(
                    f"table: expected CSV in {_ENCODINGS}, got: {error}; later rows are lost"
                )
                yield Row(self.name, damage, None, (None,) * len(kept))

    def _rows_of_cells(self) -> Iterator[list[str]]:
        """Yield the rows that are not empty, the header among them."""
        with open_text(self._path, encoding=self._encoding) as text:
            lines = _Lines(text)
            reader = csv.reader(lines, delimiter=self._delimiter, strict=True)
            while True:
                lines.row.clear()
                lines.characters = 0
                try:
                    cells = next(reader, None)
                except csv.Error:
                    # A quote within quotes, or one that nothing closes, would take the rows after
                    # it: only its own line is read without the rules.
                    first, *others = lines.row
                    cells = next(csv.reader([first.rstrip("\r\n")], delimiter=self._delimiter))
                    lines.again += reversed(others)
                    reader = csv.reader(lines, delimiter=self._delimiter, strict=True)
                if cells is None:
                    return
                if cells:
                    yield cells

    def _is_image(self, cell: str) -> bool:
        """Whether a cell of the first row is no name of a column but an image."""
        cell = cell.strip()
        if cell.rpartition(".")[2].lower() in ENDINGS and "." in cell:
            return True
        if is_url(cell) or "/" in cell or "\\" in cell:
            return True
        # A name without an ending, if there is such a file.
        return not is_url(self._path) and "\0" not in cell and is_file(beside(self._path, cell))


class _Lines:
    """The lines of a table; those of one row are held, and may be read again.

    Args:
        text: An open text.

    Attributes:
        row: The lines since it was cleared.
        characters: How many they have, together.
        again: Lines to give out before others, the last one first.
    """

    def __init__(self, text: Any) -> None:
        self._readline = text.readline
        self.row: list[str] = []
        self.characters = 0
        self.again: list[str] = []

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> str:
        line: str = self.again.pop() if self.again else self._readline(_ROW_CHARACTERS + 1)
        self.characters += len(line)
        if self.characters > _ROW_CHARACTERS:
            raise LongLineError(f"a row of more than {_ROW_CHARACTERS} characters")
        if not line:
            raise StopIteration
        self.row.append(line)
        return line


def _sample(path: str, encoding: str) -> list[str]:
    """Return the first lines of a table, whole ones if there are several."""
    with open_text(path, encoding=encoding) as text:
        sample = text.read(_SAMPLE_CHARACTERS)
    lines = sample.splitlines(keepends=True)
    is_cut = len(sample) == _SAMPLE_CHARACTERS and len(lines) > 1
    return lines[:-1] if is_cut else lines


def _sniff(lines: Sequence[str], usual: str, columns: Columns) -> str:
    """Return the delimiter of a table: the usual one if it fits, else one that does.

    Args:
        lines: Its first lines.
        usual: What its name promises.
        columns: Names that the header must have.
    """
    asked = [name for name in (columns.image, columns.label, columns.id) if name]
    others = sorted({c for c in "".join(lines[:1]) if not c.isalnum()} - _WITHIN_NAMES)
    candidates = list(dict.fromkeys((usual, *_DELIMITERS, *others)))
    loose = ""
    for delimiter in candidates:
        read = csv.reader(lines, delimiter=delimiter)
        rows = [row for row in islice(read, _SAMPLE_ROWS) if row] or [[]]
        names = [name.strip() for name in rows[0]]
        is_named = all(name.strip() in names for name in asked)
        is_usual = bool(usual_image(names)) or (is_named and columns.image != "")
        if len(names) < 2 or not (is_usual or (delimiter in _DELIMITERS and is_named)):
            continue
        if all(len(row) == len(names) for row in rows):
            return delimiter
        loose = loose or (delimiter if is_usual else "")
    return loose or usual


def _cell(cells: Sequence[str], place: int) -> str | None:
    return cells[place] if 0 <= place < len(cells) else None
