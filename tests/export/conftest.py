from collections.abc import Callable
from pathlib import Path

import onnx
import pytest

from export.adopt import Request, adopt
from export.options import Options
from export.sandbox import Bounds
from models.artifact import ModelArtifact
from models.repository import ModelRepository
from tests.export.foreign import LABELS, save

Adopt = Callable[..., ModelArtifact]


@pytest.fixture
def repository(tmp_path: Path) -> ModelRepository:
    return ModelRepository(tmp_path / "models")


@pytest.fixture
def adopted(tmp_path: Path, repository: ModelRepository) -> Adopt:
    """Adopt a graph under the name ``foreign``; keywords are those of Options."""

    def publish(
        model: onnx.ModelProto,
        labels: tuple[str, ...] = LABELS,
        images: tuple[Path, ...] = (),
        bounds: Bounds | None = None,
        **options: object,
    ) -> ModelArtifact:
        request = Request(
            save(model, tmp_path),
            labels,
            Options(**options),
            images,  # type: ignore[arg-type]
            bounds or Bounds(seconds=60),
            "foveal adopt foreign.onnx",
        )
        return adopt(request, "foreign", repository)

    return publish
