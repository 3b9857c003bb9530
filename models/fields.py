"""Read JSON values into frozen dataclasses; every type is checked, errors name the path.

Knows types, but not the meaning of the fields.
"""

import dataclasses
import math
import types
import typing
from typing import Any, Literal, TypeVar

T = TypeVar("T")


class FieldError(ValueError):
    """A value has the wrong type; the message names path, expected and got."""


def read_dataclass(kind: type[T], value: Any, path: str) -> T:
    """Turn a JSON object into a dataclass, recursively.

    Args:
        kind: A dataclass whose fields are str, int, float, Literal, tuple, dict, dataclass or None.
        value: Result of json.loads.
        path: Name of the value in errors.

    Raises:
        FieldError: A missing, unknown or mistyped field.
    """
    if isinstance(value, kind):  # read already, from an earlier format
        return value
    if not isinstance(value, dict):
        raise FieldError(f"{path}: expected an object, got {type(value).__name__}")
    hints = typing.get_type_hints(kind)
    fields = {f.name: f for f in dataclasses.fields(kind)}  # type: ignore[arg-type]
    unknown = sorted(set(value) - set(fields))
    if unknown:
        raise FieldError(f"{path}: expected no field {unknown[0]!r}, this format has none")
    required = [name for name, f in fields.items() if f.default is dataclasses.MISSING]
    missing = [name for name in required if name not in value]
    if missing:
        raise FieldError(f"{path}: expected a field {missing[0]!r}, got none")
    return kind(
        **{name: _read(hints[name], item, f"{path}.{name}") for name, item in value.items()}
    )


def _read(kind: Any, value: Any, path: str) -> Any:
    """Turn a JSON value into ``kind``; errors name path, expected and got."""
    if dataclasses.is_dataclass(kind):
        return read_dataclass(typing.cast(type, kind), value, path)
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        present = next(argument for argument in arguments if argument is not type(None))
        return None if value is None else _read(present, value, path)
    if origin is Literal:
        if value not in arguments:
            expected = " | ".join(map(str, arguments))
            raise FieldError(f"{path}: expected {expected}, got {value!r}")
        return value
    if origin is tuple:
        if not isinstance(value, list):
            raise FieldError(f"{path}: expected a list, got {type(value).__name__}")
        return tuple(_read(arguments[0], item, f"{path}[{i}]") for i, item in enumerate(value))
    if origin is dict:
        if not isinstance(value, dict):
            raise FieldError(f"{path}: expected an object, got {type(value).__name__}")
        return {key: _read(arguments[1], item, f"{path}.{key}") for key, item in value.items()}
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value) if abs(value) < 1 << 53 else math.inf
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise FieldError(f"{path}: expected {kind.__name__}, got {value!r:.60}")
    if kind is float and not math.isfinite(value):
        raise FieldError(f"{path}: expected a finite number, got {value}")
    if kind is str and not _is_unicode(value):
        raise FieldError(f"{path}: expected Unicode text, got {value!a:.60}")
    return value


def _is_unicode(text: str) -> bool:
    """Whether a string is free of lone surrogates, which JSON can spell and UTF-8 cannot."""
    return not any("\ud800" <= character <= "\udfff" for character in text)
