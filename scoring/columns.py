"""Columns as Arrow holds them: images in all the forms that tables keep them in, and true labels.

An image is bytes (binary, or lists of numbers 0-255), a path, the struct {bytes, path} that Hugging
Face's datasets write, or pixels as nested lists. Needs pyarrow. Knows no file.

Layout legend: H height, W width, C channels (1 grey, 3 RGB).
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.image import MAX_PIXELS, encode_png
from scoring.files import check_size
from scoring.rows import Image, Label, ScoreError, Truth, label_of
from scoring.tables import nothing, usual_image

try:  # the `score` extra; only Parquet and Arrow need it
    import pyarrow  # not its `compute`, which takes long to import
except ImportError:
    pyarrow = None

# Levels of lists that are pixels: [H, W], [H, W, C].
_LEVELS = (2, 3)

# What Hugging Face's datasets call a column of images.
_IMAGE_FEATURES = ("Image", "Array2D", "Array3D")

# Makes a path of a cell an image.
FileOf = Callable[[str | None], Image]


@dataclass(frozen=True, slots=True)
class PixelRow:
    """An image as decoded pixels, uint8 [H, W, C]; encoded when it is read, without a loss."""

    pixels_HWC: NDArray[np.uint8]

    def read(self) -> bytes:
        """Return a PNG of the pixels."""
        return encode_png(self.pixels_HWC)

    def __len__(self) -> int:
        """Return how many bytes the pixels take."""
        return self.pixels_HWC.nbytes


def names_within(schema: Any) -> list[str]:
    """Return the fields of a table's structs, with dots: ``image.bytes``."""

    def below(kind: Any, prefix: str) -> Iterator[str]:
        if pyarrow.types.is_struct(kind):
            for field in kind:
                yield f"{prefix}.{field.name}"
                yield from below(field.type, f"{prefix}.{field.name}")

    return [name for field in schema for name in below(field.type, field.name)]


def image_columns(schema: Any) -> list[str]:
    """Return the columns that may hold images: those that Hugging Face's metadata says, if it does.

    A list of wide numbers is a box or an embedding, unless it has the name of an image.
    """
    found = {field.name: field.type for field in schema if holds_images(field.type)}
    features = _features(schema)
    said = [name for name in found if _kind_of(features.get(name)) in _IMAGE_FEATURES]
    usual = usual_image(list(found))
    return said or [name for name, kind in found.items() if name == usual or not _is_wide(kind)]


def column_of(batch: Any, name: str) -> Any:
    """Return a column of a batch by its name, or a field within it by a name with dots."""
    if name in batch.schema.names:
        return batch.column(name)
    top, *fields = name.split(".")
    column = batch.column(top)
    for field in fields:
        # flatten() also applies the struct's own nulls; field() would not.
        column = column.flatten()[column.type.get_field_index(field)]
    return column


def type_of(schema: Any, name: str) -> Any:
    """Return the type of a column, or of a field within it by a name with dots."""
    if name in schema.names:
        return schema.field(name).type
    top, *fields = name.split(".")
    kind = schema.field(top).type
    for field in fields:
        kind = kind.field(field).type
    return kind


def holds_images(kind: Any) -> bool:
    """Whether a column of this type may hold images or paths."""
    kind = _stored(kind)
    if pyarrow.types.is_struct(kind):
        return any(
            field.name in ("bytes", "path") and holds_images(field.type) for field in kind
        ) and not any(pyarrow.types.is_struct(field.type) for field in kind)
    if _is_tensor(kind) or _is_binary(kind) or _is_text(kind):
        return True
    levels, value = _levels(kind)
    return levels in (1, *_LEVELS) and bool(pyarrow.types.is_integer(value))


def may_share(kind: Any) -> bool:
    """Whether many values of a type may be the same memory: a dictionary, a view, a run."""
    types = pyarrow.types
    if types.is_dictionary(kind) or types.is_run_end_encoded(kind) or _is_view(kind):
        return True
    return types.is_struct(kind) and any(may_share(field.type) for field in kind)


def images_of(column: Any, file_of: FileOf) -> list[Image]:
    """Return the images of a column.

    Args:
        column: An array of a type that ``holds_images``.
        file_of: Makes a path an image.
    """
    column = _expanded(column)
    kind = column.type
    if pyarrow.types.is_struct(kind):
        return _of_structs(column, file_of)
    if _is_text(kind):
        return [file_of(path) for path in column.to_pylist()]
    if _is_binary(kind):
        return [nothing() if value is None else value for value in column.to_pylist()]
    read = partial(_tensor, kind=kind) if _is_tensor(kind) else _of_numbers
    return [read(column[row]) for row in range(len(column))]


def truths_of(column: Any, names: tuple[str, ...]) -> list[Truth]:
    """Return the true labels of a column.

    Args:
        column: An array of any type.
        names: What the whole numbers in it stand for; () if they are indexes of the model.
    """

    def label(value: Any) -> Label:
        read = label_of(value)
        if not names or not isinstance(read, int):
            return read
        if read == -1:  # how datasets write that there is no label
            return None
        return names[read] if 0 <= read < len(names) else f"{read}, not one of {len(names)} names"

    return [
        tuple(map(label, value)) if isinstance(value, list) else label(value)
        for value in column.to_pylist()
    ]


def class_names(schema: Any, name: str) -> tuple[str, ...]:
    """Return the names of a ClassLabel column of Hugging Face's datasets; () if it is none."""
    feature: Any = _features(schema)
    for part in name.split("."):
        feature = feature.get(part) if isinstance(feature, dict) else None
    while isinstance(feature, list | dict) and _kind_of(feature) != "ClassLabel":
        if isinstance(feature, list):  # a list of labels
            feature = feature[0] if feature else None
        else:
            feature = feature.get("feature")
    names = feature.get("names") if isinstance(feature, dict) else None
    return tuple(map(str, names)) if isinstance(names, list) else ()


def output_kind(kind: Any) -> str:
    """Return the type that a kept column has in the output."""
    types = pyarrow.types
    if types.is_boolean(kind):
        return "bool"
    if types.is_integer(kind) and kind != pyarrow.uint64():
        return "int64"
    return "double" if types.is_floating(kind) else "string"


def _expanded(column: Any) -> Any:
    """Return the values of a column: of a dictionary, of runs, of an extension."""
    while True:
        kind = column.type
        if pyarrow.types.is_dictionary(kind):
            column = column.dictionary_decode()
        elif pyarrow.types.is_run_end_encoded(kind):
            rows = np.arange(column.offset, column.offset + len(column))
            run_ends = column.run_ends.to_numpy()
            column = column.values.take(pyarrow.array(run_ends.searchsorted(rows, "right")))
        elif isinstance(kind, pyarrow.BaseExtensionType) and not _is_tensor(kind):
            column = column.storage
        else:
            return column


def _of_structs(column: Any, file_of: FileOf) -> list[Image]:
    fields = [field.name for field in column.type]
    parts = dict(zip(fields, column.flatten(), strict=True))
    paths = parts["path"].to_pylist() if "path" in parts else [None] * len(column)
    if "bytes" not in parts:
        return [file_of(path) for path in paths]
    is_there = parts["bytes"].is_valid().to_pylist()
    contents = images_of(parts["bytes"], file_of)
    return [
        content if here else file_of(path)
        for content, here, path in zip(contents, is_there, paths, strict=True)
    ]


def _of_numbers(row: Any) -> Image:
    """Return the image of one list of numbers: its bytes, or pixels if there are lists in it."""
    values = row.values
    if values is None:
        return nothing()
    shape = [len(values)]
    while _is_list(values.type):
        lengths = values.value_lengths().unique().to_pylist()
        if len(lengths) != 1 or not lengths[0]:
            return ScoreError("image: expected rows of one length, got others")
        values = values.flatten()
        shape.append(lengths[0])
    try:
        content = _bytes_of(values)
        return content.tobytes() if len(shape) == 1 else _pixels(content, shape)
    except ScoreError as error:
        return error


def _bytes_of(values: Any) -> NDArray[np.uint8]:
    """Return numbers 0-255 as uint8; raise ScoreError if they are others."""
    check_size(len(values))
    if pyarrow.types.is_int8(values.type):  # Java's bytes
        values = values.view(pyarrow.uint8())
    try:
        if values.null_count:
            raise ValueError("one is missing")
        content: NDArray[np.uint8] = values.cast(pyarrow.uint8()).to_numpy()
    except (ValueError, pyarrow.ArrowException) as error:
        reason = str(error).splitlines()[0]
        raise ScoreError(f"image: expected whole numbers from 0 to 255, got: {reason}") from None
    return content


def _tensor(row: Any, kind: Any) -> Image:
    if row.value is None:
        return nothing()
    try:
        return _pixels(_bytes_of(row.value.values), list(kind.shape))
    except ScoreError as error:
        return error


def _pixels(values: NDArray[np.uint8], shape: list[int]) -> PixelRow:
    height, width, channels = [*shape, 1][:3]
    if len(shape) not in _LEVELS or channels not in (1, 3) or height * width > MAX_PIXELS:
        hint = "; transpose it to [H, W, C]" if shape[0] in (1, 3) and len(shape) == 3 else ""
        raise ScoreError(
            f"image: expected pixels [H, W], [H, W, 1] or [H, W, 3], at most {MAX_PIXELS}, "
            f"got {shape}{hint}"
        )
    return PixelRow(values.reshape(height, width, channels))


def _features(schema: Any) -> dict[str, Any]:
    """Return what Hugging Face's datasets note about the columns; {} if it is another's table."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
    except (KeyError, ValueError, TypeError):
        return {}
    return features if isinstance(features, dict) else {}


def _kind_of(feature: Any) -> Any:
    return feature.get("_type") if isinstance(feature, dict) else None


def _stored(kind: Any) -> Any:
    """Return the type of the values: of a dictionary, of runs, of an extension."""
    while True:
        if pyarrow.types.is_dictionary(kind) or pyarrow.types.is_run_end_encoded(kind):
            kind = kind.value_type
        elif isinstance(kind, pyarrow.BaseExtensionType) and not _is_tensor(kind):
            kind = kind.storage_type
        else:
            return kind


def _is_wide(kind: Any) -> bool:
    levels, value = _levels(_stored(kind))
    return levels > 0 and value not in (pyarrow.uint8(), pyarrow.int8())


def _levels(kind: Any) -> tuple[int, Any]:
    """Return how many lists are within each other, and the type of the innermost values."""
    levels = 0
    while _is_list(kind):
        levels, kind = levels + 1, kind.value_type
    return levels, kind


def _is_tensor(kind: Any) -> bool:
    return isinstance(kind, pyarrow.FixedShapeTensorType)


def _is_any(kind: Any, *names: str) -> bool:
    return any(getattr(pyarrow.types, f"is_{name}")(kind) for name in names)


def _is_list(kind: Any) -> bool:
    return _is_any(kind, "list", "large_list", "fixed_size_list", "list_view", "large_list_view")


def _is_view(kind: Any) -> bool:
    return _is_any(kind, "binary_view", "string_view", "list_view", "large_list_view")


def _is_binary(kind: Any) -> bool:
    return _is_any(kind, "binary", "large_binary", "fixed_size_binary", "binary_view")


def _is_text(kind: Any) -> bool:
    return _is_any(kind, "string", "large_string", "string_view")
