"""Read the labels of a model: the files in which people keep them, and a graph's own metadata.

Two labels may be equal; the position is the index.
"""

import ast
import codecs
import csv
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx

from export.errors import AdoptError

_INDEX_COLUMNS = ("index", "idx", "id", "class_id", "class_idx", "class_index", "label_id", "")
_LABEL_COLUMNS = ("label", "name", "class", "class_name", "label_name", "labels", "names")
# Keys of configs under which labels stand: Hugging Face's, torchvision's, timm's, ultralytics' and
# those of datasets.
_CONFIG_KEYS = (
    *("id2label", "label2id", "class_to_idx", "label_names", "names", "classes", "labels"),
    *("categories", "class_names"),
)
_FORMS = (
    "one label a line, a JSON list, an index by name or name by index, or a table with a header"
)
# Far above any: a million labels of 60 letters are less.
_MOST_BYTES = 64 << 20


def read_labels(path: Path) -> tuple[str, ...]:
    """Read class labels from a file.

    Text with a label a line; a JSON list; an object of index to label (Hugging Face's ``id2label``,
    alone or anywhere in a config; ``imagenet_class_index``) or label to index (torchvision's
    ``class_to_idx``); the same as a Python dict; a list of objects; CSV or TSV with a header.

    Raises:
        AdoptError: Another content, fewer than two labels, an empty one, or a missing index.
    """
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise AdoptError(f"{path}: expected labels, got more than {_MOST_BYTES >> 20} MiB")
        labels = _parse(_decode(path.read_bytes()), path.suffix.lower())
    except (ValueError, SyntaxError, RecursionError, MemoryError, csv.Error) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise AdoptError(f"{path}: expected {_FORMS}, got {reason}") from None
    except OSError as error:
        raise AdoptError(f"{path}: expected a file of labels, got {error.strerror}") from None
    cleaned = tuple(label.strip() for label in labels)
    for number, label in enumerate(cleaned):
        if not label:
            raise AdoptError(f"{path}: label {number + 1}: expected a label, got an empty one")
    if len(cleaned) < 2:
        raise AdoptError(f"{path}: expected 2 or more labels, got {len(cleaned)}")
    return cleaned


def own_labels(model: onnx.ModelProto) -> tuple[str, ...]:
    """Return the labels in a graph's metadata: ours, or ultralytics' ``names``.

    Raises:
        AdoptError: There are none.
    """
    properties = {pair.key: pair.value for pair in model.metadata_props}
    for key in ("foveal.labels", "names"):
        try:
            labels = _order(_literal(properties[key]))
        except (KeyError, ValueError, SyntaxError, RecursionError, MemoryError):
            continue
        if len(labels) > 1 and all(label.strip() for label in labels):
            return tuple(labels)
    raise AdoptError("expected --labels, as the file does not name its classes")


def own_size(model: onnx.ModelProto) -> tuple[int, int] | None:
    """Return (height, width) of ultralytics' ``imgsz`` in a graph's metadata, if it is there."""
    properties = {pair.key: pair.value for pair in model.metadata_props}
    try:
        sides = json.loads(properties.get("imgsz", "null"))
    except (ValueError, RecursionError):
        return None
    sides = [sides, sides] if isinstance(sides, int) else sides
    if isinstance(sides, list) and len(sides) == 2:
        height, width = sides
        if isinstance(height, int) and isinstance(width, int) and min(height, width) > 0:
            return height, width
    return None


def _decode(content: bytes) -> str:
    """Return the text of a file: UTF-8, or UTF-16 with the mark that Windows' programs write."""
    is_wide = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    return content.decode("utf-16" if is_wide else "utf-8-sig")


def _parse(text: str, suffix: str) -> list[str]:
    start = text.lstrip()[:1]
    if suffix == ".json" or start == "{" or (start == "[" and text.rstrip().endswith("]")):
        return _order(_literal(text))
    lines = text.rstrip().splitlines()
    if suffix in (".csv", ".tsv") and lines:
        # The one that the header has most of: a label may hold a comma.
        delimiter = max(("\t", ";", ","), key=lines[0].count)
        return _table(list(csv.reader(lines, delimiter=delimiter, strict=True)))
    return lines


def _literal(text: str) -> Any:
    """Return the value of JSON text, or of a Python literal."""
    try:
        return json.loads(text)
    except ValueError as error:
        try:
            return ast.literal_eval(text.strip())
        except (ValueError, SyntaxError):
            raise ValueError(f"text that is neither JSON nor a Python dict: {error}") from None


def _order(value: Any) -> list[str]:
    """Return the labels of a parsed value, by index."""
    if isinstance(value, Mapping):
        held = _in_config(value)
        return _by_index(value) if held is None else _order(held)
    if isinstance(value, list | tuple) and all(isinstance(label, str) for label in value):
        return list(value)
    if isinstance(value, list) and value and all(isinstance(each, Mapping) for each in value):
        header = [str(name) for name in value[0]]
        return _table([header, *([str(each.get(name, "")) for name in header] for each in value)])
    raise ValueError(f"a {type(value).__name__} of other values")


def _in_config(value: Mapping[Any, Any]) -> Any:
    """Return the labels that stand in a config under a known key, the outermost; None: none."""
    level = [value]
    while level:
        for part in level:
            for key in _CONFIG_KEYS:
                if isinstance(part.get(key), Mapping | list) and part[key]:
                    return part[key]
        level = [each for part in level for each in part.values() if isinstance(each, Mapping)]
    return None


def _by_index(value: Mapping[Any, Any]) -> list[str]:
    pairs: dict[int, str] = {}
    for key, held in value.items():
        if isinstance(held, int) and not isinstance(held, bool):  # label to index
            index, label = held, str(key)
        else:
            # imagenet_class_index: [WordNet's number, label]
            label = held[1] if isinstance(held, list) and len(held) == 2 else held
            index = _number(key)
        if not isinstance(label, str):
            raise ValueError(f"{label!r} where a label should be")
        if index in pairs:
            raise ValueError(f"index {index} twice")
        pairs[index] = label
    return _fill(pairs)


def _table(cells: list[list[str]]) -> list[str]:
    header, *rows = cells
    names = [name.strip().lower() for name in header]
    column = next((names.index(name) for name in _LABEL_COLUMNS if name in names), None)
    if any(row and len(row) != len(header) for row in rows):
        raise ValueError("a row with another number of cells than the header")
    if column is None:
        if len(header) == 1:  # a list that is called a table
            return [row[0] if row else "" for row in cells]
        raise ValueError(
            f"the columns {', '.join(names)}, none of them called label: add "
            "a header, as index,label"
        )
    number = next(
        (names.index(n) for n in _INDEX_COLUMNS if n in names and names.index(n) != column), None
    )
    rows = [row for row in rows if row]
    if number is None:
        return [row[column] for row in rows]
    pairs: dict[int, str] = {}
    for row in rows:
        if (index := _number(row[number])) in pairs:
            raise ValueError(f"index {index} twice")
        pairs[index] = row[column]
    return _fill(pairs)


def _number(text: object) -> int:
    try:
        return int(str(text).strip())
    except ValueError:
        raise ValueError(f"{text!r} where an index should be") from None


def _fill(pairs: dict[int, str]) -> list[str]:
    missing = next((index for index in range(len(pairs)) if index not in pairs), None)
    if missing is not None:
        raise ValueError(f"no label of index {missing}, the indices start at 0 without a gap")
    return [pairs[index] for index in range(len(pairs))]
