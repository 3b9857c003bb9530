"""The tiny model, and images that several tests score."""

from pathlib import Path
from typing import Any

import pytest

from models.repository import ModelRepository
from scoring.local import LocalModel
from tests.scoring.containers import COUNT, Row, rows_of, write_images
from tests.tiny import random_images, tiny_probabilities


@pytest.fixture(scope="session")
def model(tiny_repository: Path) -> LocalModel:
    return LocalModel.load(ModelRepository(tiny_repository), "tiny")


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """142 files, two of them no images."""
    return write_images(tmp_path_factory.mktemp("sources") / "images", random_images(COUNT))


@pytest.fixture(scope="session")
def expected(files: list[Path], model: LocalModel, tmp_path_factory: Any) -> list[Row]:
    rows = rows_of([files[0].parent], model, tmp_path_factory.mktemp("expected"))
    good = [row for row in rows if row["error"] is None]
    assert (len(rows), len(good)) == (COUNT + 2, COUNT)
    assert [row["index"] for row in good] == tiny_probabilities(random_images(COUNT)).argmax(
        axis=1
    ).tolist()
    return rows
