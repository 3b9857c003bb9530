import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.server import ROOT, RunningServer
from tests.tiny import publish_tiny

pytestmark = pytest.mark.e2e


def loadtest(*words: object, code: int) -> Any:
    # In a process of its own: with locust come patches of the standard library.
    ended = subprocess.run(
        [sys.executable, ROOT / "foveal.py", "loadtest", *map(str, words), "--json"],
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert ended.returncode == code, ended
    return json.loads(ended.stdout)


def test_starts_a_service_loads_it_and_stops_it(tiny_repository: Path, tmp_path: Path) -> None:
    figures = loadtest(
        "--start", "--models", tiny_repository, "--users", 4, "--duration-s", 2,
        "--out", tmp_path / "out", code=0,
    )  # fmt: skip
    assert figures["model"] == "tiny:1"
    assert (figures["failures"], figures["causes"]) == (0, {})
    assert figures["requests"] > 20
    assert 0 < figures["p50_ms"] <= figures["p95_ms"] <= figures["p99_ms"]
    made = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"report.html", "stats_stats.csv", "stats_failures.csv", "locust.log"} <= made
    log = (tmp_path / "out" / "serve.log").read_text()
    assert "Traceback" not in log and "cleanup" in log, log


def test_another_label_than_the_recorded_one_is_a_failure(
    server: RunningServer, tmp_path: Path
) -> None:
    # The same name and version as the one that is served, but its answers are turned round.
    publish_tiny(tmp_path / "models", gain=-1.0)
    figures = loadtest(
        server.url, "--models", tmp_path / "models", "--users", 1, "--duration-s", 1,
        "--out", tmp_path / "out", code=1,
    )  # fmt: skip
    assert figures["failures"] == figures["requests"] > 0
    assert all("expected the label of index" in cause for cause in figures["causes"])
