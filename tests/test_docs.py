"""README.md against the code: its settings table, its tree, its routes."""

import re
from pathlib import Path

import pytest

from service.settings import Settings

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()
ROWS = {
    cells[0].strip("`"): cells
    for line in README.splitlines()
    if line.startswith("| `FOVEAL_")
    for cells in [[cell.strip() for cell in line.strip("|").split("|")]]
}


def written(field: str) -> str:
    """How the table writes a field's default."""
    default = Settings.model_fields[field].default
    if field == "models":
        assert default == ROOT / "models"
        return "the checkout's `models`"
    return "empty" if default == "" else f"`{default}`"


@pytest.mark.parametrize("field", sorted(Settings.model_fields))
def test_every_setting_is_in_the_table_with_its_default(field: str) -> None:
    name = f"FOVEAL_{field.upper()}"
    assert name in ROWS, f"README.md: expected a row for {name}"
    assert ROWS[name][1] == written(field), name


def test_table_names_no_setting_that_is_gone() -> None:
    known = {f"FOVEAL_{field.upper()}" for field in Settings.model_fields}
    assert set(ROWS) <= known
    assert set(re.findall(r"FOVEAL_[A-Z0-9_]+[A-Z0-9]", README)) <= known


def test_paths_of_the_tree_exist() -> None:
    """Links and back-quoted paths with a slash name something that is there."""
    for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", README):
        assert (ROOT / target).exists(), f"README.md links to {target}"
