import json
from pathlib import Path

import pytest

from models.artifact import ArtifactError
from models.repository import ModelRepository
from service.errors import ModelNotFoundError, NotReadyError
from service.pipeline.limits import BatchLimits
from service.rollout.catalog import Catalog, load_catalog
from service.rollout.loading import LoadOptions
from tests.tiny import publish_tiny

OPTIONS = LoadOptions(BatchLimits(max_batch_size=4))


@pytest.fixture
def repository(tmp_path: Path) -> ModelRepository:
    root = tmp_path / "repository"
    root.mkdir()
    return ModelRepository(root)


@pytest.fixture
def catalog(repository: ModelRepository) -> Catalog:
    """a:1 a:2 (pinned to 1), b:1 b:2 b:3 (the newest two), c:1 broken, d:1 well d:2 broken."""
    for name, versions in (("a", 2), ("b", 3), ("c", 1), ("d", 2)):
        for _ in range(versions):
            publish_tiny(repository.root, name)
    repository.set_default("a", 1)
    for version in ("c/1", "d/2"):
        (repository.root / version / "model.onnx").write_bytes(b"broken")
    return load_catalog(repository, "b", 2, OPTIONS)


@pytest.mark.parametrize(
    ("name", "version", "expected"),
    [
        ("", "", "b:3"),
        ("a", "", "a:1"),
        ("a", "1", "a:1"),
        ("a", "2", "a:2"),
        ("b", "", "b:3"),
        ("b", "2", "b:2"),
        ("", "2", "b:2"),
        ("d", "", "d:1"),
        ("d", "1", "d:1"),
    ],
)
def test_find(catalog: Catalog, name: str, version: str, expected: str) -> None:
    assert catalog.find(name, version).artifact.reference == expected


@pytest.mark.parametrize(
    ("name", "version"),
    [
        ("x", ""),
        ("a", "3"),
        ("b", "1"),
        ("a", "0"),
        ("a", "-1"),
        ("a", "one"),
        ("a", "²"),
        ("a", "٢"),
        ("a", "9" * 5000),
        ("d", "2"),
        ("A", ""),
    ],
)
def test_find_names_what_there_is(catalog: Catalog, name: str, version: str) -> None:
    with pytest.raises(ModelNotFoundError, match="expected one of a:1, a:2, b:2, b:3, d:1"):
        catalog.find(name, version)


def test_find_says_why_a_model_is_not_there(catalog: Catalog) -> None:
    with pytest.raises(NotReadyError, match='model "c": no version could be loaded'):
        catalog.find("c")
    assert set(catalog.refused) == {"c:1", "d:2"}
    assert "sha256" in catalog.refused["c:1"]


def test_defaults(catalog: Catalog) -> None:
    defaults = {name: c.artifact.version for name, c in catalog.defaults.items()}
    assert defaults == {"a": 1, "b": 3, "d": 1}
    references = sorted(classifier.artifact.reference for classifier in catalog)
    assert references == ["a:1", "a:2", "b:2", "b:3", "d:1"]


def test_pinned_version_is_loaded_however_old(repository: ModelRepository) -> None:
    for _ in range(4):
        publish_tiny(repository.root)
    repository.set_default("tiny", 1)
    catalog = load_catalog(repository, "", 1, OPTIONS)
    assert sorted(c.artifact.version for c in catalog) == [1, 4]
    assert catalog.find().artifact.version == 1


def test_repository_without_a_default_model(repository: ModelRepository) -> None:
    publish_tiny(repository.root, "a")
    publish_tiny(repository.root, "b")
    catalog = load_catalog(repository, "", 1, OPTIONS)
    assert catalog.find("a").artifact.name == "a"
    with pytest.raises(ModelNotFoundError, match="no default model; name one of a:1, b:1"):
        catalog.find()


def test_empty_repository(repository: ModelRepository) -> None:
    catalog = load_catalog(repository, "", 1, OPTIONS)
    with pytest.raises(ModelNotFoundError, match="none"):
        catalog.find()
    assert list(catalog) == []


def test_unknown_default_model(repository: ModelRepository) -> None:
    publish_tiny(repository.root)
    with pytest.raises(ArtifactError, match="FOVEAL_DEFAULT_MODEL: expected one of tiny, got 'x'"):
        load_catalog(repository, "x", 1, OPTIONS)


def test_pin_to_a_version_that_is_gone_does_not_take_all_models_down(
    repository: ModelRepository,
) -> None:
    publish_tiny(repository.root, "a")
    publish_tiny(repository.root, "b")
    path = repository.root / "repository.json"
    path.write_text(json.dumps({"default_model": "b", "default_versions": {"a": 7}}))
    catalog = load_catalog(repository, "", 1, OPTIONS)
    assert catalog.find("b").artifact.reference == "b:1"
    assert any("7" in why for why in catalog.refused.values())


def test_no_repository(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="expected a folder"):
        load_catalog(ModelRepository(tmp_path / "nowhere"), "", 1, OPTIONS)
