"""The tiny model, and images that several tests score."""

from pathlib import Path

import pytest

from models.repository import ModelRepository
from scoring.local import LocalModel
from tests.scoring.containers import write_images
from tests.tiny import random_images


@pytest.fixture(scope="session")
def model(tiny_repository: Path) -> LocalModel:
    return LocalModel.load(ModelRepository(tiny_repository), "tiny")


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """142 files, two of them no images."""
    return write_images(tmp_path_factory.mktemp("sources") / "images", random_images(140))
