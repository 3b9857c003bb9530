import asyncio
import hashlib
import json
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from models.artifact import ArtifactError, ModelArtifact
from models.image import encode_png
from models.repository import ModelRepository
from service.errors import DecodeError, ModelNotFoundError, NotReadyError, TooLargeError
from service.pipeline.classifier import load
from service.pipeline.job import BatchLimits, Job
from service.pipeline.limits import ServingLimits
from service.rollout.catalog import Catalog, load_catalog
from tests.service.pipeline.simulator import FakeLoop
from tests.tiny import build_tiny, publish_tiny, random_images, tiny_logits, tiny_model

LIMITS = ServingLimits(BatchLimits(max_batch_size=4))


@pytest.fixture
def repository(tmp_path: Path) -> ModelRepository:
    root = tmp_path / "repository"
    root.mkdir()
    return ModelRepository(root)


def publish(
    repository: ModelRepository, change: Callable[[ModelArtifact, Path], ModelArtifact]
) -> ModelArtifact:
    """Publish a tiny model after a change to it."""
    return repository.publish(
        "tiny", lambda folder, v: change(build_tiny(folder, "tiny", v, tiny_model()), folder)
    )


# Loading


def test_loads_and_runs(repository: ModelRepository) -> None:
    publish_tiny(repository.root)
    classifier = load(repository, "tiny", 1, LIMITS)
    images = random_images(3)
    np.testing.assert_array_equal(classifier.session.run(images).logits, tiny_logits(images))
    assert classifier.full_batch_s > 0


def test_self_test_refuses_another_answer(repository: ModelRepository) -> None:
    """The files are whole, the graph is the contract's; only what it computes is wrong."""
    publish_tiny(repository.root, model=tiny_model(gain=1.001))
    with pytest.raises(ArtifactError, match=r"tiny:1: golden image golden/\d.png: .*difference"):
        load(repository, "tiny", 1, LIMITS)


def test_self_test_refuses_a_nan(repository: ModelRepository) -> None:
    publish_tiny(repository.root, model=tiny_model(gain=float("nan")))
    with pytest.raises(ArtifactError, match="difference of nan"):
        load(repository, "tiny", 1, LIMITS)


def test_self_test_reads_every_golden_image(repository: ModelRepository) -> None:
    def spoil_last(artifact: ModelArtifact, _folder: Path) -> ModelArtifact:
        golden = artifact.golden[-1]
        wrong = replace(golden, probabilities=tuple(reversed(golden.probabilities)))
        return replace(artifact, golden=(*artifact.golden[:-1], wrong))

    publish(repository, spoil_last)
    with pytest.raises(ArtifactError, match=r"golden/7.png"):
        load(repository, "tiny", 1, LIMITS)


def test_model_that_onnxruntime_refuses_is_refused_with_its_reason(
    repository: ModelRepository,
) -> None:
    def break_graph(artifact: ModelArtifact, folder: Path) -> ModelArtifact:
        model = tiny_model()
        model.graph.node[0].op_type = "NoSuchOperator"
        content = model.SerializeToString()
        (folder / "model.onnx").write_bytes(content)
        digest = hashlib.sha256(content).hexdigest()
        return replace(artifact, files=(replace(artifact.files[0], sha256=digest),))

    publish(repository, break_graph)
    publish_tiny(repository.root, "well")
    catalog = load_catalog(repository, "", 2, LIMITS)
    assert "NoSuchOperator" in catalog.refused["tiny:1"]
    assert catalog.find("well").artifact.reference == "well:1"


def test_fp32_is_what_runs_whatever_the_order_of_the_files(repository: ModelRepository) -> None:
    """The plan says fp32; another precision listed first must not be loaded in its place."""

    def add_int8(artifact: ModelArtifact, folder: Path) -> ModelArtifact:
        content = tiny_model(gain=3).SerializeToString()
        (folder / "model.int8.onnx").write_bytes(content)
        int8 = replace(
            artifact.files[0],
            path="model.int8.onnx",
            precision="int8",
            sha256=hashlib.sha256(content).hexdigest(),
            size_bytes=len(content),
        )
        return replace(artifact, files=(int8, *artifact.files))

    publish(repository, add_int8)
    classifier = load(repository, "tiny", 1, LIMITS)
    images = random_images(1)
    np.testing.assert_array_equal(classifier.session.run(images).logits, tiny_logits(images))


# Where batches run


@pytest.mark.parametrize("full_batch_s", [0.0001, 1.0])
def test_runs_on_the_loop_if_short_else_on_a_thread(
    repository: ModelRepository, full_batch_s: float
) -> None:
    publish_tiny(repository.root)
    classifier = load(repository, "tiny", 1, LIMITS)
    classifier.full_batch_s = full_batch_s
    names: list[str] = []
    run = classifier.session.run
    images = random_images(9)

    async def main() -> list[Job]:
        def noting(batch: NDArray[np.uint8]) -> object:
            names.append(threading.current_thread().name)
            return run(batch)

        classifier.session.run = noting  # type: ignore[method-assign,assignment]
        loop = asyncio.get_running_loop()
        classifier.start(loop)
        assert classifier.is_inline == (full_batch_s < 0.01)
        answers: list[asyncio.Future[Job]] = [loop.create_future() for _ in images]
        for image, answer in zip(images, answers, strict=True):
            classifier.batcher.submit([image], loop.time() + 30, answer.set_result)
        done = [await answer for answer in answers]
        classifier.close()
        return done

    jobs = asyncio.run(main())
    for job, image in zip(jobs, images, strict=True):
        batch, first, count = job.parts[0]
        assert batch.outputs is not None
        assert count == 1
        np.testing.assert_array_equal(batch.outputs.logits[first], tiny_logits(image[None])[0])
    assert len(names) == 3
    expected = threading.main_thread().name if classifier.is_inline else "run-tiny_0"
    assert set(names) == {expected}


@pytest.mark.parametrize("threads", [1, 2])
def test_instances_run_at_once(repository: ModelRepository, threads: int) -> None:
    """Each run waits for the other: one at a time would never end."""
    publish_tiny(repository.root)
    limits = replace(LIMITS, instances=2, threads=threads)
    classifier = load(repository, "tiny", 1, limits)
    assert not classifier.is_inline
    meeting = threading.Barrier(2, timeout=10)
    images = random_images(8)

    def meet(run: Callable[[NDArray[np.uint8]], object]) -> object:
        def running(batch: NDArray[np.uint8]) -> object:
            meeting.wait()
            return run(batch)

        return running

    sessions = {id(s): s for s in classifier.sessions}
    assert len(sessions) == threads, "a session's own threads serve one run at a time"
    for session in sessions.values():
        session.run = meet(session.run)  # type: ignore[method-assign,assignment]

    async def main() -> list[Job]:
        loop = asyncio.get_running_loop()
        classifier.start(loop)
        answers: list[asyncio.Future[Job]] = [loop.create_future() for _ in images]
        for image, answer in zip(images, answers, strict=True):
            classifier.batcher.submit([image], loop.time() + 30, answer.set_result)
        done = [await answer for answer in answers]
        classifier.close()
        return done

    for job, image in zip(asyncio.run(main()), images, strict=True):
        batch, first, _ = job.parts[0]
        assert batch.outputs is not None
        np.testing.assert_array_equal(batch.outputs.logits[first], tiny_logits(image[None])[0])


def test_only_a_started_classifier_takes_rows(repository: ModelRepository) -> None:
    publish_tiny(repository.root)
    classifier = load(repository, "tiny", 1, LIMITS)
    with pytest.raises(NotReadyError, match="tiny:1"):
        classifier.batcher.submit([random_images(1)[0]], 0, lambda _job: None)
    classifier.start(FakeLoop())
    classifier.close()
    with pytest.raises(NotReadyError):
        classifier.batcher.submit([random_images(1)[0]], 0, lambda _job: None)


def test_decode_errors_are_the_services(repository: ModelRepository) -> None:
    publish_tiny(repository.root)
    classifier = load(repository, "tiny", 1, replace(LIMITS, max_image_pixels=100))
    image = random_images(1)[0]
    np.testing.assert_array_equal(classifier.decode(encode_png(image)), image)
    with pytest.raises(TooLargeError):
        classifier.decode(encode_png(np.zeros((11, 11, 1), np.uint8)))
    with pytest.raises(DecodeError):
        classifier.decode(b"no image")


# The catalog


@pytest.fixture
def catalog(repository: ModelRepository) -> Catalog:
    """a:1 a:2 (pinned to 1), b:1 b:2 b:3 (the newest two), c:1 broken, d:1 well d:2 broken."""
    for name, versions in (("a", 2), ("b", 3), ("c", 1), ("d", 2)):
        for _ in range(versions):
            publish_tiny(repository.root, name)
    repository.set_default("a", 1)
    for version in ("c/1", "d/2"):
        (repository.root / version / "model.onnx").write_bytes(b"broken")
    return load_catalog(repository, "b", 2, LIMITS)


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
    catalog = load_catalog(repository, "", 1, LIMITS)
    assert sorted(c.artifact.version for c in catalog) == [1, 4]
    assert catalog.find().artifact.version == 1


def test_repository_without_a_default_model(repository: ModelRepository) -> None:
    publish_tiny(repository.root, "a")
    publish_tiny(repository.root, "b")
    catalog = load_catalog(repository, "", 1, LIMITS)
    assert catalog.find("a").artifact.name == "a"
    with pytest.raises(ModelNotFoundError, match="no default model; name one of a:1, b:1"):
        catalog.find()


def test_empty_repository(repository: ModelRepository) -> None:
    catalog = load_catalog(repository, "", 1, LIMITS)
    with pytest.raises(ModelNotFoundError, match="none"):
        catalog.find()
    assert list(catalog) == []


def test_unknown_default_model(repository: ModelRepository) -> None:
    publish_tiny(repository.root)
    with pytest.raises(ArtifactError, match="FOVEAL_DEFAULT_MODEL: expected one of tiny, got 'x'"):
        load_catalog(repository, "x", 1, LIMITS)


def test_pin_to_a_version_that_is_gone_does_not_take_all_models_down(
    repository: ModelRepository,
) -> None:
    publish_tiny(repository.root, "a")
    publish_tiny(repository.root, "b")
    path = repository.root / "repository.json"
    path.write_text(json.dumps({"default_model": "b", "default_versions": {"a": 7}}))
    catalog = load_catalog(repository, "", 1, LIMITS)
    assert catalog.find("b").artifact.reference == "b:1"
    assert any("7" in why for why in catalog.refused.values())


def test_no_repository(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="expected a folder"):
        load_catalog(ModelRepository(tmp_path / "nowhere"), "", 1, LIMITS)


def test_graph_is_checked_by_onnx_itself() -> None:
    onnx.checker.check_model(tiny_model(), full_check=True)
