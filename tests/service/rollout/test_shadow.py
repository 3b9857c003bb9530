"""A shadow's run goes on, on its thread, while the loop retires the candidate or ends."""

import asyncio
import gc
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from models.repository import ModelRepository
from models.rollout import NO_ROLLOUT, Rollout, Share
from service.metrics.meters import Meters
from service.pipeline.classifier import Classifier
from service.pipeline.job import Batch, Job
from service.rollout.catalog import load_catalog
from service.rollout.loading import LoadOptions
from service.rollout.model_control import RETIRE_S, ModelControl
from service.rollout.shadow import SHADOW_ROWS, Shadows
from service.session.outputs import Outputs
from tests.tiny import publish_tiny, random_images

WAIT_S = 30.0


class Held:
    """A real session whose runs wait until they may begin."""

    def __init__(self, session: Any) -> None:
        self._session = session
        self.has_begun, self.may_run = threading.Event(), threading.Event()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    def run(self, images_NHWC: NDArray[np.uint8]) -> Outputs:
        self.has_begun.set()
        assert self.may_run.wait(WAIT_S)
        outputs: Outputs = self._session.run(images_NHWC)
        return outputs


class Stage:
    """A served version and its shadow, on a loop of the test's own."""

    def __init__(self, root: Path) -> None:
        loop = asyncio.get_running_loop()
        self.repository = ModelRepository(root)
        catalog = load_catalog(self.repository, "", 1, LoadOptions())
        self.control = ModelControl(
            self.repository,
            1,
            LoadOptions(),
            Meters(loop),
            catalog,
            lambda classifier: classifier.start(loop),
            token="",
        )
        for classifier in catalog:
            classifier.start(loop)
        self.shadows = Shadows(lambda: self.control.catalog, loop)
        self.served = catalog.defaults[catalog.default_model]
        self.candidate = catalog.shadows[self.served].classifier
        self.held = Held(self.candidate.session)
        self.candidate.session = self.held

    def observe(self, rows: int) -> None:
        """Show the shadow a batch that the served version has run."""
        images = random_images(rows)
        batch = Batch(rows, [(Job(images, 0.0), 0, rows)], 0.0)
        batch.outputs = self.served.session.run(images)
        self.shadows.observe_batch(self.served, batch)

    def close(self) -> None:
        self.held.may_run.set()
        self.shadows.close()
        self.control.close()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Version 1 serves, version 2 is its shadow, and only the newest version is kept besides."""
    root = tmp_path / "models"
    for _ in range(3):
        publish_tiny(root, tmp_path.name.lower().replace("_", "-")[:40].strip("-"))
    return root


@pytest.fixture
def name(root: Path) -> Iterator[str]:
    """The model, unlike that of other tests: metrics are the process's."""
    repository = ModelRepository(root)
    [name] = repository.names()
    repository.set_default(name, 1)
    repository.set_rollout(name, Rollout(shadow=Share(2, 1.0)))
    yield name


def counted(name: str, outcome: str) -> float:
    [family] = SHADOW_ROWS.collect()
    return sum(
        sample.value
        for sample in family.samples
        if sample.name.endswith("_total")
        and (sample.labels["model"], sample.labels["outcome"]) == (name, outcome)
    )


async def until(is_true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not is_true():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


def is_gone(classifier: "weakref.ref[Classifier]") -> bool:
    gc.collect()
    return classifier() is None


def test_a_candidate_that_is_retired_in_its_run_is_counted_and_then_freed(
    root: Path, name: str
) -> None:
    async def retire() -> None:
        stage = Stage(root)
        held = stage.held
        try:
            stage.observe(5)
            await until(held.has_begun.is_set)
            stage.repository.set_rollout(name, NO_ROLLOUT)
            await stage.control.poll()
            assert all(c.artifact.version != 2 for c in stage.control.catalog)
            candidate = weakref.ref(stage.candidate)
            del stage.candidate
            await asyncio.sleep(3 * RETIRE_S)
            stage.observe(5)  # nobody's any more
            held.may_run.set()
            await until(lambda: counted(name, "agreed") == 5)
            assert counted(name, "failed") == counted(name, "dropped") == 0
            await until(lambda: is_gone(candidate))
        finally:
            stage.close()

    asyncio.run(retire())


def test_rows_that_come_after_the_close_are_dropped(root: Path, name: str) -> None:
    async def close(errors: list[Any]) -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _loop, what: errors.append(what))
        stage = Stage(root)
        stage.observe(3)
        await until(stage.held.has_begun.is_set)
        stage.shadows.close()
        stage.held.may_run.set()
        await until(lambda: counted(name, "agreed") == 3)
        await until(lambda: not stage.shadows._is_busy)
        stage.observe(4)
        await until(lambda: counted(name, "dropped") == 4)
        stage.close()

    errors: list[Any] = []
    asyncio.run(close(errors))
    assert not errors
