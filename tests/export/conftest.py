import importlib.util
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import onnx
import pytest

from export.adopt import Request, adopt
from export.options import Options
from export.sandbox import Bounds
from models.artifact import ModelArtifact
from models.repository import ModelRepository
from tests.export.adopting import FILES, Own
from tests.export.foreign import LABELS, save
from tests.export.own import pictures
from tests.user_environment import make_python
from tests.user_forks import forking_python

if importlib.util.find_spec("torch") is None:
    collect_ignore = ["test_abstain.py", "test_precision.py"]
else:  # fixtures: a network trained in seconds, and images for it
    from tests.training.conftest import config, exporter_functions, one_thread, squares

    __all__ = ["config", "exporter_functions", "one_thread", "squares"]

Adopt = Callable[..., ModelArtifact]


@pytest.fixture(scope="session")
def user_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's environment of its own, as a Python."""
    return make_python(tmp_path_factory.mktemp("user") / "environment")


@pytest.fixture(scope="session")
def forked_python(user_python: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The same environment; torch is imported once, for all runs of a script."""
    with forking_python(user_python, tmp_path_factory.mktemp("forks")) as program:
        yield program


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
        **options: Any,
    ) -> ModelArtifact:
        request = Request(
            save(model, tmp_path),
            labels,
            Options(**options),
            images,
            bounds or Bounds(seconds=60),
            "foveal adopt foreign.onnx",
        )
        return adopt(request, "foreign", repository)

    return publish


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return pictures(tmp_path_factory.mktemp("own") / "pictures", FILES)


@pytest.fixture
def own(files: list[Path], tmp_path: Path) -> Own:
    return Own(files[0].parent.parent, files, ModelRepository(tmp_path / "models"))
