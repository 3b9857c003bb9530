import hashlib
import json
import multiprocessing
import shutil
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from models.artifact import ArtifactError, ModelArtifact, TensorSpec
from models.repository import ModelRepository
from tests.tiny import build_tiny, publish_tiny, tiny_model


@pytest.fixture
def repository(tmp_path: Path) -> ModelRepository:
    root = tmp_path / "repository"
    root.mkdir()
    return ModelRepository(root)


def tree(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*"))


def rewrite_json(repository: ModelRepository, change: Callable[[dict], None]) -> None:  # type: ignore[type-arg]
    path = repository.path("tiny", 1) / "model.json"
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))


def publish_model(
    repository: ModelRepository, model: onnx.ModelProto, name: str = "tiny"
) -> ModelArtifact:
    return publish_tiny(repository.root, name, model)


# Publishing


def test_publish_numbers_versions(repository: ModelRepository) -> None:
    references = [publish_tiny(repository.root).reference for _ in range(3)]
    assert references == ["tiny:1", "tiny:2", "tiny:3"]
    assert repository.versions("tiny") == [1, 2, 3]
    assert repository.names() == ["tiny"]
    assert tree(repository.root / "tiny/3") == [
        "golden", *(f"golden/{i}.png" for i in range(8)), "model.json", "model.onnx",
    ]  # fmt: skip
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
        (lambda folder: (folder / "model.onnx").write_bytes(b"other"), "sha256 is"),
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
    with pytest.raises(ArtifactError, match="expected tiny:1, got other:1"):
        repository.publish("tiny", lambda f, v: build_tiny(f, "other", v, tiny_model()))
    with pytest.raises(ArtifactError, match="expected tiny:1, got tiny:5"):
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
        published = list(
            pool.map(lambda _: repository.publish("tiny", build), range(publishers))
        )
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
        versions = sum(pool.map(_publish_some, [repository.root] * 3), [])
        pool.close()
        pool.join()
    assert sorted(versions) == list(range(1, 16))


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


# What can be wrong with a directory


def wrong_checksum(repository: ModelRepository) -> None:
    path = repository.path("tiny", 1) / "model.onnx"
    path.write_bytes(path.read_bytes() + b"\0")


def missing_model(repository: ModelRepository) -> None:
    (repository.path("tiny", 1) / "model.onnx").unlink()


def model_is_a_folder(repository: ModelRepository) -> None:
    missing_model(repository)
    (repository.path("tiny", 1) / "model.onnx").mkdir()


def missing_golden(repository: ModelRepository) -> None:
    (repository.path("tiny", 1) / "golden/5.png").unlink()


def wrong_golden(repository: ModelRepository) -> None:
    (repository.path("tiny", 1) / "golden/5.png").write_bytes(b"x")


def missing_json(repository: ModelRepository) -> None:
    (repository.path("tiny", 1) / "model.json").unlink()


def broken_json(repository: ModelRepository) -> None:
    (repository.path("tiny", 1) / "model.json").write_text('{"format": 1,')


def unknown_format(repository: ModelRepository) -> None:
    rewrite_json(repository, lambda d: d.update(format=2))


def label_too_many(repository: ModelRepository) -> None:
    rewrite_json(repository, lambda d: d["labels"].append("fifth"))


def renamed_version(repository: ModelRepository) -> None:
    shutil.copytree(repository.path("tiny", 1), repository.path("tiny", 2))
    shutil.rmtree(repository.path("tiny", 1))


WRONG = {
    wrong_checksum: r"model.onnx: sha256 is \w{12}…, model.json says \w{12}…; publish",
    missing_model: "model.onnx: expected a file, got No such file or directory; publish",
    model_is_a_folder: "model.onnx: expected a file, got Is a directory; publish",
    missing_golden: "golden/5.png: expected a file, got No such file",
    wrong_golden: "golden/5.png: sha256 is",
    missing_json: "model.json: expected a file, got No such file",
    broken_json: "model.json: expected JSON, got .*; publish it again",
    unknown_format: "model.json: expected format 1, got 2; publish",
    label_too_many: r"model.json: \$.outputs: expected .*for 5 labels",
    renamed_version: "expected tiny:2, got tiny:1; versions are not copied or renamed by hand",
}


@pytest.mark.parametrize("spoil", WRONG, ids=lambda spoil: str(spoil.__name__))
def test_wrong_directory(
    repository: ModelRepository, spoil: Callable[[ModelRepository], None]
) -> None:
    publish_tiny(repository.root)
    spoil(repository)
    (version,) = repository.versions("tiny")
    with pytest.raises(ArtifactError, match=WRONG[spoil]) as refused:
        repository.verify("tiny", version)
    assert str(repository.root) in str(refused.value)
    assert "\n" not in str(refused.value)


def test_renamed_model(repository: ModelRepository) -> None:
    publish_tiny(repository.root)
    (repository.root / "tiny").rename(repository.root / "other")
    with pytest.raises(ArtifactError, match="expected other:1, got tiny:1"):
        repository.load("other", 1)


def with_other_output_name() -> onnx.ModelProto:
    model = tiny_model()
    model.graph.output[1].name = "logits"
    model.graph.output[0].name = "probabilities"
    return model


def with_fixed_batch() -> onnx.ModelProto:
    model = tiny_model()
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    return model


def with_float_input() -> onnx.ModelProto:
    model = tiny_model()
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.FLOAT
    return model


def with_second_input() -> onnx.ModelProto:
    model = tiny_model()
    model.graph.input.append(onnx.helper.make_tensor_value_info("mask", TensorProto.BOOL, [1]))
    return model


def with_foreign_domain() -> onnx.ModelProto:
    model = tiny_model()
    model.opset_import.append(onnx.helper.make_opsetid("evil.corp", 1))
    return model


def with_external_data() -> onnx.ModelProto:
    model = tiny_model()
    tensor = onnx.numpy_helper.from_array(np.zeros(4096, np.float32), "weights")
    model.graph.initializer.append(tensor)
    onnx.external_data_helper.convert_model_to_external_data(model, location="weights.bin")
    for stored in model.graph.initializer:
        if stored.data_location == TensorProto.EXTERNAL:
            stored.ClearField("raw_data")
    return model


def without_graph() -> onnx.ModelProto:
    model = tiny_model()
    model.ClearField("graph")
    return model


GRAPHS = {
    with_other_output_name: "expected outputs logits FP32 .*, got probabilities FP32",
    with_fixed_batch: r"expected inputs images UINT8 \[-1, 8, 8, 1\], got images UINT8 \[1, 8, 8, 1\]",
    with_float_input: "got images FP32",
    with_second_input: r"got images UINT8 .*, mask BOOL \[1\]",
    with_foreign_domain: "expected standard operators, got domain 'evil.corp'",
    with_external_data: 'got external data for tensor "weights"; export with external_data=False',
    without_graph: "expected an ONNX model with a graph, found none; publish",
}


@pytest.mark.parametrize("make", GRAPHS, ids=lambda make: str(make.__name__))
def test_graph_that_the_contract_refuses(
    repository: ModelRepository, make: Callable[[], onnx.ModelProto]
) -> None:
    """Refused before it is published; and, had it got there, before a runtime sees it."""
    with pytest.raises(ArtifactError, match=GRAPHS[make]):
        publish_model(repository, make())
    assert tree(repository.root) == []
    artifact = publish_tiny(repository.root)
    content = make().SerializeToString()
    (repository.path("tiny", 1) / "model.onnx").write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    smuggled = replace(artifact, files=(replace(artifact.files[0], sha256=digest),))
    with pytest.raises(ArtifactError, match=GRAPHS[make]):
        repository.read_model(smuggled, "model.onnx")


def test_random_bytes_as_a_model(repository: ModelRepository) -> None:
    artifact = publish_tiny(repository.root)
    content = b"\xff" * 100
    (repository.path("tiny", 1) / "model.onnx").write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    smuggled = replace(artifact, files=(replace(artifact.files[0], sha256=digest),))
    with pytest.raises(ArtifactError, match="model.onnx: expected .*; publish the model again"):
        repository.read_model(smuggled, "model.onnx")


def test_tensor_specs_compare_as_expected() -> None:
    assert TensorSpec("a", "UINT8", (1,)) == TensorSpec("a", "UINT8", (1,))


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
        "default_model": "tiny", "default_versions": {"tiny": 1},
    }  # fmt: skip
    assert tree(repository.root)[0] == "repository.json", "a temporary file was left"


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "5", '{"default_versions": []}', '{"default_versions": {"tiny": "x"}}',
     '{"default_model": 5}', '{"default_model": ["tiny"]}', '{"default_versions": {"tiny": null}}'],
)  # fmt: skip
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
    with pytest.raises(ArtifactError, match='model "x": expected one of none'):
        repository.resolve("x")
