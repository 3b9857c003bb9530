"""Modules of one's own, ``--network MODULE:FUNCTION``, with weights of one's own."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from models.repository import ModelRepository
from tests.training.test_fine_tuning import Squares, changed, weights
from training.config import TrainConfig
from training.errors import ConfigError
from training.initial import untrained
from training.parts import split
from training.pipeline import export, train
from training.recipes import resolve

pytestmark = pytest.mark.training

OWN = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(1, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.fc = nn.Linear(4, 7)

    def forward(self, images):
        return self.fc(self.norm(self.stem(images)).relu().mean((2, 3)))

def fixed():
    return Net()

def asked(classes, image_shape):
    assert image_shape == (8, 8, 1)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, classes))

def number():
    return 7

def wrong():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 7), nn.Softmax(1))
"""


@pytest.fixture
def own_code(tmp_path: Path) -> Path:
    path = tmp_path / "nets.py"
    path.write_text(OWN)
    return path


@pytest.mark.parametrize("function", ["fixed", pytest.param("asked", marks=pytest.mark.thorough)])
def test_a_module_of_ones_own(own_code: Path, tmp_path: Path, function: str) -> None:
    name = f"{own_code}:{function}"
    config = resolve("digits", name, tmp_path / "run", epochs=1)
    folder = train(config)
    artifact = export(folder, "mine", ModelRepository(tmp_path / "models"), embedding=True)
    assert artifact.embedding_width == (4 if function == "fixed" else 64)


def test_a_module_of_ones_own_by_its_name(
    own_code: Path, config: TrainConfig, squares: Squares, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(own_code.parent)
    own = own_code.rename(own_code.with_name("my_own_nets.py"))
    network = untrained(replace(config, network=f"{own.stem}:fixed"), squares())
    assert network(torch.zeros(2, 8, 8, 1, dtype=torch.uint8)).shape == (2, 4)


def test_weights_of_ones_own_module(
    own_code: Path, config: TrainConfig, squares: Squares, tmp_path: Path
) -> None:
    dataset = squares()
    named = replace(config, network=f"{own_code}:fixed")
    body = split(untrained(named, dataset).network)[0]
    state = {"module." + name: value for name, value in body.state_dict().items()}
    file = tmp_path / "weights.pth"
    torch.save({"state_dict": state | {"module.fc.weight": torch.zeros(7, 4)}}, file)
    begun = split(untrained(replace(named, weights=file), dataset).network)[0]
    assert changed(weights(body), begun) == set()
    del state["module.stem.weight"]
    torch.save(state, file)
    with pytest.raises(ConfigError, match=r"weights.pth: .* none for network.body.stem.weight"):
        untrained(replace(named, weights=file), dataset)
    file.write_bytes(b"no weights")
    with pytest.raises(ConfigError, match=r"weights.pth: expected a file of weights, got"):
        untrained(replace(named, weights=file), dataset)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("FILE:nothing", "expected a function nothing in"),
        ("FILE:number", "expected a torch.nn.Module, got int"),
        ("FILE:wrong", "expected 4 outputs, or a linear layer at its end"),
        ("no.such.module:make", "expected a module no.such.module, got ModuleNotFoundError"),
    ],
)
def test_what_is_no_module_of_ones_own(
    own_code: Path, config: TrainConfig, squares: Squares, name: str, message: str
) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        untrained(replace(config, network=name.replace("FILE", str(own_code))), squares())
    assert "\n" not in str(caught.value)
