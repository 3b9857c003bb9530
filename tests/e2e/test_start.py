"""What a start imports, and what runs after it: cheap to count, and the time follows from it."""

import re
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from loadtest.bench.start import measure

pytestmark = pytest.mark.e2e

# What an answer needs nothing of: other programs' clients, templates, archives, drawing, training.
NEVER = {
    "_bentoml_impl.client.http",
    "_bentoml_impl.client.proxy2",
    "aiohttp",
    "bentoml._internal.cloud.api_token",
    "bentoml._internal.cloud.schemas.schemasv2",
    "bentoml_cli.cli",
    "httpx._client",
    "httpx_ws",
    "jinja2.environment",
    "matplotlib",
    "onnx",
    "pandas",
    "pyarrow",
    "requests",
    "torch",
    "transformers",
}
# A worker has what its supervisor has imported; the rest belongs there, too. Now 71.
MOST_IN_A_WORKER = 100
# Now 1,290 with every extra of the service; 1,500 before parts of BentoML were left out.
MOST_IN_ALL = 1_400


class Start(NamedTuple):
    """What a start cost, and the modules that each process imported."""

    figures: dict[str, Any]
    supervisor: list[str]
    worker: list[str]


@pytest.fixture(scope="module")
def start(tiny_repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Start:
    log = tmp_path_factory.mktemp("start") / "serve.log"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPROFILEIMPORTTIME", "1")
        figures = measure(tiny_repository, log)
    lines = log.read_text(errors="replace").splitlines()
    names = [found[1] for line in lines if (found := re.match(r"import time:.*\| +(\S+)$", line))]
    # The supervisor says so as it starts the workers, which import nothing before that.
    before = sum(line.startswith("import time:") for line in lines[: _line_of(lines)]) - 1
    return Start(figures, names[:before], names[before:])


def _line_of(lines: list[str]) -> int:
    return next(i for i, line in enumerate(lines) if "Starting production" in line)


def test_an_answer_comes_without_what_it_does_not_need(start: Start) -> None:
    imported = {*start.supervisor, *start.worker}
    assert NEVER & imported == set()
    assert "service.lane.lane" in imported and "onnxruntime" in imported
    assert len(imported) <= MOST_IN_ALL


def test_a_worker_imports_little_of_its_own(start: Start) -> None:
    assert len(start.worker) <= MOST_IN_A_WORKER, start.worker


def test_a_supervisor_and_its_worker_are_all_that_runs(start: Start) -> None:
    assert start.figures["processes"] == 2
    for moment in ("ready", "asked"):
        for kind in ("supervisor", "worker"):
            memory = start.figures[moment][kind]
            assert memory["rss_mib"] >= memory["pss_mib"] >= memory["uss_mib"] > 0
