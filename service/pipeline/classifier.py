"""A loaded version of a model, as protocols hold it.

``Classifier`` joins decode, queue, run and postprocess of one version. Knows no HTTP: protocols
pass bytes or arrays and a callback.
"""

import functools
import math
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import AbstractContextManager
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from models.artifact import ModelArtifact
from models.image import (
    ImageError,
    ImageTooLargeError,
    Pixels,
    TooManyPixelsError,
    decode_sized,
    decoding_of,
    is_light,
    work,
)
from models.labels import distinct_names
from models.repository import Fingerprint
from models.resample import RESAMPLER
from models.tuned import Tuning
from service.errors import (
    DecodeError,
    NotReadyError,
    TooLargeError,
)
from service.inflight import Inflight
from service.pipeline.admission import Admission
from service.pipeline.alarm import Loop
from service.pipeline.batcher import Batcher
from service.pipeline.card_lane import Card
from service.pipeline.job import Batch, Runner
from service.pipeline.limits import ServingLimits
from service.pipeline.postprocess import Postprocessor
from service.session.outputs import Outputs
from service.session.plans import Asked, Plan

# A batch this short runs on the event loop itself: the hand-over to a thread costs more than it
# frees. Measured: 16-30 % more requests/s for runs of 1 ms; at 45 ms new connections starve.
INLINE_RUN_S = 0.002


class Session(Protocol):
    """What the pipeline needs of a session, and what is shown of it; see ``service.session``."""

    plan: Plan
    asked: Asked
    fallback: str
    cpu_nodes: tuple[str, ...]
    memory_bytes: int

    @property
    def executor(self) -> Executor | None:
        """Return the thread that all runs must be on; None: any."""

    @property
    def slots(self) -> Sequence[Any]:
        """Return the buffers that batches are put together in; empty if runs are not bound."""

    @property
    def rows_now(self) -> Sequence[int]:
        """Return how many of 0, 1, 2, … waiting rows are best run now; empty: always all."""

    @property
    def padded_rows(self) -> int:
        """Return how many rows were run only to fill batches up to their buckets."""

    def run(self, images_NHWC: NDArray[np.uint8]) -> Outputs:
        """Classify one batch, uint8 [N, H, W, C]."""

    def run_slot(self, slot: Any, images_NHWC: NDArray[np.uint8]) -> Outputs:
        """Classify one batch of a slot, on the executor's thread."""

    def stage_slot(self, slot: Any, images_NHWC: NDArray[np.uint8]) -> None:
        """Begin to upload the batch of a slot that is run next."""


class Brownout(NamedTuple):
    """The sessions that take the place of others in a brownout.

    Attributes:
        sessions: Warm sessions on a file of lower precision, as many as the others.
        full_batch_s: Seconds that the first takes for a full batch.
    """

    sessions: Sequence[Session]
    full_batch_s: float


class Classifier:
    """One version of a model, loaded, self-tested and warm.

    ``rollout.loading`` makes it; call ``start`` on the event loop's thread before the first
    request.

    Args:
        artifact: The version.
        sessions: Warm sessions on one plan, at least one; instances share them in turn.
        limits: Bounds.
        full_batch_s: Seconds that the first session takes for a full batch.
        fingerprint: Of the files that it was loaded from.
        tuned: Tuning that it follows; None: none.
        brownout: What runs in a brownout; None: there is none.
        card: What decodes its JPEGs on a card; None: the CPU decodes all images.

    Attributes:
        session: The first session.
        postprocessor: Turns its outputs into predictions.
    """

    def __init__(  # noqa: PLR0913 - wiring, called in one place
        self,
        artifact: ModelArtifact,
        sessions: Sequence[Session],
        limits: ServingLimits,
        *,
        full_batch_s: float,
        fingerprint: Fingerprint = (),
        tuned: Tuning | None = None,
        brownout: Brownout | None = None,
        card: Card | None = None,
    ) -> None:
        self.card = card
        self.artifact = artifact
        self.sessions = sessions
        self.session = sessions[0]
        self.limits = limits
        self.full_batch_s = full_batch_s
        self.fingerprint = fingerprint
        self._decoding = decoding_of(artifact.image)
        self.tuned = tuned
        self.brownout = brownout
        threshold = artifact.abstain.threshold if artifact.abstain else None
        self.postprocessor = Postprocessor(artifact.labels, threshold, artifact.thresholds)
        self._executor: Executor | None = None
        self._batcher: Batcher | None = None

    @property
    def is_inline(self) -> bool:
        """Whether batches run on the event loop's own thread."""
        if self.session.executor is not None:
            return False
        return self.limits.instances == 1 and self.full_batch_s <= INLINE_RUN_S

    @property
    def names(self) -> tuple[str, ...]:
        """Return the labels for texts: all different, ``crane (517)`` where two are equal."""
        return distinct_names(self.artifact.labels)

    @property
    def resampler(self) -> str:
        """Return what resizes images: ``avx2`` or ``plain`` compiled code, or ``pillow``."""
        return RESAMPLER

    @property
    def fallback(self) -> str:
        """Return why the CPU runs it although a GPU is here; empty if it does not."""
        return self.session.fallback

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
        inflight: Inflight | None = None,
    ) -> None:
        """Open the queue on an event loop.

        Args:
            loop: The loop that all requests arrive on.
            observe: Called after each run with this classifier and the batch.
            answering: Entered while the jobs of one run are done.
            newcomers: Returns the number of connections so far; see ``Batcher``.
            inflight: Budget for the bytes of waiting rows; see ``Batcher``.
        """
        executor = self.session.executor
        if executor is None and not self.is_inline:
            name = f"run-{self.artifact.name}"
            executor = self._executor = ThreadPoolExecutor(self.limits.instances, name)
        runners = self._runners()
        self._batcher = Batcher(
            runners,
            self.limits.batch,
            loop=loop,
            executor=executor,
            observe=None if observe is None else lambda batch: observe(self, batch),
            answering=answering,
            newcomers=newcomers,
            inflight=inflight,
            rows_now=self.session.rows_now,
            admission=Admission(
                self.limits.batch,
                len(runners),
                self.full_batch_s,
                self.brownout.full_batch_s if self.brownout else None,
            ),
        )

    def close(self) -> None:
        """Refuse new work; runs that have begun finish."""
        if self._batcher is not None:
            self._batcher.close()
        if self._executor is not None:
            self._executor.shutdown(wait=False)

    def release(self) -> None:
        """Drop the closed queue, which refers back: the collector skips objects frozen at start."""
        self._batcher = None

    def decode(self, encoded: bytes) -> Pixels:
        """Decode one image to a row of this model; may be called from any thread.

        Returns:
            uint8 [H, W, C], 0-255.

        Raises:
            TooLargeError: The image has more than ``max_image_pixels``.
            DecodeError: The bytes are no image, or a truncated or corrupt one.
        """
        self.pixels(encoded)
        return self.decode_sized(encoded)

    # Whether an image of few bytes may be measured and decoded on the event loop.
    is_light = staticmethod(is_light)

    @property
    def resized_pixels(self) -> int:
        """Return the pixels that every image has after its resize, or after the crop if more."""
        spec = self.artifact.image
        return max(math.prod(spec.resized), spec.height * spec.width)

    def pixels(self, encoded: bytes) -> int:
        """Return the pixels that decoding an image holds in memory, read from its header.

        Raises:
            TooLargeError: The image has more than ``max_image_pixels``, or would take minutes.
            DecodeError: The bytes are no image of a known format.
        """
        try:
            return work(encoded, self._decoding, self.limits.max_image_pixels)
        except TooManyPixelsError as error:
            raise TooLargeError(f"{error}; send less or raise FOVEAL_MAX_IMAGE_PIXELS") from None
        except ImageTooLargeError as error:
            raise TooLargeError(str(error)) from None
        except ImageError as error:
            raise DecodeError(str(error)) from None

    def decode_sized(self, encoded: bytes) -> Pixels:
        """Decode one image that ``pixels`` has accepted; see ``decode``."""
        try:
            return decode_sized(encoded, self.artifact.image, self._decoding)
        except ImageTooLargeError as error:
            raise TooLargeError(str(error)) from None
        except ImageError as error:
            raise DecodeError(str(error)) from None

    def _runners(self) -> list[Runner]:
        """Return the runners: the slots of a bound session, else one for each instance."""
        session, instances = self.session, self.limits.instances
        lower = self.brownout.sessions if self.brownout else ()
        if session.slots and (session.executor is not None or instances == 1):
            # On a GPU one batch is assembled and uploaded while another runs.
            slots = session.slots if session.executor is not None else session.slots[:1]
            return [
                Runner(
                    functools.partial(session.run_slot, slot),
                    slot.images,
                    functools.partial(session.stage_slot, slot),
                    lower[0].run if lower else None,
                )
                for slot in slots
            ]
        shape = self.limits.batch.max_batch_size, *self.artifact.image.shape_HWC
        return [
            Runner(
                self.sessions[i % len(self.sessions)].run,
                np.empty(shape, np.uint8),
                run_lower=lower[i % len(lower)].run if lower else None,
            )
            for i in range(instances)
        ]
