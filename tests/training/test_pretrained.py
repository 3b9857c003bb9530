"""Networks of timm, in a process that finds timm and torchvision: see ``timm_program``."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.server import ROOT
from tests.user_environment import PACKAGES, beside_foveal

pytestmark = [
    pytest.mark.training,
    pytest.mark.thorough,
    pytest.mark.skipif(not PACKAGES.is_dir(), reason="make .venv/.user installs timm"),
]


def run(
    words: list[str], variables: dict[str, str], folder: Path
) -> subprocess.CompletedProcess[str]:
    kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    offline = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "XDG_CACHE_HOME": str(folder)}
    return subprocess.run(
        [sys.executable, "-m", *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        env={**kept, **offline, **variables},
    )


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    site = tmp_path_factory.mktemp("site")
    folder = tmp_path_factory.mktemp("timm")
    words = ["tests.training.timm_program", str(folder)]
    done = run(words, beside_foveal(site), folder)
    assert done.returncode == 0, done.stderr
    made: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return made


def test_weights_of_a_file_are_those_that_training_begins_with(result: dict[str, Any]) -> None:
    assert result["loaded"] is True
    assert result["grey"] == [24, 1, 4, 4]


def test_the_contract_has_the_networks_own_geometry(result: dict[str, Any]) -> None:
    """Pixels equal to those of timm's transform: its own values, then those of a folder."""
    image = result["artifact"]["image"]
    assert (image["height"], image["width"], image["mode"]) == (64, 64, "RGB")
    assert image["resize"]["side"] == "shorter"
    assert image["resize"]["height"] == 67  # floor(64 / 0.95)
    assert image["resize"]["filter"] == "bicubic"
    assert result["own pixels"] == 0
    assert result["folder's pixels"] == 0


def test_the_model_is_proved_and_has_its_embedding(result: dict[str, Any]) -> None:
    artifact = result["artifact"]
    assert artifact["labels"] == ["finch", "heron", "owl"]
    assert artifact["parity"]["label_agreement"] == 1
    assert artifact["outputs"][2] == {"name": "embedding", "datatype": "FP32", "shape": [-1, 64]}
    assert "--freeze stages.0" in artifact["provenance"]["command"]


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (0, ("other.safetensors: expected", "weights of timm:test_convnext")),
        (
            1,
            ("expected weights of test_convnext, got those of test_vit", "--network timm:test_vit"),
        ),
        (2, ("empty: expected a file of weights, model.safetensors", "got none in this folder")),
        (3, ("nothing.safetensors: expected a file of weights, got",)),
        (4, ("expected timm to download its weights, got", "give a file with --weights")),
        (5, ("expected a name of timm", "got 'test_convnexd'; near it: ")),
    ],
)
def test_what_cannot_be_used_is_said_in_one_line(
    result: dict[str, Any], number: int, words: tuple[str, ...]
) -> None:
    message = result["errors"][number]
    assert "\n" not in message
    for each in words:
        assert each in message


def test_a_torchvision_of_another_torch_is_said_in_one_line(tmp_path: Path) -> None:
    """Its operators do not load: Lightning's metrics import it wherever it is installed."""
    words = ["foveal", "train", "--dataset", "digits", "--network", "neuron"]
    path = os.pathsep.join(map(str, [PACKAGES, ROOT]))
    done = run([*words, "--run", str(tmp_path / "run")], {"PYTHONPATH": path}, tmp_path)
    if done.returncode == 0:
        pytest.skip("this torchvision loads")
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1, done.stderr
    assert "torchvision: expected one made for torch 2.13.0" in lines[0]
    assert "pip install --force-reinstall --no-deps torchvision==" in lines[0]
