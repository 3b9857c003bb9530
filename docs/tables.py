"""The tables of docs/reference/ that come from the code: metrics, routes, errors, model.json.

``generate`` writes each between the two comments of its page.
"""

import dataclasses
import inspect
import re
import types
import typing
from collections.abc import Iterator
from typing import Any, Literal

from prometheus_client import Metric
from prometheus_client.metrics import MetricWrapperBase

from models.artifact import ModelArtifact, OpenCVResize
from service import errors
from service.metrics import families
from service.protocols.openapi import lane_paths
from service.rollout import shadow

_JSON = {str: "string", int: "integer", float: "number", bool: "true or false"}


def metrics_table() -> str:
    """Return a row for each metric of the service: name, type, labels, help."""
    lines = ["| metric | type | labels | what |", "|---|---|---|---|"]
    for value in [*vars(families).values(), *vars(shadow).values()]:
        if not isinstance(value, MetricWrapperBase):
            continue
        (family,) = value.describe()
        labels = ", ".join(f"`{label}`" for label in value._labelnames)
        what = family.documentation.rstrip(".")
        lines.append(f"| `{exposed(family)}` | {family.type} | {labels} | {_cell(what)} |")
    return "\n".join(dict.fromkeys(lines)) + "\n"


def exposed(family: Metric) -> str:
    """Return the name that a query takes: a counter's ends in ``_total``."""
    return f"{family.name}_total" if family.type == "counter" else family.name


def routes_table() -> str:
    """Return a row for each operation of the lane's OpenAPI document: method, path, what."""
    lines = ["| method | path | what | parameters |", "|---|---|---|---|"]
    for path, methods in lane_paths().items():
        for method, operation in methods.items():
            names = [each["name"] for each in operation["parameters"] if each["in"] != "path"]
            parameters = ", ".join(f"`{name}`" for name in names)
            lines.append(
                f"| `{method.upper()}` | `{path}` | {_cell(operation['summary'])} | {parameters} |"
            )
    return "\n".join(lines) + "\n"


def errors_table() -> str:
    """Return a row for each status of the service's errors: when, and the header that it has."""
    found: dict[int, list[str]] = {}
    headers: dict[int, str] = {}
    for kind in _below(errors.ServiceError):
        if "status" not in vars(kind) and kind in {errors.ClientError, errors.ServerError}:
            continue
        when = _summary(kind)
        found.setdefault(kind.status, []).append(when)
        owner = next(each for each in kind.__mro__ if "headers" in vars(each))
        named = re.search(r"``([\w-]+)``", inspect.getdoc(vars(owner)["headers"].fget) or "")
        if named:
            headers[kind.status] = named[1].title().replace("Www", "WWW")
    lines = ["| status | when | header |", "|---|---|---|"]
    for status in sorted(found):
        header = f"`{headers[status]}`" if status in headers else ""
        when = " ".join(dict.fromkeys(found[status]))
        lines.append(f"| {status} | {_cell(when)} | {header} |")
    return "\n".join(lines) + "\n"


def _below(kind: type[errors.ServiceError]) -> Iterator[type[errors.ServiceError]]:
    for each in kind.__subclasses__():
        if each.__module__ == errors.__name__:
            yield each
            yield from _below(each)


def _summary(kind: type) -> str:
    """Return the first sentences of a docstring: all before an empty line."""
    return " ".join((inspect.getdoc(kind) or "").partition("\n\n")[0].split())


def model_table() -> str:
    """Return a row for each field of ``model.json``: path, type, default, meaning."""
    lines = ["| field | type | default | meaning |", "|---|---|---|---|"]
    lines.extend(_rows(ModelArtifact, ""))
    return "\n".join(lines) + "\n"


def _rows(kind: Any, prefix: str) -> Iterator[str]:
    """Yield the rows of a dataclass, and below each field those of the dataclass that it holds."""
    hints, meanings = typing.get_type_hints(kind), attributes(kind)
    for field in dataclasses.fields(kind):
        hint, path = hints[field.name], prefix + field.name
        inner, lists = _dataclass_in(hint)
        what = meanings.get(field.name, "")
        # What Python calls None is null in JSON; format 1 is described below the table.
        what = what.replace(" `OpenCVResize` in format 1 only.", "").replace("None", "null")
        default = "required" if path == "format" else _default(field)
        yield f"| `{path}` | {_type(hint)} | {default} | {_cell(what)} |"
        if inner is not None:
            yield from _rows(inner, f"{path}{'[]' if lists else ''}.")


def attributes(kind: type) -> dict[str, str]:
    """Return what the section ``Attributes`` of a docstring says of each field."""
    section = (inspect.getdoc(kind) or "").partition("Attributes:\n")[2]
    found = re.findall(r"^    (\w+): (.*(?:\n {8}.*)*)", section, re.MULTILINE)
    return {name: " ".join(text.split()) for name, text in found}


def _arguments(hint: Any) -> list[Any]:
    """Return the kinds that a value may have, None and that of format 1 aside."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return [
            each for each in typing.get_args(hint) if each not in (types.NoneType, OpenCVResize)
        ]
    return [hint]


def _dataclass_in(hint: Any) -> tuple[type | None, bool]:
    """Return the dataclass of a field, if it holds one, and whether in a list."""
    (kind, *_) = _arguments(hint)
    lists = typing.get_origin(kind) is tuple
    kind = typing.get_args(kind)[0] if lists else kind
    return (kind, lists) if dataclasses.is_dataclass(kind) else (None, False)  # type: ignore[return-value]


def _type(hint: Any) -> str:
    """Return a type in words of JSON."""
    (kind, *_), null = _arguments(hint), types.NoneType in typing.get_args(hint)
    origin, within = typing.get_origin(kind), typing.get_args(kind)
    if origin is Literal:
        text = ", ".join(f"`{value}`" for value in _values(kind))
    elif origin is tuple:
        text = f"list of {_many(_type(within[0]))}"
    elif origin is dict:
        text = f"object of {_type(within[1])}"
    else:
        text = _JSON.get(kind, "object")
    return f"{text}, or null" if null else text


def _many(text: str) -> str:
    """Return the plural of a type."""
    if text.endswith(", or null"):
        return f"{_many(text.removesuffix(', or null'))} or nulls"
    first, blank, rest = text.partition(" ")
    return f"{first}s{blank}{rest}"


def _values(kind: Any) -> Iterator[Any]:
    for value in typing.get_args(kind):
        yield from _values(value) if typing.get_origin(value) is Literal else [value]


def _default(field: "dataclasses.Field[Any]") -> str:
    if field.default is dataclasses.MISSING:
        return "required"
    value = field.default
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if dataclasses.is_dataclass(value):
        return "those below"
    return "`[]`" if value == () else f"`{value}`"


def _cell(text: str) -> str:
    """Return a text as a cell of a table has it."""
    return text.replace("``", "`").replace("|", "\\|").replace("<", "&lt;")
