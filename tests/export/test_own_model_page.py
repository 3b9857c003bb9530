"""The commands that docs/own-model.md begins with, run as they are printed."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from models.repository import ModelRepository
from tests.export.foreign import LABELS, foreign_model, save
from tests.export.own import pictures
from tests.server import ROOT

EVAL = """
import torch
from torchvision import transforms


def make():
    network = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 5, 3), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(1),
        torch.nn.Flatten(), torch.nn.Linear(8, 4),
    )
    steps = [transforms.Resize(72), transforms.CenterCrop(64), transforms.ToTensor()]
    return network.eval(), transforms.Compose(steps), ["north", "east", "south", "west"]
"""
PAGE = (ROOT / "docs/own-model.md").read_text()
TORCH, ONNX = re.findall(r"^```sh\n(.*?)\n```$", PAGE, re.MULTILINE | re.DOTALL)[:2]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A folder beside which users keep their environment, with the files that the page names."""
    folder = tmp_path / "foveal"
    folder.mkdir()
    pictures(folder / "val", 8)
    return folder


def run(command: str, checkout: Path) -> ModelRepository:
    """Run a printed command there; the checkout's own models stay as they are."""
    assert command.startswith(".venv/bin/foveal adopt "), command
    foveal = shlex.join([sys.executable, str(ROOT / "foveal.py")])
    done = subprocess.run(
        ["sh", "-c", command.replace(".venv/bin/foveal", foveal, 1)],
        cwd=checkout,
        env=os.environ | {"FOVEAL_MODELS": str(checkout / "models")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    assert "Traceback" not in done.stdout
    return ModelRepository(checkout / "models")


@pytest.mark.thorough
def test_the_command_for_pytorch(checkout: Path, user_python: Path) -> None:
    (checkout.parent / "venv").symlink_to(user_python.parent.parent)
    (checkout / "my_project").mkdir()
    (checkout / "my_project" / "eval.py").write_text(EVAL)
    artifact = run(TORCH, checkout).verify("birds", 1)
    assert artifact.proof is not None
    assert (artifact.proof.images, artifact.proof.label_agreement) == (8, 1)


def test_the_command_for_onnx(checkout: Path) -> None:
    save(foreign_model(side=224), checkout, "resnet50.onnx")
    (checkout / "imagenet.txt").write_text("\n".join(LABELS))
    artifact = run(ONNX, checkout).verify("resnet50", 1)
    assert artifact.labels == LABELS
    assert (artifact.image.height, artifact.image.resized) == (224, (256, 256))
    assert artifact.parity is not None and artifact.parity.label_agreement == 1
