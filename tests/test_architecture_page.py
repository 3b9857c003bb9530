"""ARCHITECTURE.md and the tree of files: its example rooms exist, and the tree is the code's."""

import re
import tomllib
from fnmatch import fnmatch
from pathlib import Path

import pytest

from docs.generate import BEGIN, END, ROOMS, ROOT, TREE_PAGE, generated, tree, write

PAGE = (ROOT / "ARCHITECTURE.md").read_text()
TASKS = re.findall(r"^\| [^|]+ \| `([^`]+)` \|$", PAGE.partition("## Which room?")[2], re.MULTILINE)


def shipped() -> set[str]:
    """The packages that a wheel takes, of all in the checkout."""
    tools = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]
    where = tools["setuptools"]["packages"]["find"]
    assert not where["namespaces"]
    return {each for each in packages() if any(fnmatch(each, glob) for glob in where["include"])}


def packages() -> set[str]:
    inits = [init for room in ROOMS for init in (ROOT / room).rglob("__init__.py")]
    return {".".join(init.parent.relative_to(ROOT).parts) for init in inits}


def test_tree_is_the_one_of_the_files() -> None:
    assert generated(TREE_PAGE) == tree(), "run `make docs`"


def test_tree_has_every_room() -> None:
    """Every top-level package that is shipped, and the three folders that are not, are rooms."""
    rooms = {package.partition(".")[0] for package in shipped()}
    assert set(ROOMS) == rooms | {"deploy", "docs", "tests"}


def test_every_package_is_shipped() -> None:
    unshipped = {"deploy", "docs", "tests"}
    aside = {package for package in packages() if package.partition(".")[0] in unshipped}
    assert shipped() == packages() - aside


def test_tree_names_every_module_with_its_purpose() -> None:
    lines = tree().splitlines()
    assert any(re.match(r"  lane/ +\S", line) for line in lines)
    assert any(re.match(r"    batcher\.py +\S", line) for line in lines)
    assert not any(line.rstrip().endswith(".py") for line in lines), "a file without a docstring"


def test_there_are_ten_tasks() -> None:
    assert len(TASKS) >= 10


@pytest.mark.parametrize("room", TASKS)
def test_the_room_of_a_task_exists(room: str) -> None:
    assert (ROOT / room).exists()


def test_write_replaces_what_stands_between_the_comments(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"before\n{BEGIN}old\n{END}after\n")
    write(page, "new\n")
    assert generated(page) == "new\n"
    assert page.read_text() == f"before\n{BEGIN}new\n{END}after\n"
    page.write_text("no comments\n")
    with pytest.raises(ValueError, match="expected the lines"):
        write(page, "new\n")
