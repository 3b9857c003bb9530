"""A clock that is set forward or back changes nothing: deadlines and batches do not read it."""

import ast
from pathlib import Path

import pytest

from tests.server import ROOT

# What may ask for the time of day, and why.
MAY = {
    "service/lane/observers.py": "an access log's moment, and the start of a trace",
    "service/workers/forked.py": "circus tells a process's age by it",
    "service/protocols/v2/statistics.py": "V2's statistics tell when a model last answered",
    "service/record/late.py": "truths go by their age in days",
    "service/record/recorder.py": "a recorded request has its moment",
    "service/record/shards.py": "a shard is named by its moment, and goes by its age in days",
    "service/record/truths.py": "a truth has its moment",
    "service/record/writer.py": "shards go by their age in days",
    "service/rollout/promoter.py": "a promotion goes on after restarts, and in other replicas",
}
WALL = {"time", "time_ns", "now", "utcnow", "today", "gmtime", "localtime"}
SOURCES = sorted((ROOT / "service").rglob("*.py"))


def readings(tree: ast.AST) -> list[int]:
    """Return the lines that ask for the time of day."""
    return [
        node.lineno
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and node.attr in WALL
        and isinstance(node.value, ast.Name)
        and node.value.id in ("time", "datetime", "date")
    ] + [
        node.lineno
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
        and node.module == "time"
        and WALL & {alias.name for alias in node.names}
    ]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_time_of_day(path: Path) -> None:
    name = str(path.relative_to(ROOT))
    lines = readings(ast.parse(path.read_text()))
    assert not lines or name in MAY, f"{name}:{lines[0]}: expected time.monotonic"


def test_a_reading_is_seen() -> None:
    assert readings(ast.parse("import time\nx = time.time()")) == [2]
    assert readings(ast.parse("from time import time\nx = time()")) == [1]
    assert not readings(ast.parse("import time\nx = time.monotonic()"))
