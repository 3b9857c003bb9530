"""JSON as sources: JSONL with an object a line, lists of objects, and COCO's annotations.

An image is a path, a URL, base64, or an object that holds one of them: ``{"bytes": …}``,
``{"path": …}``, ``{"b64": …}``. Knows no model.
"""

import binascii
import json
import posixpath
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import PurePosixPath
from typing import Any

import orjson

from models.image import ENDINGS
from scoring.files import FileRow, FileSource, check_size
from scoring.rows import Chunk, Image, LostError, Row, ScoreError, Truth, chunked, label_of
from scoring.tables import Columns, file_of, is_file, nothing
from scoring.text_files import DAMAGED, LongLineError, open_text, read_lines
from scoring.urls import is_url

LINES = (".jsonl", ".ndjson", ".jsonl.gz", ".ndjson.gz")
DOCUMENTS = (".json",)

# Longest line, in characters: an image of 24 MB in base64.
_LINE_CHARACTERS = 32 << 20
# The names of the columns are those of so many rows: one may lack a label.
_SAMPLE_ROWS = 32
# How base64 of an image begins: JPEG, PNG, GIF, RIFF (WebP), TIFF, BMP. A path may do so, too, but
# is not as long.
_BASE64 = ("/9j/", "iVBORw0KGgo", "R0lGOD", "UklGR", "SUkq", "TU0A", "Qk")
_BASE64_CHARACTERS = 64
# Keys of an object that is an image, tried in this order.
_BYTES, _PATHS = ("bytes", "b64", "base64"), ("path", "file_name", "filename", "url", "uri")
# The column of COCO's categories.
_CATEGORY = "category"


@dataclass(frozen=True, slots=True)
class Base64Row:
    """An image as base64, perhaps with ``data:image/png;base64,`` before it."""

    text: str

    def read(self) -> bytes:
        """Decode it.

        Raises:
            ScoreError: It is no base64.
        """
        text = self.text.partition(",")[2] if self.text.startswith("data:") else self.text
        check_size(len(text) * 3 // 4)
        try:
            return binascii.a2b_base64("".join(text.split()), strict_mode=True)
        except ValueError as error:
            raise ScoreError(f"image: expected base64, got: {error}") from None

    def __len__(self) -> int:
        """Return how many characters it has."""
        return len(self.text)


class _JsonSource(FileSource):
    """Rows that are JSON objects.

    Args:
        path: A local path or a URL.
        columns: Columns to use.
    """

    _columns: Columns

    def __init__(self, path: str, columns: Columns) -> None:
        super().__init__(path)
        self._beside = path  # relative paths begin at its folder
        self._asked = columns.keep

    def chunks(self, start: int = 0, stop: int | None = None) -> Iterator[Chunk]:
        """Stream rows ``start`` to ``stop``; damage becomes a row with an error."""
        found = islice(self._objects(), stop)
        rows = (self._row(n, each) for n, each in enumerate(found) if n >= start)
        return chunked(rows, is_declared=True)

    def kinds(self) -> dict[str, str]:
        """Return the kept columns that it has; all are text."""
        found = zip(self._asked, self._columns.keep, strict=True)
        return {name: "string" for name, actual in found if actual}

    def _objects(self) -> Iterable[Any]:
        """Return the rows: objects, or ScoreErrors where there are none."""
        raise NotImplementedError

    def _choose(self, columns: Columns, sample: Iterable[Any]) -> Columns:
        rows = [row for row in sample if isinstance(row, dict)]
        names = list(dict.fromkeys(name for row in rows for name in row))
        nested = list(dict.fromkeys(name for row in rows for name in _names_within(row)))
        candidates = [name for name in names if any(_is_image(row.get(name)) for row in rows)]
        if not candidates:  # names of files without an ending
            candidates = [name for name in names if any(_is_text(row.get(name)) for row in rows)]
        return columns.within(self._path, names, candidates, nested)

    def _row(self, number: int, row: Any) -> Row:
        columns = self._columns
        own = f"{self.name}#{number}"
        if not isinstance(row, dict):
            error = row if isinstance(row, ScoreError) else _no_object(row)
            return Row(own, error, None, (None,) * len(columns.keep))
        cell = _at(row, columns.image)
        image = _image_of(cell, self._beside)
        id_ = _at(row, columns.id) if columns.id else None
        if id_ is None:
            id_ = cell if isinstance(image, FileRow) and isinstance(cell, str) else own
        kept = tuple(_at(row, name) if name else None for name in columns.keep)
        return Row(str(id_), image, _truth(_at(row, columns.label)), kept)


class JsonlSource(_JsonSource):
    """The rows of one JSONL: a JSON object a line; packed if its name ends in ``.gz``.

    Args:
        path: A local path or a URL.
        columns: Columns to use.

    Raises:
        ScoreError: Not such a file, or a column is missing.
    """

    def __init__(self, path: str, columns: Columns) -> None:
        super().__init__(path, columns)
        sample = list(islice(self._objects(), _SAMPLE_ROWS))
        if not any(isinstance(row, dict) for row in sample):
            got = next((str(row) for row in sample if isinstance(row, ScoreError)), "none")
            raise ScoreError(f"{path}: expected a JSON object on each line, got: {got}")
        self._columns = self._choose(columns, sample)

    def count(self) -> int | None:
        """Return None: only reading the whole file would count its rows."""
        return None

    def _objects(self) -> Iterator[Any]:
        try:
            with open_text(self._path) as text:
                for line in read_lines(text, _LINE_CHARACTERS):
                    if not line.isspace():
                        yield _parse(line)
        except LostError:
            raise
        except (*DAMAGED, LongLineError) as error:
            yield ScoreError(f"table: expected JSON lines in UTF-8, got: {error}")


class JsonSource(_JsonSource):
    """The rows of one JSON document: a list of objects, or COCO's images with their categories.

    Args:
        path: A local path or a URL.
        columns: Columns to use; COCO's label is the category of an image's annotations.

    Raises:
        ScoreError: Another document, or a column is missing.
    """

    def __init__(self, path: str, columns: Columns) -> None:
        super().__init__(path, columns)
        try:
            document = orjson.loads(FileRow(path).read().removeprefix(b"\xef\xbb\xbf"))
        except (ScoreError, ValueError) as error:
            raise ScoreError(f"{path}: expected a JSON document, got: {error}") from None
        rows = _coco_rows(document) if isinstance(document, dict) else document
        if not isinstance(rows, list) or not any(isinstance(row, dict) for row in rows):
            raise ScoreError(
                f"{path}: expected a list of objects, or COCO's images and annotations, got "
                "another document; an object a line is a .jsonl"
            )
        if isinstance(document, dict) and not columns.label:
            columns = Columns(columns.image, _CATEGORY, columns.id, columns.keep)
        self._rows: list[Any] = rows
        self._columns = self._choose(columns, rows)
        self._notes: list[str] = []
        if isinstance(document, dict):
            self._find_images()

    def notes(self) -> list[str]:
        """Return where COCO's images are, if not beside the annotations."""
        return self._notes

    def count(self) -> int | None:
        """Return the number of rows."""
        return len(self._rows)

    def _objects(self) -> Iterable[Any]:
        return self._rows

    def _find_images(self) -> None:
        """Find COCO's images: ``annotations/instances_val.json`` is beside ``val/``."""
        first = next((row for row in self._rows if isinstance(row, dict)), {})
        name = _at(first, self._columns.image)
        if is_url(self._path) or not isinstance(name, str) or is_url(name):
            return
        split = PurePosixPath(self._path).stem.rpartition("_")[2]
        for place in (".", "images", split, "..", f"../{split}", "../images", f"../images/{split}"):
            folder = posixpath.join(posixpath.dirname(self._path), place)
            image = file_of(f"{folder}/{split}", name)
            if isinstance(image, FileRow) and is_file(image.path):
                if place != ".":
                    self._beside = f"{folder}/{split}"
                    self._notes.append(f"{self.name}: images are in {place}")
                return


def _coco_rows(document: dict[str, Any]) -> list[Any] | None:
    """Return the images of COCO's annotations, each with the names of its categories."""
    images = document.get("images")
    if not isinstance(images, list):
        return None
    names = {each.get("id"): each.get("name") for each in _objects_of(document, "categories")}
    found: dict[Any, dict[Any, None]] = {}  # in order, each once
    for each in _objects_of(document, "annotations"):
        name = names.get(each.get("category_id"))
        if name is not None:
            found.setdefault(each.get("image_id"), {})[name] = None
    return [
        {**image, _CATEGORY: list(found.get(image.get("id"), ()))}
        if isinstance(image, dict)
        else image
        for image in images
    ]


def _objects_of(document: dict[str, Any], name: str) -> Iterator[dict[str, Any]]:
    """Yield the objects of a list whose ids can be keys."""
    each: Any
    for each in document.get(name) or ():
        if isinstance(each, dict) and not any(
            isinstance(each.get(key), list | dict) for key in ("id", "image_id", "category_id")
        ):
            yield each


def _image_of(cell: Any, table: str) -> Image:
    if cell is None:
        return nothing()
    if isinstance(cell, dict):
        for key in _BYTES:
            if isinstance(cell.get(key), str):
                return Base64Row(cell[key])
        cell = next((cell[key] for key in _PATHS if isinstance(cell.get(key), str)), None)
    if not isinstance(cell, str):
        return ScoreError("image: expected a path, a URL or base64, got another value")
    return Base64Row(cell) if _is_base64(cell) else file_of(table, cell)


def _is_base64(text: str) -> bool:
    if text.startswith("data:"):
        return True
    return text.startswith(_BASE64) and len(text) >= _BASE64_CHARACTERS and "." not in text


def _is_image(cell: Any) -> bool:
    """Whether a value is likely to be an image, to find their column."""
    if isinstance(cell, dict):
        return any(isinstance(cell.get(key), str) for key in (*_BYTES, *_PATHS))
    if not isinstance(cell, str):
        return False
    return _is_base64(cell) or is_url(cell) or cell.rpartition(".")[2].lower() in ENDINGS


def _is_text(cell: Any) -> bool:
    return isinstance(cell, str)


def _at(row: Any, name: str) -> Any:
    """Return a value of an object, or one within it by a name with dots; None if there is none."""
    if name in row:
        return row[name]
    for part in name.split("."):
        row = row.get(part) if isinstance(row, dict) else None
    return row


def _names_within(row: dict[str, Any], prefix: str = "", depth: int = 4) -> Iterator[str]:
    for name, value in row.items():
        if prefix:
            yield f"{prefix}{name}"
        if isinstance(value, dict) and depth:
            yield from _names_within(value, f"{prefix}{name}.", depth - 1)


def _truth(value: Any) -> Truth:
    if isinstance(value, list | tuple):
        return tuple(map(label_of, value))
    return label_of(value)


def _parse(line: str) -> Any:
    try:
        return orjson.loads(line)
    except ValueError:
        pass
    try:
        return json.loads(line.removeprefix("\ufeff"))  # Python writes NaN, which is no JSON
    except (ValueError, RecursionError) as error:
        return ScoreError(f"table: expected a JSON object, got: {error}")


def _no_object(row: Sequence[Any] | object) -> ScoreError:
    return ScoreError(f"table: expected a JSON object, got {type(row).__name__}")
