from pathlib import Path

import pytest

from models.repository import ModelRepository


@pytest.fixture
def repository(tmp_path: Path) -> ModelRepository:
    root = tmp_path / "repository"
    root.mkdir()
    return ModelRepository(root)
