"""``foveal tune`` on a tiny model: real sessions, service and arrivals, small budgets."""

import itertools
import json
import os
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from loadtest.tune.cores import Cores, choose_cores
from loadtest.tune.errors import TuneError
from loadtest.tune.pipeline import Request, tune_model
from loadtest.tune.points import SessionPoint
from loadtest.tune.sweep import Sweep
from models.repository import ModelRepository
from models.tuned import read_tuning, write_tuning
from service.session.machine import this_machine
from tests.server import running_server
from tests.shell import Shell
from tests.tiny import LABELS, SIDE, publish_tiny, tiny_model
from tests.tuned import tuning_for


@pytest.fixture
def repository(tmp_path: Path) -> ModelRepository:
    return ModelRepository(tmp_path / "models")


def test_the_sweep_measures_every_point_with_the_sessions_that_the_service_would_open(
    repository: ModelRepository, tmp_path: Path
) -> None:
    artifact = publish_tiny(repository.root, lower={"int8": 3.0})
    points = [
        SessionPoint(precision, threads, instances, rows)
        for precision in ("fp32", "int8")
        for threads, instances in ((1, 1), (1, 2), (2, 1))
        for rows in (1, 16)
    ]
    figures = dict(
        Sweep(repository, artifact, Cores(2), 1000, "cpu", tmp_path / "log").measure(points, 20)
    )
    assert list(figures) == points
    for point, figure in figures.items():
        assert figure.runs >= 3 * point.instances
        assert 0 < figure.p50_ms <= figure.p99_ms
        # Runs of all instances together; each takes its own time.
        alone = point.rows / figure.p50_ms * 1e3
        assert figure.rows_per_s < 3 * alone * point.instances


def test_a_batch_whose_run_breaks_the_promise_is_the_last_of_its_shape(
    repository: ModelRepository, tmp_path: Path
) -> None:
    artifact = publish_tiny(repository.root, model=tiny_model(is_slow=True))
    points = [SessionPoint("fp32", 1, 1, rows) for rows in (1, 64, 128, 256)]
    figures = dict(
        Sweep(repository, artifact, Cores(1), 0.5, "cpu", tmp_path / "log").measure(points, 30)
    )
    assert figures
    assert max(point.rows for point in figures) < 256
    *_, last = figures.values()
    assert last.p50_ms > 0.5


def test_a_file_that_does_not_run_here_is_said_and_left_out(
    repository: ModelRepository, tmp_path: Path
) -> None:
    artifact = publish_tiny(repository.root, lower={"int8": 3.0})
    path = repository.path("tiny", 1) / "model.json"
    document = json.loads(path.read_text())
    document["files"][1]["gate"]["golden"].reverse()  # as if it had other answers here
    path.write_text(json.dumps(document))
    said: list[str] = []
    points = [SessionPoint("int8", 1, 1, 1), SessionPoint("fp32", 1, 1, 1)]
    figures = dict(
        Sweep(
            repository, artifact, Cores(1), 100, "cpu", tmp_path / "log", on_refusal=said.append
        ).measure(points, 20)
    )
    assert list(figures) == points[1:]
    assert len(said) == 1
    assert said[0].startswith("int8: tiny:1: golden image")


def test_a_sweep_ends_with_its_budget(repository: ModelRepository, tmp_path: Path) -> None:
    artifact = publish_tiny(repository.root)
    points = [SessionPoint("fp32", 1, 1, rows) for rows in range(1, 1000)]
    figures = dict(
        Sweep(repository, artifact, Cores(1), 100, "cpu", tmp_path / "log").measure(points, 3)
    )
    assert 0 <= len(figures) < len(points)
    assert list(figures) == points[: len(figures)]


def test_cores_are_those_that_are_here(monkeypatch: pytest.MonkeyPatch) -> None:
    assert choose_cores(None) == Cores(this_machine(1).cores)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: {3, 5, 6})
    monkeypatch.setattr("loadtest.tune.cores.available_cpus", lambda: 3)
    assert choose_cores(2) == Cores(2, (3, 5), (6,))
    assert choose_cores(3) == Cores(3, (3, 5, 6), ())
    with pytest.raises(TuneError, match="--cores: expected at most 3"):
        choose_cores(4)


def very_slow_model() -> onnx.ModelProto:
    """The closed form, and some 100 megaflops a row that add nothing to it."""
    model = tiny_model()
    sizes = (SIDE * SIDE // len(LABELS), 2048, 2048, 2048, 2048)
    nodes, last = [], "striped"
    for number, shape in enumerate(itertools.pairwise(sizes)):
        zeros = numpy_helper.from_array(np.zeros(shape, np.float32), f"zeros{number}")
        model.graph.initializer.append(zeros)
        nodes.append(helper.make_node("MatMul", [last, zeros.name], [f"wide{number}"]))
        last = f"wide{number}"
    nodes.append(helper.make_node("ReduceSum", [last, "last"], ["nothing"], keepdims=0))
    nodes.append(helper.make_node("Add", ["scores", "nothing"], ["logits"]))
    score = next(node for node in model.graph.node if node.output[0] == "logits")
    score.output[0] = "scores"
    where = list(model.graph.node).index(score) + 1
    for node in reversed(nodes):
        model.graph.node.insert(where, node)
    onnx.checker.check_model(model)
    return model


@pytest.fixture
def one_cpu() -> Iterator[None]:
    """Leave one CPU to this thread and to the processes that it starts."""
    cpus = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cpus)})
    yield
    os.sched_setaffinity(0, cpus)


# A run goes on where the one before it ended; on a busy machine the first budget is too little.
@pytest.mark.timeout(900)  # a busy machine needs the largest budgets
@pytest.mark.thorough
@pytest.mark.e2e
@pytest.mark.usefixtures("one_cpu")
def test_one_cpu_is_all_that_is_tried_and_the_record_says_so(
    repository: ModelRepository, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    publish_tiny(repository.root, lower={"int8": 3.0})
    out = tmp_path / "out"
    shell = Shell(capsys, repository.root)
    for budget_s in (6, 15, 40, 120):
        done = shell(
            "tune", "tiny", "--p99-ms", 1000, "--json", "--out", out, "--budget-s", budget_s
        )
        if done.code == 0:
            break
    assert done.code == 0, done
    said = done.document
    assert said["goodput_per_s"] > 0
    found = json.loads((out / "tune.json").read_text())
    assert found["machine"]["cores"] == 1
    assert found["wish"]["cores"] == 1
    assert {(s["threads"], s["instances"]) for s in found["sessions"]} == {(1, 1)}
    for served in found["served"]:
        chosen = served["configuration"]
        assert max(1, chosen["threads"]) * chosen["instances"] == 1
    page = (out / "report.html").read_text()
    assert said["verdict"] in page
    assert page.count("data:image/png;base64,") == 3
    for name in ("frontier", "goodput", "offers"):
        assert (out / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    plan = read_tuning(repository, "tiny", 1)
    assert (plan is None) == (said["plan"] is None)
    if plan is not None:
        assert plan.machine.cores == 1
        assert plan.goodput_per_s > plan.default_goodput_per_s


@pytest.mark.timeout(900)  # a busy machine needs the largest budgets
@pytest.mark.thorough
@pytest.mark.e2e
def test_a_winner_is_written_beside_the_model_and_the_next_start_follows_it(
    repository: ModelRepository, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An int8 file that is very much faster than fp32: whatever the noise, it wins."""
    publish_tiny(repository.root, model=very_slow_model(), lower={"int8": 3.0})
    shell = Shell(capsys, repository.root)
    words = ("tune", "tiny", "--p99-ms", 500, "--out", tmp_path / "out")
    for budget_s in (15, 30, 60, 150):
        said = shell(*words, "--budget-s", budget_s, "--json")
        plan = read_tuning(repository, "tiny", 1)
        if plan is not None:
            break
    assert plan is not None, said.out
    assert said.code == 0
    assert plan.precision == "int8"
    assert plan.machine == this_machine(workers=1)
    assert plan.goodput_per_s > plan.default_goodput_per_s > 0
    assert said.document["plan"]["precision"] == "int8"
    with running_server(repository.root, tmp_path) as server:
        assert server.metric("foveal_model_info", precision="int8") == 1
        config = httpx.get(f"{server.url}/v2/models/tiny/config").json()
        assert config["max_batch_size"] == plan.max_batch_size
        assert config["parameters"]["plan"]["string_value"] == f"tuned {plan.date}"
    journal = tmp_path / "out/measurements.jsonl"
    known = journal.read_text()
    tune_model(repository, Request("tiny", 500, budget_s=1, out=tmp_path / "out"))
    kept = read_tuning(repository, "tiny", 1)
    assert kept is not None and kept.precision == "int8", "a short run takes no plan away"
    assert journal.read_text().startswith(known), "what was measured is not measured again"


def test_reset_removes_the_plan(
    repository: ModelRepository, capsys: pytest.CaptureFixture[str]
) -> None:
    write_tuning(repository, "tiny", 1, tuning_for(publish_tiny(repository.root)))
    shell = Shell(capsys, repository.root)
    assert shell("tune", "tiny", "--reset").out == "tiny:1 has no plan any more\n"
    assert read_tuning(repository, "tiny", 1) is None
    assert shell("tune", "tiny", "--reset").out == "tiny:1 had no plan\n"


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("--precision", "int8"), 1, "--precision: expected some of fp32, which tiny:1 has"),
        (("--precision", "int4"), 2, "expected some of fp32, int8, fp16, got 'int4'"),
        (("--cores", "4096"), 1, "--cores: expected at most"),
        (("--workers", "4096"), 1, "FOVEAL_WORKERS: expected at most"),
    ],
)
def test_a_wish_that_cannot_be_granted_is_one_line(
    repository: ModelRepository,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    words: tuple[str, ...],
    code: int,
    said: str,
) -> None:
    publish_tiny(repository.root)
    ended = Shell(capsys, repository.root)("tune", "tiny", "--out", tmp_path / "out", *words)
    assert ended.code == code
    assert said in ended.error
    assert len(ended.error.strip().splitlines()) == 1


def test_models_show_tells_the_plan(
    repository: ModelRepository, capsys: pytest.CaptureFixture[str]
) -> None:
    write_tuning(repository, "tiny", 1, tuning_for(publish_tiny(repository.root)))
    shell = Shell(capsys, repository.root)
    assert "2 x 1 threads, batches up to 7" in shell("models", "show", "tiny").out
    assert shell("models", "show", "tiny", "--json").document["plan"]["max_batch_size"] == 7
    repository.plan_path("tiny", 1).write_text("{")
    said = shell("models", "show", "tiny")
    assert said.code == 0
    assert "expected a plan, got" in said.out
