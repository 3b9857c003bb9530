"""Choose the requests that are recorded, and hand them to the writer: the event loop's part.

    answer -> chosen at random, at its model's share -> (uncertain rows only) -> the writer's queue

A request that is not chosen costs its protocol one subtraction; nothing where a model's share is 0.
"""

import logging
import math
import random
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from models.artifact import ModelArtifact
from service.errors import ServiceError
from service.pipeline.job import Job
from service.record.asked import Asked, needs_pixels, uncertain_rows
from service.record.writer import Bounds, Writer

logger = logging.getLogger("foveal.record")

# Requests that wait for the shadow's opinion: it answers within a run, or never.
_WAITING = 256


@dataclass(frozen=True, slots=True)
class Choice:
    """What is recorded.

    Attributes:
        share: Of the requests, 0 to 1; models may have their own.
        is_uncertain: Whether only rows are kept that are low in confidence, from which the model
            abstained, or that the shadow answers differently.
        below: Confidence below which a row is low.
    """

    share: float = 0.0
    is_uncertain: bool = False
    below: float = 0.6


class Recorder:
    """Records the requests of one process.

    Args:
        choice: What is recorded.
        bounds: What the recording may take.

    Attributes:
        shares: Shares of models that have their own, by name.
        on_change: Called when they have changed: what ``of`` returned holds for no longer.
    """

    def __init__(self, choice: Choice, bounds: Bounds) -> None:
        self.choice = choice
        self.bounds = bounds
        self.shares: Mapping[str, float] = {}
        self.on_change: Callable[[], None] = lambda: None
        self._writer: Writer | None = None
        self._waiting: OrderedDict[int, tuple[Job, Asked]] = OrderedDict()

    def of(
        self, artifact: ModelArtifact, precision: str, *, has_shadow: bool = False
    ) -> "Recording | None":
        """Return what records the requests of a version; None if its share is 0.

        Args:
            artifact: The version.
            precision: That its plan runs.
            has_shadow: Whether its rows may be compared with a shadow's.
        """
        share = self.shares.get(artifact.name, self.choice.share)
        return Recording(self, artifact, precision, share, has_shadow) if share else None

    def follow(self, shares: Mapping[str, float]) -> None:
        """Take the shares that the repository has now."""
        if shares != self.shares:
            self.shares = shares
            self.on_change()

    def put(self, asked: Asked, job: Job | None, *, has_shadow: bool) -> None:
        """Record a request, or those of its rows that are uncertain."""
        rows = None
        if self.choice.is_uncertain:
            if asked.probabilities_NK is None:
                return
            rows = uncertain_rows(asked.artifact, asked.probabilities_NK, self.choice.below)
            if not rows:
                if has_shadow and job is not None:
                    self._wait(job, asked)
                return
        self._write(asked, rows)

    def differs(self, job: Job, version: int, rows: frozenset[int]) -> None:
        """Record what waited for the shadow: it answered some rows of a job differently.

        Args:
            job: The rows of one request.
            version: The shadow's.
            rows: Those that it answered differently.
        """
        found = self._waiting.pop(id(job), None)
        if found is not None:
            _, asked = found
            asked.shadow = version, rows
            self._write(asked, set(rows))

    def close(self) -> None:
        """Write what waits."""
        self._waiting.clear()
        if self._writer is not None:
            self._writer.close()

    def _wait(self, job: Job, asked: Asked) -> None:
        self._waiting[id(job)] = job, asked  # the job is held: its id stays its own
        if len(self._waiting) > _WAITING:
            self._waiting.popitem(last=False)

    def _write(self, asked: Asked, rows: set[int] | None) -> None:
        if self._writer is None:
            self._writer = Writer(self.bounds)
        self._writer.put(asked, rows)


@dataclass(slots=True)
class Recording:
    """Records the requests of one version.

    Attributes:
        left: Requests until the next one that is recorded; who answers one takes 1 off, and calls
            ``answered`` or ``refused`` only below 0.
    """

    _recorder: Recorder
    _artifact: ModelArtifact
    _precision: str
    _share: float
    _has_shadow: bool
    left: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        self._choose()

    def _choose(self) -> None:
        """Choose the next request: gaps of independent draws have a geometric distribution."""
        if self._share >= 1:
            self.left = 0
            return
        # Of a uniform number in (0, 1].
        self.left = int(math.log(1.0 - random.random()) / math.log1p(-self._share))

    def answered(
        self,
        protocol: str,
        request_id: bytes,
        received_at: float,
        job: Job,
        images: Sequence[bytes] | None,
        errors: Sequence[str | None] | None = None,
    ) -> None:
        """Record an answered request.

        Args:
            protocol: As metrics name it.
            request_id: Its ``X-Request-Id``.
            received_at: ``time.monotonic`` when it was whole.
            job: Its rows, which have run.
            images: Encoded images, one a row or error; None: it sent pixels.
            errors: A message, or None for a good row, for each image; None: all are good.
        """
        self._choose()
        try:
            self._record(protocol, request_id, received_at, job, images, errors)
        except Exception:  # the request is answered; its neighbours of the batch must be, too
            logger.exception("a request could not be recorded; this is a bug")

    def _record(
        self,
        protocol: str,
        request_id: bytes,
        received_at: float,
        job: Job,
        images: Sequence[bytes] | None,
        errors: Sequence[str | None] | None,
    ) -> None:
        first, last = job.parts[0][0], job.parts[-1][0]
        pieces = [
            batch.outputs.probabilities[start : start + count]
            for batch, start, count in job.parts
            if batch.outputs is not None
        ]
        keeps_pixels = images is None or any(map(needs_pixels, images))
        asked = Asked(
            self._artifact,
            time.time() - (time.monotonic() - received_at),
            request_id.decode("latin-1"),
            protocol,
            200,
            rows=job.count if images is None else len(images),
            images=images,
            pixels=job.rows if keeps_pixels else (),
            errors=errors,
            # A copy: on a GPU the next run writes where these are.
            probabilities_NK=np.concatenate(pieces),
            precision=job.precision or self._precision,
            queue_ms=(first.started_at - job.accepted_at) * 1e3,
            run_ms=(last.started_at + last.run_s - first.started_at) * 1e3,
            batch_rows=first.rows,
        )
        self._recorder.put(asked, job, has_shadow=self._has_shadow)

    def refused(
        self, protocol: str, request_id: bytes, received_at: float, error: ServiceError
    ) -> None:
        """Record that a request was refused or failed: when, why, and no image."""
        self._choose()
        at_s = time.time() - (time.monotonic() - received_at)
        id_ = request_id.decode("latin-1")
        asked = Asked(self._artifact, at_s, id_, protocol, error.status, error.message)
        self._recorder.put(asked, None, has_shadow=False)
