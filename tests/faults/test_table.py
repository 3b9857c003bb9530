"""The table in README.md names every test of this folder, and no other."""

import ast
import re
from pathlib import Path

HERE = Path(__file__).parent
# They check the tests themselves.
OF_TESTS = {"test_clock.py::test_a_reading_is_seen"}


def test_table_is_complete() -> None:
    named = set(re.findall(r"`(test_\w+\.py::test_\w+)`", (HERE / "README.md").read_text()))
    there = {
        f"{path.name}::{node.name}"
        for path in HERE.glob("test_*.py")
        if path != Path(__file__)
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    }
    assert named == there - OF_TESTS
