"""Write the parts of the documentation that come from the code: ``python -m docs.generate``.

The settings' table comes from the fields of ``service.settings``, the tree from the first line of
each file, the rest from ``docs.tables``. Each stands between two comments of its page, and tests
compare them.
"""

import ast
import typing
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from pydantic.fields import FieldInfo

from docs.tables import errors_table, metrics_table, model_table, routes_table
from service.settings import Settings

ROOT = Path(__file__).resolve().parent.parent
REFERENCE = ROOT / "docs" / "reference"
SETTINGS_PAGE = REFERENCE / "settings.md"
TREE_PAGE = REFERENCE / "tree.md"
BEGIN, END = "<!-- generated: make docs -->\n", "<!-- end of generated -->\n"

# Lines of the tree; an empty one is the first line of the file, or of the room's ``__init__.py``.
TOP_FILES = {
    "foveal.py": "",
    "Makefile": "One command per task; CI calls the same",
    "pyproject.toml": "The distribution `foveal`, its extras; settings of ruff, mypy, pytest",
    "constraints.txt": "Every version pinned; every install uses it",
    "bentofile.yaml": "What goes into the Bento",
}
ROOMS = {
    "models": "",
    "export": "",
    "training": "",
    "scoring": "",
    "service": "",
    "loadtest": "",
    "report": "",
    "commands": "",
    "deploy": "",
    "docs": "A guide for each task; `reference/` is generated from the code",
    "tests": "Mirrors the rooms; `e2e/` starts the real server, `golden/` holds known answers",
}
WIDTH = 28


def settings_table() -> str:
    """Return one row of Markdown for each setting: variable, default, allowed values, meaning."""
    lines = ["| variable | default | allowed | what |", "|---|---|---|---|"]
    for name, field in Settings.model_fields.items():
        what = (field.description or "").replace("|", "\\|").replace("<", "&lt;")
        lines.append(
            f"| `FOVEAL_{name.upper()}` | {_default(field)} | {_allowed(field)} | {what} |"
        )
    return "\n".join(lines) + "\n"


def _default(field: FieldInfo) -> str:
    default = field.default
    if field.default_factory is not None:
        return "by memory"
    if isinstance(default, Path):
        return f"the checkout's `{default.relative_to(ROOT)}`"
    return "empty" if default == "" else f"`{default}`"


def _allowed(field: FieldInfo) -> str:
    if typing.get_origin(field.annotation) is typing.Literal:
        return ", ".join(f"`{value}`" for value in typing.get_args(field.annotation))
    bounds: dict[str, Any] = {}
    for limit in field.metadata:
        bounds |= {key: getattr(limit, key) for key in ("gt", "ge", "le") if hasattr(limit, key)}
    words = {"gt": "above", "ge": "from", "le": "to"}
    return " ".join(f"{words[key]} {value:g}" for key, value in bounds.items())


def tree() -> str:
    """Return the rooms and their Python files, one line each, with the first line of each file."""
    lines = ["```"]
    for name, line in TOP_FILES.items():
        lines.append(_entry(name, line or _first_line(ROOT / name)))
    for room, line in ROOMS.items():
        lines.append(_entry(f"{room}/", line or _first_line(ROOT / room / "__init__.py")))
        if room != "tests":
            lines.extend(_below(ROOT / room, "  "))
    return "\n".join([*lines, "```"]) + "\n"


def _below(folder: Path, indent: str) -> Iterator[str]:
    paths = sorted(folder.iterdir(), key=lambda path: (path.is_dir(), path.name))
    for path in paths:
        if path.suffix == ".py" and path.name != "__init__.py":
            yield _entry(indent + path.name, _first_line(path))
        elif path.is_dir() and any(path.rglob("*.py")):
            init = path / "__init__.py"
            yield _entry(f"{indent}{path.name}/", _first_line(init) if init.exists() else "")
            yield from _below(path, indent + "  ")


def _entry(name: str, line: str) -> str:
    return f"{name:{WIDTH}} {line}".rstrip()


def _first_line(path: Path) -> str:
    """Return the first line of a module's docstring, without its period."""
    docstring = ast.get_docstring(ast.parse(path.read_text())) or ""
    return docstring.partition("\n")[0].rstrip(".").replace("``", "`")


def generated(page: Path) -> str:
    """Return what stands between the two comments of a page, empty without them."""
    return page.read_text().partition(BEGIN)[2].partition(END)[0]


def write(page: Path, text: str) -> None:
    """Put ``text`` between the two comments of a page.

    Raises:
        ValueError: The page lacks one of the comments.
    """
    before, begin, rest = page.read_text().partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"{page}: expected the lines {BEGIN!r} and {END!r}")
    page.write_text(before + begin + text + end + after)


GENERATED: dict[Path, Callable[[], str]] = {
    SETTINGS_PAGE: settings_table,
    TREE_PAGE: tree,
    REFERENCE / "metrics.md": metrics_table,
    REFERENCE / "routes.md": routes_table,
    REFERENCE / "errors.md": errors_table,
    REFERENCE / "model-json.md": model_table,
}

if __name__ == "__main__":
    for page, make in GENERATED.items():
        write(page, make())
