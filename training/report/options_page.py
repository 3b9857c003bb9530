"""The reference page of the options of ``foveal train``: ``docs/reference/training-options.md``.

``python -m training.report.options_page`` writes it from the declarations and the recipes.
"""

import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from training.config import OPTIONS
from training.options import OptionField
from training.recipes import FINE_TUNING, LINEAR_PROBE, NETWORK_RECIPES, RECIPES

PAGE = Path(__file__).parent.parent.parent / "docs" / "reference" / "training-options.md"

_INTRODUCTION = """# Options of `foveal train`

Written by `python -m training.report.options_page` from the declarations in
`training/config.py` and the recipes in `training/recipes.py`; do not edit.

A value comes from the command line, else from the recipe of the dataset and the network,
else from the recipe of the network, else from the default below. `run.json` and the command
in `model.json` hold the values that a run used.
"""


def options_page() -> str:
    """Return the page as Markdown: a table of options for each group, then the recipes."""
    groups: dict[str, list[OptionField]] = {}
    for field in OPTIONS.values():
        groups.setdefault(field.option.group, []).append(field)
    lines = [_INTRODUCTION]
    for group, fields in groups.items():
        lines += [f"## {group}", "", "| option | value | default | range |", "|---|---|---|---|"]
        lines += [_row(field) for field in fields]
        lines.append("")
    lines += ["## Recipes", "", "| dataset | network | options |", "|---|---|---|"]
    lines += [f"| {dataset} | {network} | `{words}` |" for dataset, network, words in _recipes()]
    return "\n".join(lines) + "\n"


def _row(field: OptionField) -> str:
    flag = f"`--{field.flag}`"
    if field.type is bool:
        flag += f", `--no-{field.flag}`"
    default = "required" if field.is_required else field.default
    limits = field.range.replace("<", "&lt;").replace(">", "&gt;")
    return f"| {flag} | {field.description} | {default} | {limits} |"


def _recipes() -> Iterator[tuple[str, str, str]]:
    yield "any", "pretrained", _words(FINE_TUNING)
    yield "any", "pretrained, `--freeze body`", _words(LINEAR_PROBE)
    for network, recipe in NETWORK_RECIPES.items():
        yield "any", network, _words(recipe)
    for (dataset, network), recipe in sorted(RECIPES.items()):
        yield dataset, network, _words(recipe)


def _words(recipe: dict[str, Any]) -> str:
    return shlex.join(
        word for name, value in recipe.items() for word in OPTIONS[name].arguments(value)
    )


if __name__ == "__main__":
    PAGE.parent.mkdir(parents=True, exist_ok=True)
    PAGE.write_text(options_page(), encoding="utf-8")
