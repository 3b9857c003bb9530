"""What tests on a GPU share; they need pytest, numpy and onnxruntime-gpu, and no more."""

import functools
import gc
from pathlib import Path

import pytest

from models.repository import ModelRepository
from service.errors import InferenceError
from service.session.devices import gpu_count, probe
from service.session.gpu.accelerator import accelerator

HOME = Path(__file__).resolve().parents[2]


@functools.cache
def why_not(device: str) -> str:
    """Why nothing runs on a device here, empty if something does."""
    assert device in ("cuda", "tensorrt")
    try:
        gpu_count(device)  # type: ignore[arg-type]
        probe(device, 0)  # type: ignore[arg-type]
    except InferenceError as error:
        return error.message
    return ""


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what is marked gpu where there is none, with the reason that a user would be told."""
    if item.get_closest_marker("gpu"):
        if why := why_not("cuda"):
            pytest.skip(why)
        # What the last test let go is freed by now: memory is told by what the device has left.
        gc.collect()
        accelerator(0).call(int)


@pytest.fixture(params=["fashion-fcnn", "cifar10-cnn"])
def model(request: pytest.FixtureRequest) -> bytes:
    """The ONNX file of a shipped model: the networks of the bench beside other servers."""
    return shipped(request.param)


@pytest.fixture
def fcnn() -> bytes:
    return shipped("fashion-fcnn")


@pytest.fixture
def cnn() -> bytes:
    return shipped("cifar10-cnn")


def shipped(name: str) -> bytes:
    """Read the newest version's ONNX file."""
    repository = ModelRepository(HOME / "models")
    return (repository.path(*repository.resolve(name)) / "model.onnx").read_bytes()
