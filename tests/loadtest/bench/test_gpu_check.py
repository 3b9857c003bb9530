"""The GPU check: its steps and limits, and the tables, without a GPU."""

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import numpy_helper

from loadtest.bench import gpu_formats, gpu_plot, gpu_serve
from loadtest.bench.gpu_check import report, run
from loadtest.bench.gpu_steps import Step, steps
from loadtest.bench.resnet50 import resnet50, write_images

HOME = Path(__file__).resolve().parents[3]
SCRIPT = HOME / "loadtest/bench/gpu_check.sh"


def python(text: str) -> tuple[str, ...]:
    return (sys.executable, "-c", text)


def test_a_step_that_fails_or_lacks_something_stops_no_other(tmp_path: Path) -> None:
    said: list[str] = []
    planned = [
        Step("endless", 1, python("import time; time.sleep(600)")),
        Step("fails", 60, python("print('why it did'); raise SystemExit(3)")),
        Step("lacks a module", 60, python(""), ("no_such_module",)),
        Step("lacks a part of one", 60, python(""), ("no_such.module",)),
        Step("lacks a file", 60, python(""), (), tmp_path / "absent"),
        Step("works", 60, python("print('done')"), ("json", "sh")),
    ]
    outcomes = run(planned, tmp_path, say=said.append)
    assert [(o["outcome"], o["why"].partition(";")[0]) for o in outcomes] == [
        ("ended", "not done after 1 s"),
        ("failed", "why it did"),
        ("skipped", "no_such_module is not installed"),
        ("skipped", "no_such.module is not installed"),
        ("skipped", "no absent: an earlier step did not leave it"),
        ("done", ""),
    ]
    assert len(said) == len(planned)
    assert (tmp_path / "works.log").read_text() == "done\n"


def test_a_step_may_use_what_those_before_it_left(tmp_path: Path) -> None:
    lasting = python("import time; time.sleep(1.5)")
    planned = [Step("short", 59, python("")), Step("long", 1, lasting)]
    assert [o["outcome"] for o in run(planned, tmp_path, say=lambda _: None)] == ["done", "done"]


def test_the_check_is_bounded_and_a_rehearsal_has_the_same_steps(tmp_path: Path) -> None:
    real = steps(tmp_path, None, is_rehearsal=False)
    rehearsed = steps(tmp_path, None, is_rehearsal=True)
    found = re.search(r"^INSTALL_S=(\d+)$", SCRIPT.read_text(), re.M)
    assert found
    assert sum(step.limit_s for step in real) + int(found[1]) <= 8 * 60
    decode = next(step for step in real if step.name == "decode")
    assert float(decode.words[decode.words.index("--limit") + 1]) < decode.limit_s
    assert [step.name for step in real] == [step.name for step in rehearsed]
    assert not any("cpu" in step.words for step in real)
    assert not any("cuda" in step.words for step in rehearsed)
    carried = steps(tmp_path, tmp_path / "carried", is_rehearsal=False)
    assert any(str(tmp_path / "carried") in step.words for step in carried)


# In place of Python: fetches empty wheels by the names in pip's list, and converts nothing.
STAND_IN = """#!/bin/bash
case "$*" in
  *"-m pip download"*)
    while [ $# -gt 0 ]; do case "$1" in -r) list=$2 ;; -d) into=$2 ;; esac; shift; done
    cp "$list" "$ASKED"
    for name in $(sed 's/[^A-Za-z0-9_-].*//' "$list") numpy protobuf nvidia-nvjpeg nvidia-ml-py \
      cuda-pathfinder nvidia-cublas; do echo > "$into/${name//-/_}-1-py3-none-any.whl"; done ;;
  *export.convert*) echo > "$4" ;;
  *) exec "$REAL" "$@" ;;
esac
"""


def test_what_is_carried_is_all_that_the_extras_name(tmp_path: Path) -> None:
    stand_in, asked, into = tmp_path / "python", tmp_path / "asked", tmp_path / "carried"
    stand_in.write_text(STAND_IN)
    stand_in.chmod(0o755)
    subprocess.run(
        ["bash", str(SCRIPT), "prepare", str(into)],
        env=os.environ | {"PYTHON": str(stand_in), "REAL": sys.executable, "ASKED": str(asked)},
        check=True,
        timeout=60,
    )
    project = tomllib.loads((HOME / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    needed = {*project["dependencies"], *extras["gpu"], *extras["nvimgcodec"]}
    assert set(asked.read_text().splitlines()) == needed
    found = {str(path.relative_to(into)) for path in into.rglob("*") if path.is_file()}
    names = {name.removesuffix("-1-py3-none-any.whl") for name in found}
    assert {"card/cuda_bindings", "card/cuda_pathfinder", "card/nvidia_nvimgcodec_cu13"} <= names
    assert {"card/nvidia_nvjpeg", "cuda/nvidia_cublas", "wheels/nvidia_ml_py"} <= names
    assert {"wheels/pillow", "wheels/simplejpeg", "wheels/bentoml"} <= names
    assert ("bin/wrk" in found) == (shutil.which("wrk") is not None)
    assert {"_jpeg_scan.abi3.so", "_resample.abi3.so", "cifar10-cnn.fp16.onnx"} <= found
    assert any(name.startswith("onnxruntime_gpu-") and name.endswith(".00") for name in found)
    assert not any("numpy" in name or "protobuf" in name for name in found)


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
