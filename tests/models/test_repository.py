"""Publishing and finding versions."""

import json
import multiprocessing
import shutil
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import onnx
import pytest

from models.artifact import ArtifactError, ModelArtifact
from models.repository import ModelRepository
from tests.tiny import build_tiny, publish_tiny, tiny_model


def tree(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*"))


# Publishing


def test_publish_numbers_versions(repository: ModelRepository) -> None:
    references = [publish_tiny(repository.root).reference for _ in range(3)]
    assert references == ["tiny:1", "tiny:2", "tiny:3"]
    assert repository.versions("tiny") == [1, 2, 3]
    assert repository.names() == ["tiny"]
    assert tree(repository.root / "tiny/3") == [
        "golden",
        *(f"golden/{i}.png" for i in range(8)),
        "model.json",
        "model.onnx",
    ]
    assert repository.verify("tiny", 3) == repository.load("tiny", 3)


def test_published_artifact_is_the_one_on_disk(repository: ModelRepository) -> None:
    published = publish_tiny(repository.root)
    assert repository.load("tiny", 1) == published


def test_numbers_are_not_used_again_below_the_newest(repository: ModelRepository) -> None:
    for _ in range(3):
        publish_tiny(repository.root)
    shutil.rmtree(repository.root / "tiny/2")
    assert publish_tiny(repository.root).version == 4


@pytest.mark.parametrize("has_earlier", [False, True])
@pytest.mark.parametrize("error", [RuntimeError("boom"), KeyboardInterrupt()])
def test_build_that_raises_leaves_nothing(
    repository: ModelRepository, error: BaseException, has_earlier: bool
) -> None:
    if has_earlier:
        publish_tiny(repository.root)
    before = tree(repository.root)

    def build(folder: Path, version: int) -> ModelArtifact:
        assert version == 1 + has_earlier
        build_tiny(folder, "tiny", version, tiny_model())
        assert repository.versions("tiny") == [1] * has_earlier, "visible before it is whole"
        raise error

    with pytest.raises(type(error)):
        repository.publish("tiny", build)
    assert tree(repository.root) == before


@pytest.mark.parametrize(
    ("spoil", "match"),
    [
        (lambda folder: (folder / "model.onnx").unlink(), "expected a file"),
        (lambda folder: (folder / "golden/3.png").unlink(), "golden/3.png: expected a file"),
        (lambda folder: (folder / "model.onnx").write_bytes(b"other"), "expected the sha256"),
    ],
)
def test_what_does_not_verify_is_not_published(
    repository: ModelRepository, spoil: Callable[[Path], None], match: str
) -> None:
    def build(folder: Path, version: int) -> ModelArtifact:
        artifact = build_tiny(folder, "tiny", version, tiny_model())
        spoil(folder)
        return artifact

    with pytest.raises(ArtifactError, match=match):
        repository.publish("tiny", build)
    assert tree(repository.root) == []


def test_artifact_of_another_name_is_not_published(repository: ModelRepository) -> None:
    with pytest.raises(ArtifactError, match="expected tiny:1, got 'other:1'"):
        repository.publish("tiny", lambda f, v: build_tiny(f, "other", v, tiny_model()))
    with pytest.raises(ArtifactError, match="expected tiny:1, got 'tiny:5'"):
        repository.publish("tiny", lambda f, _v: build_tiny(f, "tiny", 5, tiny_model()))
    assert tree(repository.root) == []


@pytest.mark.parametrize(
    "name", ["", ".", "..", "a/b", "/a", "A", "ä", "-a", ".a", "a b", "a:1", "a" * 65, "a\n", "a\0"]
)
def test_bad_names(repository: ModelRepository, name: str) -> None:
    with pytest.raises(ArtifactError, match="model name: expected"):
        publish_tiny(repository.root, name)
    assert tree(repository.root) == []


@pytest.mark.parametrize("name", ["a", "0", "digits-cnn", "a.b_c-d", "a" * 64])
def test_good_names(repository: ModelRepository, name: str) -> None:
    assert publish_tiny(repository.root, name).name == name
    assert repository.names() == [name]


def test_concurrent_publishers_get_different_versions(repository: ModelRepository) -> None:
    """All of them build version 1 and meet at the rename."""
    publishers = 6
    barrier = threading.Barrier(publishers)
    waited = threading.local()

    def build(folder: Path, version: int) -> ModelArtifact:
        artifact = build_tiny(folder, "tiny", version, tiny_model())
        if not hasattr(waited, "once"):
            waited.once = True
            barrier.wait(30)
        return artifact

    with ThreadPoolExecutor(publishers) as pool:
        published = list(pool.map(lambda _: repository.publish("tiny", build), range(publishers)))
    assert sorted(a.version for a in published) == list(range(1, publishers + 1))
    assert repository.versions("tiny") == list(range(1, publishers + 1))
    for version in repository.versions("tiny"):
        repository.verify("tiny", version)
    assert [p.name for p in (repository.root / "tiny").iterdir() if p.name.startswith(".")] == []


def _publish_some(root: Path) -> list[int]:
    return [publish_tiny(root).version for _ in range(5)]


def test_concurrent_processes_get_different_versions(repository: ModelRepository) -> None:
    context = multiprocessing.get_context("spawn")
    with context.Pool(3) as pool:
        lists = pool.map(_publish_some, [repository.root] * 3)
        pool.close()
        pool.join()
    assert sorted(version for each in lists for version in each) == list(range(1, 16))


def test_a_publisher_that_fails_beside_one_that_does_not(repository: ModelRepository) -> None:
    def fail(_folder: Path, _version: int) -> ModelArtifact:
        publish_tiny(repository.root)
        raise RuntimeError("boom")

    with pytest.raises(RuntimeError):
        repository.publish("tiny", fail)
    assert repository.versions("tiny") == [1]
    repository.verify("tiny", 1)


def test_reader_never_sees_half_a_version(repository: ModelRepository) -> None:
    seen: list[int] = []

    def read() -> None:
        while len(seen) < 10:
            for version in repository.versions("tiny"):
                if version not in seen:
                    repository.verify("tiny", version)
                    seen.append(version)

    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(read)
        for _ in range(10):
            publish_tiny(repository.root)
        reading.result(30)


# Finding


def test_what_is_no_version_is_passed_over(repository: ModelRepository) -> None:
    publish_tiny(repository.root)
    for name in ("0", "01", "-2", "2.5", "two", ".publish-x", "1e3", "²", "9999999999"):
        (repository.root / "tiny" / name).mkdir()
    (repository.root / "tiny/7").write_text("a file")
    (repository.root / "Upper/1").mkdir(parents=True)
    (repository.root / ".hidden/1").mkdir(parents=True)
    (repository.root / "empty").mkdir()
    (repository.root / "README.md").write_text("a file")
    assert repository.versions("tiny") == [1]
    assert repository.names() == ["tiny"]


def test_versions_are_ordered_as_numbers(repository: ModelRepository) -> None:
    for version in (1, 2, 9, 10, 100):
        (repository.root / "tiny" / str(version)).mkdir(parents=True)
    assert repository.versions("tiny") == [1, 2, 9, 10, 100]
    assert repository.resolve("tiny") == ("tiny", 100)


@pytest.mark.parametrize("name", ["..", "../tiny", "", ".", "/", "tiny/1", "x\0"])
def test_names_do_not_leave_the_repository(repository: ModelRepository, name: str) -> None:
    publish_tiny(repository.root)
    inner = ModelRepository(repository.root / "tiny")
    assert inner.versions(name) == []


def test_resolve(repository: ModelRepository) -> None:
    for _ in range(3):
        publish_tiny(repository.root)
    assert repository.resolve("tiny") == ("tiny", 3)
    assert repository.resolve("tiny:2") == ("tiny", 2)
    assert repository.resolve() == ("tiny", 3)
    repository.set_default("tiny", 2)
    assert repository.resolve("tiny") == ("tiny", 2)
    publish_tiny(repository.root)
    assert repository.resolve("tiny") == ("tiny", 2), "a pin holds when a newer one comes"
    publish_tiny(repository.root, "other")
    with pytest.raises(ArtifactError, match="expected a default model, got other, tiny"):
        repository.resolve()
    repository.set_default("other")
    assert repository.resolve() == ("other", 1)
    assert repository.resolve("tiny") == ("tiny", 2)


@pytest.mark.parametrize(
    ("reference", "match"),
    [
        ("x", 'model "x": expected one of tiny'),
        ("tiny:9", 'model "tiny": no version 9; available: 1'),
        ("tiny:0", "no version 0"),
        ("tiny:one", "no version one"),
        ("tiny:-1", "no version -1"),
        ("tiny:1:2", "no version"),
        ("tiny:²", "no version"),
        ("tiny:" + "9" * 5000, "no version"),
        ("../tiny", "expected one of tiny"),
    ],
)
def test_resolve_names_what_there_is(
    repository: ModelRepository, reference: str, match: str
) -> None:
    publish_tiny(repository.root)
    with pytest.raises(ArtifactError, match=match):
        repository.resolve(reference)


def test_rollback(repository: ModelRepository) -> None:
    for _ in range(3):
        publish_tiny(repository.root)
    assert repository.rollback("tiny") == 2
    assert repository.resolve("tiny") == ("tiny", 2)
    assert repository.rollback("tiny") == 1
    with pytest.raises(ArtifactError, match="expected a version before 1, got none"):
        repository.rollback("tiny")
    assert repository.resolve("tiny") == ("tiny", 1)
    assert repository.versions("tiny") == [1, 2, 3], "nothing is deleted"


def test_set_default_refuses_what_is_not_there(repository: ModelRepository) -> None:
    publish_tiny(repository.root)
    for reference in (("x", None), ("tiny", 2)):
        with pytest.raises(ArtifactError):
            repository.set_default(*reference)
    assert not (repository.root / "repository.json").exists()


def test_settings_are_readable_by_others_and_written_whole(repository: ModelRepository) -> None:
    publish_tiny(repository.root)
    repository.set_default("tiny")
    repository.set_default("tiny", 1)
    path = repository.root / "repository.json"
    assert path.stat().st_mode & 0o777 == 0o644
    assert json.loads(path.read_text()) == {
        "default_model": "tiny",
        "default_versions": {"tiny": 1},
    }
    assert tree(repository.root)[:2] == [".lock", "repository.json"], "a temporary file was left"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "5",
        '{"default_versions": []}',
        '{"default_versions": {"tiny": "x"}}',
        '{"default_model": 5}',
        '{"default_model": ["tiny"]}',
        '{"default_versions": {"tiny": null}}',
    ],
)
def test_broken_settings(repository: ModelRepository, text: str) -> None:
    publish_tiny(repository.root)
    (repository.root / "repository.json").write_text(text)
    with pytest.raises(ArtifactError, match=r"repository.json: expected"):
        repository.resolve()


def test_no_repository(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="expected a folder of <name>/<version>/"):
        ModelRepository(tmp_path / "nowhere").names()


def test_empty_repository(repository: ModelRepository) -> None:
    assert repository.names() == []
    with pytest.raises(ArtifactError, match="got no models"):
        repository.resolve()
    with pytest.raises(ArtifactError, match="got no model in it"):
        repository.resolve("x")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("foveal.labels", '["bottom", "lower", "upper", "top"]'),
        ("foveal.name", "other"),
        ("foveal.version", "2"),
    ],
)
def test_the_graphs_own_name_version_and_labels_count(
    repository: ModelRepository, key: str, value: str
) -> None:
    """Labels reversed in ``model.json`` were served: the graph's metadata said otherwise."""
    model = tiny_model()
    own = {
        "foveal.labels": '["top", "upper", "lower", "bottom"]',
        "foveal.name": "tiny",
        "foveal.version": "1",
    }
    onnx.helper.set_model_props(model, own | {key: value})
    with pytest.raises(ArtifactError, match=f"expected metadata {key} as in model.json, .* got "):
        publish_tiny(repository.root, model=model)
    onnx.helper.set_model_props(model, own)
    assert publish_tiny(repository.root, model=model).version == 1
