import asyncio
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from models.artifact import Resize
from models.image import encode_png
from models.repository import ModelRepository
from service.errors import DecodeError, NotReadyError, TooLargeError
from service.pipeline.job import Job
from service.pipeline.limits import BatchLimits
from service.rollout.loading import LoadOptions, load
from tests.service.pipeline.callback_job import submit
from tests.service.pipeline.simulator import FakeLoop
from tests.tiny import publish_tiny, random_images, tiny_logits

OPTIONS = LoadOptions(BatchLimits(max_batch_size=4, max_wait_s=10))


@pytest.fixture
def repository(tmp_path: Path) -> ModelRepository:
    root = tmp_path / "repository"
    root.mkdir()
    return ModelRepository(root)


@pytest.mark.parametrize("full_batch_s", [0.0001, 1.0])
def test_runs_on_the_loop_if_short_else_on_a_thread(
    repository: ModelRepository, full_batch_s: float
) -> None:
    publish_tiny(repository.root)
    classifier = load(repository, "tiny", 1, OPTIONS)
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
            submit(classifier.batcher, [image], loop.time() + 30, answer.set_result)
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
    options = replace(OPTIONS, instances=2, threads=threads)
    classifier = load(repository, "tiny", 1, options)
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
            submit(classifier.batcher, [image], loop.time() + 30, answer.set_result)
        done = [await answer for answer in answers]
        classifier.close()
        return done

    for job, image in zip(asyncio.run(main()), images, strict=True):
        batch, first, _ = job.parts[0]
        assert batch.outputs is not None
        np.testing.assert_array_equal(batch.outputs.logits[first], tiny_logits(image[None])[0])


def test_only_a_started_classifier_takes_rows(repository: ModelRepository) -> None:
    publish_tiny(repository.root)
    classifier = load(repository, "tiny", 1, OPTIONS)
    with pytest.raises(NotReadyError, match="tiny:1"):
        submit(classifier.batcher, [random_images(1)[0]], 0, lambda _job: None)
    classifier.start(FakeLoop())
    classifier.close()
    with pytest.raises(NotReadyError):
        submit(classifier.batcher, [random_images(1)[0]], 0, lambda _job: None)


def test_decode_errors_are_the_services(repository: ModelRepository) -> None:
    publish_tiny(repository.root)
    classifier = load(repository, "tiny", 1, replace(OPTIONS, max_image_pixels=100))
    image = random_images(1)[0]
    np.testing.assert_array_equal(classifier.decode(encode_png(image)), image)
    with pytest.raises(TooLargeError):
        classifier.decode(encode_png(np.zeros((11, 11, 1), np.uint8)))
    with pytest.raises(DecodeError):
        classifier.decode(b"no image")


def test_resized_pixels_are_those_of_the_larger_step(repository: ModelRepository) -> None:
    publish_tiny(repository.root)
    classifier = load(repository, "tiny", 1, OPTIONS)
    spec = classifier.artifact.image
    assert classifier.resized_pixels == 64
    for resize, pixels in [(Resize(height=600, width=500), 300_000), (None, 64)]:
        image = replace(spec, resize=resize)
        classifier.artifact = replace(classifier.artifact, image=image)
        assert classifier.resized_pixels == pixels
