"""A loaded model, as every protocol holds it.

``Classifier`` puts decode, queue, run and postprocess of one version together. No HTTP: protocols
give bytes or arrays and a callback.
"""

import functools
import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import AbstractContextManager

import numpy as np

from models.artifact import ModelArtifact
from models.image import ImageError, Pixels, decode_sized, read_size
from models.repository import Fingerprint, ModelRepository
from service.errors import (
    DecodeError,
    NotReadyError,
    TooLargeError,
)
from service.pipeline.alarm import Loop
from service.pipeline.batcher import Batcher
from service.pipeline.job import Batch, Runner
from service.pipeline.limits import ServingLimits
from service.pipeline.postprocess import Postprocessor
from service.session.planning import best_of, open_again, open_best
from service.session.session import Session
from service.session.tuned import follow_plan

logger = logging.getLogger("foveal.classifier")

# A batch this short runs on the event loop itself: handing it to a thread costs more than it frees.
# Measured for the prototype: 16-30 % more requests/s for 1 ms runs; at 45 ms newcomers starve.
INLINE_RUN_S = 0.002


class Classifier:
    """One version of a model, loaded, self-tested and warm.

    Build it with ``load``; call ``start`` on the event loop's thread before the first request.

    Attributes:
        artifact: What it is.
        fingerprint: Of the files that it was loaded from.
        session: What runs it.
        sessions: That one, and those that run it beside it.
        limits: What bounds it.
    """

    def __init__(
        self,
        artifact: ModelArtifact,
        session: Session,
        limits: ServingLimits,
        fingerprint: Fingerprint = (),
        others: Sequence[Session] = (),
    ) -> None:
        self.artifact = artifact
        self.fingerprint = fingerprint
        self.session = session
        self.sessions = (session, *others)
        self.limits = limits
        threshold = artifact.abstain.threshold if artifact.abstain else None
        self.postprocessor = Postprocessor(artifact.labels, threshold)
        self.full_batch_s = self._warm_up()
        self._executor: Executor | None = None
        self._batcher: Batcher | None = None

    @property
    def is_inline(self) -> bool:
        """Whether batches run on the event loop's own thread."""
        if self.session.executor is not None:
            return False
        return self.limits.instances == 1 and self.full_batch_s <= INLINE_RUN_S

    @property
    def fallback(self) -> str:
        """Return why the CPU runs what a GPU that is here should; empty where that is not so."""
        found = self.limits.device.found
        return found.reason if found.is_fallback else self.session.fallback

    @property
    def batcher(self) -> Batcher:
        """Return the queue; only a started classifier has one."""
        if self._batcher is None:
            raise NotReadyError(f'model "{self.artifact.reference}" is not started; retry')
        return self._batcher

    def start(
        self,
        loop: Loop,
        observe: Callable[["Classifier", Batch], None] | None = None,
        answering: AbstractContextManager[None] | None = None,
        newcomers: Callable[[], int] = lambda: 0,
    ) -> None:
        """Open the queue on an event loop.

        Args:
            loop: The loop that all requests arrive on.
            observe: Called after each run with this classifier and the batch.
            answering: Entered while the jobs of one run are done.
            newcomers: Clients so far; see ``Batcher``.
        """
        executor = self.session.executor
        if executor is None and not self.is_inline:
            name = f"run-{self.artifact.name}"
            executor = self._executor = ThreadPoolExecutor(self.limits.instances, name)
        self._batcher = Batcher(
            self._runners(),
            self.limits.batch,
            loop=loop,
            executor=executor,
            observe=None if observe is None else lambda batch: observe(self, batch),
            answering=answering,
            newcomers=newcomers,
        )

    def close(self) -> None:
        """Refuse new work and let the runs that are out finish."""
        if self._batcher is not None:
            self._batcher.close()
        if self._executor is not None:
            self._executor.shutdown(wait=False)

    def release(self) -> None:
        """Let go of the closed queue, which refers back: frozen objects are never collected."""
        self._batcher = None

    def decode(self, encoded: bytes) -> Pixels:
        """Decode one image to a row of this model; may be called from any thread.

        Returns:
            uint8 [H, W, C], 0-255.

        Raises:
            TooLargeError: More pixels than the service takes.
            DecodeError: No image, or a truncated or corrupt one.
        """
        self.pixels(encoded)
        return self.decode_sized(encoded)

    def pixels(self, encoded: bytes) -> int:
        """Read from the header how many pixels an image has, and refuse what is not decoded.

        Raises:
            TooLargeError: More pixels than the service takes.
            DecodeError: No image, or none of the formats.
        """
        try:
            width, height = read_size(encoded)
        except ImageError as error:
            raise DecodeError(str(error)) from None
        if width * height > self.limits.max_image_pixels:
            raise TooLargeError(
                f"image: expected at most {self.limits.max_image_pixels} pixels, "
                f"got {width} x {height}"
            )
        return width * height

    def decode_sized(self, encoded: bytes) -> Pixels:
        """Decode one image that ``pixels`` has let through; see ``decode``."""
        try:
            return decode_sized(encoded, self.artifact.image)
        except ImageError as error:
            raise DecodeError(str(error)) from None

    def _runners(self) -> list[Runner]:
        """Return what runs batches: a bound session's slots, else one for each instance."""
        session, instances = self.session, self.limits.instances
        if session.slots and (session.executor is not None or instances == 1):
            # On a GPU one batch is put together and uploaded while another runs.
            slots = session.slots if session.executor is not None else session.slots[:1]
            return [
                Runner(functools.partial(session.run_slot, slot), slot.images, slot.stage)
                for slot in slots
            ]
        shape = self.limits.batch.max_batch_size, *self.artifact.image.shape_HWC
        return [
            Runner(self.sessions[i % len(self.sessions)].run, np.empty(shape, np.uint8))
            for i in range(instances)
        ]

    def _warm_up(self) -> float:
        """Run every size class once and return the seconds of a full batch (best of three)."""
        size = self.limits.batch.max_batch_size
        images = np.zeros((size, *self.artifact.image.shape_HWC), np.uint8)
        for session in self.sessions:
            for rows in (1, 2, size):
                session.run(images[:rows])
        return best_of(self.session, images, 3)


def load(repository: ModelRepository, name: str, version: int, limits: ServingLimits) -> Classifier:
    """Load a version: verify it, choose how it runs, replay its golden images, warm it up.

    Args:
        repository: Where it lies.
        name: The model's.
        version: Its number.
        limits: What was set; the version's own plan decides the rest.

    Raises:
        ArtifactError: The files break the contract, or a golden image gets another answer.
        ServiceError: onnxruntime refuses the model.
    """
    started = time.perf_counter()
    fingerprint = repository.fingerprint(name, version)  # before: a change meanwhile is seen later
    artifact = repository.verify(name, version)
    limits = follow_plan(repository, artifact, limits)
    session = open_best(repository, artifact, limits.plan)
    # Threads of its own are a session's: runs at once would share them. A run on one thread is
    # on its caller's, and one session serves them all.
    others = limits.instances - 1 if session.plan.threads > 1 else 0
    classifier = Classifier(
        artifact,
        session,
        limits,
        fingerprint,
        [open_again(repository, artifact, session) for _ in range(others)],
    )
    logger.info(
        "%s ready in %.0f ms: %s, %s, %d x %d threads, full batch of %d in %.2f ms, runs on the "
        "%s%s",
        artifact.reference,
        (time.perf_counter() - started) * 1e3,
        session.plan.device,
        session.plan.precision,
        limits.instances,
        session.plan.threads,
        limits.batch.max_batch_size,
        classifier.full_batch_s * 1e3,
        "loop" if classifier.is_inline else "session's thread",
        f", as tuned on {limits.tuned.date}" if limits.tuned else "",
    )
    return classifier
