"""Describe a user's transform and labels as plain values, in the user's environment.

A part of ``torch_child``, which loads it by its path; it imports nothing of this project. Runs on
Python 3.9.
"""

from __future__ import annotations

import enum
import types
from typing import Any

import numpy as np
import torch

# A transform's description: items of a list, and levels of parts in parts.
_MOST_ITEMS = 64
_DEEPEST = 6
_PLAIN = (bool, int, float, str, type(None))


def describe(value: Any, depth: int = 0) -> Any:
    """Describe a transform as plain values: its class, its attributes, its parts.

    Args:
        value: The transform, or an attribute of one.
        depth: How deep it lies in the transform.

    Returns:
        What JSON can hold. An object is ``{"class", "attributes", "parts"}``; a function of the
        user's has the transforms that it names as parts.
    """
    if isinstance(value, enum.Enum):
        value = value.value
    if isinstance(value, (torch.Tensor, np.ndarray)):
        value = value.tolist() if int(np.prod(value.shape)) <= _MOST_ITEMS else str(value.shape)
    if isinstance(value, _PLAIN):
        return value
    if isinstance(value, (list, tuple)):
        return [describe(item, depth + 1) for item in value[:_MOST_ITEMS]]
    if isinstance(value, dict):
        items = list(value.items())[:_MOST_ITEMS]
        return {str(key): describe(item, depth + 1) for key, item in items}
    if isinstance(value, (types.FunctionType, types.MethodType, types.BuiltinFunctionType)):
        return _describe_function(value, depth)
    if depth > _DEEPEST or isinstance(value, (type, torch.dtype)):
        return str(value)
    return _describe_object(value, depth)


def _describe_object(value: Any, depth: int) -> dict[str, Any]:
    if hasattr(value, "to_dict") and hasattr(value, "preprocess"):
        attributes = value.to_dict()
    else:
        attributes = {k: v for k, v in vars(value).items() if not k.startswith("_")}
    parts = list(value.children()) if isinstance(value, torch.nn.Module) else []
    return {
        "class": type(value).__module__ + "." + type(value).__qualname__,
        "attributes": {name: describe(item, depth + 1) for name, item in attributes.items()},
        "parts": [describe(part, depth + 1) for part in parts],
    }


def _describe_function(function: Any, depth: int) -> dict[str, Any]:
    """Describe a function of the user's, with the transforms that it names."""
    code = getattr(function, "__code__", None)
    found = [cell.cell_contents for cell in getattr(function, "__closure__", None) or ()]
    if code is not None:
        known = getattr(function, "__globals__", {})
        found += [known[name] for name in code.co_names if name in known]
    parts = [
        part
        for part in found
        if callable(part)
        and not isinstance(part, (type, types.FunctionType, types.BuiltinFunctionType))
        and (hasattr(part, "transforms") or hasattr(part, "preprocess"))
    ]
    return {
        "class": "function",
        "attributes": {
            "name": getattr(function, "__qualname__", str(function)),
            "file": getattr(code, "co_filename", ""),
            "line": getattr(code, "co_firstlineno", 0),
        },
        "parts": [describe(part, depth + 1) for part in parts],
    }


def read_labels(labels: Any) -> list[str] | None:
    """Return the labels by index, of a list, ``id2label`` or ``class_to_idx``; None if unknown."""
    if labels is None:
        return None
    if isinstance(labels, dict):
        if all(isinstance(value, int) for value in labels.values()):  # class_to_idx
            labels = {index: name for name, index in labels.items()}
        labels = [labels[index] for index in sorted(labels, key=int)]
    return [str(label) for label in labels]
