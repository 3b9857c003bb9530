"""A device's one thread behind a queue: the next batch is staged while one runs."""

import asyncio
import threading
from concurrent.futures import Executor, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from models.repository import ModelRepository
from service.errors import ServiceError
from service.pipeline.batcher import Batcher
from service.pipeline.classifier import Classifier
from service.pipeline.job import Job, Runner
from service.pipeline.limits import BatchLimits, ServingLimits
from service.session.gpu.binding import STAGED
from service.session.outputs import Outputs
from service.session.plans import Plan
from service.session.session import Session
from tests.service.pipeline.callback_job import submit
from tests.tiny import publish_tiny, random_images, tiny_logits

LIMITS = ServingLimits(BatchLimits(max_batch_size=4))


class OneThreadSession(Session):
    """On the CPU's memory, but on one thread of its own, as on a GPU."""

    def __init__(self, content: bytes, plan: Plan) -> None:
        super().__init__(content, plan)
        self.thread = ThreadPoolExecutor(1, "device")
        self.names: set[str] = set()

    @property
    def executor(self) -> Executor:
        return self.thread

    def run_slot(self, slot, images_NHWC):  # type: ignore[no-untyped-def]
        self.names.add(threading.current_thread().name)
        return super().run_slot(slot, images_NHWC)


def test_every_request_is_answered_for_its_own_rows(tmp_path: Path) -> None:
    artifact = publish_tiny(tmp_path)
    content = ModelRepository(tmp_path).read_model(artifact, artifact.fp32.path)
    session = OneThreadSession(content, Plan(binding="graph", buckets=(1, 2, 4)))
    classifier = Classifier(artifact, [session], LIMITS, full_batch_s=0.0)
    assert not classifier.is_inline
    requests = [random_images(1 + seed % 6, seed) for seed in range(60)]

    async def main() -> list[Job]:
        loop = asyncio.get_running_loop()
        classifier.start(loop)
        answers: list[asyncio.Future[Job]] = [loop.create_future() for _ in requests]
        for number, (rows, answer) in enumerate(zip(requests, answers, strict=True)):
            # As one array, which is not copied by the queue, and as a list, which is.
            given = rows if number % 2 else list(rows)
            submit(classifier.batcher, given, loop.time() + 30, answer.set_result)
            if number % 7 == 0:
                await asyncio.sleep(0)
        jobs = [await answer for answer in answers]
        classifier.close()
        return jobs

    for rows, job in zip(requests, asyncio.run(main()), strict=True):
        parts = [
            batch.outputs.logits[first : first + count]
            for batch, first, count in job.parts
            if batch.outputs is not None
        ]
        np.testing.assert_array_equal(np.concatenate(parts), tiny_logits(rows))
    assert session.names == {"device_0"}  # which is the session's: closing a model leaves it
    assert session.thread.submit(int).result() == 0
    session.thread.shutdown()


@pytest.mark.parametrize("fails", [False, True])
def test_a_batch_is_staged_before_it_runs_and_while_another_does(fails: bool) -> None:
    running, go_on = threading.Event(), threading.Event()
    events: list[tuple[str, int]] = []

    def runner() -> Runner:
        def stage(images: NDArray[np.uint8]) -> None:
            events.append(("stage", int(images[0, 0, 0, 0])))
            if fails and images[0, 0, 0, 0] == 2:
                raise RuntimeError("no memory")

        def run(images: NDArray[np.uint8]) -> Outputs:
            events.append(("run", int(images[0, 0, 0, 0])))
            running.set()
            assert go_on.wait(10)
            zeros = np.zeros((len(images), 4), np.float32)
            return Outputs(zeros, zeros)

        return Runner(run, np.zeros((4, 8, 8, 1), np.uint8), stage)

    async def main() -> list[ServiceError | None]:
        loop = asyncio.get_running_loop()
        with ThreadPoolExecutor(1) as thread:
            batcher = Batcher(
                [runner() for _ in range(STAGED)], BatchLimits(4), loop=loop, executor=thread
            )
            answers: list[asyncio.Future[Job]] = []
            for number in (1, 2, 3):
                answers.append(loop.create_future())
                rows = np.full((1, 8, 8, 1), number, np.uint8)
                submit(batcher, list(rows), loop.time() + 30, answers[-1].set_result)
                if number == 1:
                    assert await loop.run_in_executor(None, running.wait, 10)
                await asyncio.sleep(0.01)
            go_on.set()
            errors = [(await answer).error for answer in answers]
            assert batcher.is_idle
            batcher.close()
            return errors

    errors = asyncio.run(main())
    assert events[:3] == [("stage", 1), ("run", 1), ("stage", 2)]  # 2 waits ready while 1 runs
    assert ("run", 3) in events
    assert [error is not None for error in errors] == [False, fails, False]
