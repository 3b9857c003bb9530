"""The GPU check: its steps and limits, and the tables, without a GPU."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import numpy_helper

from loadtest.bench import gpu_formats, gpu_plot, gpu_serve
from loadtest.bench.gpu_check import BUDGET_S, report, run
from loadtest.bench.gpu_steps import Step, steps
from loadtest.bench.resnet50 import resnet50, write_images


def python(text: str) -> tuple[str, ...]:
    return (sys.executable, "-c", text)


def test_a_step_that_fails_or_lacks_something_stops_no_other(tmp_path: Path) -> None:
    said: list[str] = []
    planned = [
        Step("fails", 60, python("print('why it did'); raise SystemExit(3)")),
        Step("endless", 0.2 + 1, python("import time; time.sleep(600)")),
        Step("lacks a module", 60, python(""), ("no_such_module",)),
        Step("lacks a part of one", 60, python(""), ("no_such.module",)),
        Step("lacks a file", 60, python(""), (), tmp_path / "absent"),
        Step("works", 60, python("print('done')"), ("json", "sh")),
    ]
    outcomes = run(planned, tmp_path, say=said.append)
    assert [(o["outcome"], o["why"].partition(";")[0]) for o in outcomes] == [
        ("failed", "why it did"),
        ("ended", "not done after 1 s"),
        ("skipped", "no_such_module is not installed"),
        ("skipped", "no_such.module is not installed"),
        ("skipped", "no absent: an earlier step did not leave it"),
        ("done", ""),
    ]
    assert len(said) == len(planned)
    assert (tmp_path / "works.log").read_text() == "done\n"


def test_no_step_begins_when_the_budget_is_spent(tmp_path: Path) -> None:
    (outcome,) = run([Step("late", 60, python(""))], tmp_path, budget_s=0.5, say=lambda _: None)
    assert (outcome["outcome"], outcome["why"]) == ("skipped", "no time is left")


def test_the_check_is_bounded_and_a_rehearsal_has_the_same_steps(tmp_path: Path) -> None:
    assert BUDGET_S < 8 * 60
    real = steps(tmp_path, None, is_rehearsal=False)
    rehearsed = steps(tmp_path, None, is_rehearsal=True)
    assert [step.name for step in real] == [step.name for step in rehearsed]
    assert not any("cpu" in step.words for step in real)
    assert not any("cuda" in step.words for step in rehearsed)
    carried = steps(tmp_path, tmp_path / "carried", is_rehearsal=False)
    assert any(str(tmp_path / "carried") in step.words for step in carried)


def test_the_report_has_what_the_steps_left(tmp_path: Path) -> None:
    figure = {"model": "resnet50", "format": "fp16", "layout": "nhwc", "search": "exhaustive"}
    measured = {**figure, "rows": 64, "images_per_s": 10200.0, "difference": 1e-3, "opened_s": 2.0}
    broken = {**figure, "format": "tf32", "error": "no room"}
    start = {"model": "resnet50", "start": "first", "seconds": 6.0, "format": "fp16"}
    start |= {"layout": "nhwc", "buckets": (1, 64), "parts_s": {"search": 2.5}}
    results: dict[str, Any] = {"figures": [measured, broken], "starts": [start]}
    results["targets"] = gpu_formats.targets(results["figures"])
    assert list(results["targets"].values()) == [10200.0]
    (tmp_path / "formats.json").write_text(json.dumps(results))
    (tmp_path / "formats.md").write_text(gpu_formats.table(results))
    served: list[dict[str, Any]] = [
        {"workers": 1, "first_answer_s": 5.5, "log": []},
        {"workers": 1, "rows": 8, "connections": 64, "rows_per_s": 4359.0, "p50_ms": 1.0}
        | {"p99_ms": 2.0, "failed": 0},
        {"workers": 2, "error": "wrk or taskset is not installed: no load"},
    ]
    (tmp_path / "serve.md").write_text(gpu_serve.table(served))
    (tmp_path / "score.log").write_text('a line\n{\n "rows": 1024,\n "seconds": 0.5}\n')
    outcomes = [{"name": "formats", "outcome": "done", "seconds": 61.0, "why": "a | b"}]
    text, document = report(tmp_path, "NVIDIA H100", outcomes)
    for line in (
        "| formats | done | 61 | a / b |",
        "| resnet50 | fp16 | nhwc | exhaustive | 10,200 | 0.001 | 2.0 |",
        "| resnet50 | tf32 | nhwc | exhaustive | no room |",
        "| resnet50, first | 6.0 | fp16 nhwc, buckets (1, 64) | search 2.5 |",
        "| 1 | 8 | 64 | 4,359 | 1.0 | 2.0 | 0 |",
        "| 2 | wrk or taskset is not installed: no load |",
        '`{"rows": 1024, "seconds": 0.5}`',
    ):
        assert line in text.splitlines()
    assert document["formats"]["figures"][0]["images_per_s"] == 10200.0
    assert document["score"] == {"rows": 1024, "seconds": 0.5}
    picture = gpu_plot.plot_formats(results["figures"])
    assert picture is not None
    assert picture.startswith(b"\x89PNG")
    assert gpu_plot.plot_formats([broken]) is None


@pytest.mark.parametrize(
    ("cores", "server", "load"),
    [([0], "0", "0"), ([0, 1], "0", "1"), (list(range(16)), None, "12,13,14,15")],
)
def test_cores_are_split(cores: list[int], server: str | None, load: str) -> None:
    expected = server or ",".join(map(str, range(12)))
    assert gpu_serve.split_cores(cores) == (expected, load)


def test_resnet50_has_the_layers_of_the_paper(tmp_path: Path) -> None:
    graph = resnet50().graph
    weights = [numpy_helper.to_array(tensor) for tensor in graph.initializer]
    assert sum(w.size for w in weights if w.ndim == 4) == 23_454_912
    assert [node.op_type for node in graph.node].count("Conv") == 53
    assert all(np.isfinite(w).all() for w in weights)
    write_images(tmp_path, 3)
    contents = {path.read_bytes() for path in tmp_path.glob("*.jpg")}
    assert len(contents) == 3
