"""The bench of a GPU, where there is none: what it computes from figures, and what it says."""

import os
import subprocess
import sys
from typing import Any

import pytest

from loadtest.bench.device import MODELS, DeviceFigure, _limits, _targets, table
from service.session.gpu.cuda_runtime import DeviceFacts, driver_error
from tests.server import ROOT

without_gpu = pytest.mark.skipif(not driver_error(), reason="NVIDIA's driver is here")
MODEL = next(iter(MODELS))


def figure(binding: str, rows: int, batch_us: float) -> DeviceFigure:
    return DeviceFigure(MODEL, "fp32", binding, rows, batch_us, rows / batch_us * 1e6)


def torch_figure(binding: str, images_per_s: float) -> dict[str, object]:
    return {
        "format": "fp32",
        "binding": binding,
        "rows": 64,
        "batch_us": 64e6 / images_per_s,
        "images_per_s": images_per_s,
    }


RESULTS: dict[str, dict[str, Any]] = {
    "torch": {
        MODEL: {
            "multiply_adds": 1_000_000,
            "parameters": 500_000,
            "image_bytes": 784,
            "figures": [torch_figure("eager", 5e5), torch_figure("compile", 1e6)],
        }
    },
    "first_request": {f"{MODEL} fp32": {"first_us": 30.0, "median_us": 20.0}},
}


def test_targets_are_ratios_of_what_was_measured() -> None:
    figures = [figure("plain", 1, 100), figure("graph", 1, 40), figure("staged", 64, 80)]
    targets = _targets(figures, RESULTS)
    assert targets[MODEL] == {
        "graph / plain at 1 row (at most 0.5)": pytest.approx(0.4),
        "best / torch.compile (at least 0.9)": pytest.approx(0.8),
        "first / median request (at most 1.5)": pytest.approx(1.5),
    }
    other = next(name for name in MODELS if name != MODEL)
    assert set(targets[other].values()) == {None}  # not measured is not met


def test_roofs_are_those_of_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """An H100's: 132 multiprocessors of 256 float32 operations a clock."""
    monkeypatch.setattr("loadtest.bench.device._bus_bytes_per_s", lambda _index: 50e9)
    facts = DeviceFacts("H100", "9.0", 132, 1.98e9, 3.35e12, 80 << 30)
    limits = _limits(facts, RESULTS["torch"], 0)
    assert limits[MODEL]["compute_fp32"] == pytest.approx(132 * 256 * 1.98e9 / 2e6)
    assert limits[MODEL]["bus"] == pytest.approx(50e9 / 784)
    unknown = DeviceFacts("other", "8.6", 80, 1e9, 1e12, 1 << 30)
    assert set(_limits(unknown, RESULTS["torch"], 0)[MODEL]) == {"bus", "memory"}


def test_the_table_has_pytorchs_figures_beside_ours() -> None:
    one = {
        "model": MODEL,
        "format": "fp32",
        "binding": "graph",
        "rows": 1,
        "batch_us": 40.0,
        "images_per_s": 25_000.0,
    }
    lines = table({"figures": [one], **RESULTS})
    assert lines[1] == (MODEL, "fp32", "graph", "1", "40.0", "25,000")
    assert [line[2] for line in lines[2:]] == ["eager", "compile"]


@without_gpu
@pytest.mark.parametrize(
    "words",
    [
        [sys.executable, "-m", "loadtest.bench.device"],
        [sys.executable, "foveal.py", "bench", "session", "--device", "cuda", "--json"],
        ["bash", "loadtest/bench/gpu_check.sh", "{folder}"],
    ],
    ids=["module", "command", "gpu-check"],
)
def test_without_a_gpu_one_line_says_what_is_missing(
    words: list[str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = str(tmp_path_factory.mktemp("out"))
    done = subprocess.run(
        [word.replace("{folder}", folder) for word in words],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env=os.environ | {"PYTHON": sys.executable},
    )
    assert done.returncode == 1, done.stdout + done.stderr
    said = (done.stdout + done.stderr).strip().splitlines()
    assert "device cuda: expected" in said[-1]
    assert "Traceback" not in done.stdout + done.stderr
