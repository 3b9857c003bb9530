"""Remember what was answered, until feedback says what was true: the event loop's part.

batch -> first label and probability of all its rows, at once -> answered -> ``Answers``, by id
"""

import contextlib
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from models.abstain import is_answered
from models.artifact import ModelArtifact
from models.labels import are_given
from service.metrics.families import FEEDBACK_ROWS
from service.pipeline.classifier import Classifier
from service.pipeline.job import Batch, Job
from service.record.answers import ABSTAINED, SHADOW, Answers, key_of, model_key

logger = logging.getLogger("foveal.feedback")

OUTCOMES = ("right", "wrong", "abstained")
_NOTE = "answers"


class Answered(Protocol):
    """What is read of a request that was answered."""

    status: int
    request_id: bytes
    job: Any


class Keeper:
    """Remembers the answers of one process; used on the loop.

    Args:
        folder: The service's own.
        rows: How many answered rows each worker remembers.

    Raises:
        OSError: There is no room in the folder.
    """

    def __init__(self, folder: Path, rows: int) -> None:
        self.answers = Answers(folder, rows)
        self._known: set[str] = set()

    def observe_batch(self, classifier: Classifier, batch: Batch) -> None:
        """Note what a finished batch answers, before its requests are answered."""
        assert batch.outputs is not None, "only finished batches are observed; this is a bug"
        artifact = classifier.artifact
        if artifact.reference not in self._known:
            self._known.add(artifact.reference)
            for outcome in OUTCOMES:  # a rate needs the zero before the first count
                FEEDBACK_ROWS.labels(artifact.name, str(artifact.version), outcome)
        batch.notes[_NOTE] = _version(artifact), remembered(artifact, batch.outputs.probabilities)

    def observe(self, answered: Answered) -> None:
        """Remember what a request was answered."""
        if answered.status == 200 and answered.job is not None:
            self.keep(answered.request_id, answered.job)

    def keep(self, request_id: bytes, job: Job) -> None:
        """Remember the rows of a job that is answered.

        Args:
            request_id: As the client knows it.
            job: Its rows, which have run.
        """
        key = job.key = key_of(request_id)
        at, numbers, position = time.monotonic(), job.numbers, 0
        for batch, first, count in job.parts:
            if (note := batch.notes.get(_NOTE)) is None:
                return  # it ran before there was a keeper
            version, rows = note
            for row in range(first, first + count):
                if row not in batch.not_finite:
                    self._add(key, numbers[position], at, version, rows[row], 0)
                position += 1

    def keep_shadows(
        self,
        artifact: ModelArtifact,
        owners: Sequence[tuple[Job, int]],
        probabilities_NK: NDArray[np.float32],
    ) -> None:
        """Remember what a shadow said of rows, if they are answered.

        Args:
            artifact: The shadow.
            owners: Job, and row in it, of each.
            probabilities_NK: float32 [N, K].
        """
        at, version = time.monotonic(), _version(artifact)
        for (job, row), answer in zip(owners, remembered(artifact, probabilities_NK), strict=True):
            if job.key:
                self._add(job.key, job.numbers[row], at, version, answer, SHADOW)

    def _add(
        self, key: int, row: int, at: float, version: tuple[int, int], answer: Any, flags: int
    ) -> None:
        if len(answer) == 2:
            bits, own = answer
            self.answers.add_several(key, row, at, version, bits, own | flags)
        else:
            index, confidence, own = answer
            self.answers.add(key, row, at, version, (index, confidence, own | flags))


def _version(artifact: ModelArtifact) -> tuple[int, int]:
    return model_key(artifact.name), artifact.version


def remembered(artifact: ModelArtifact, probabilities_NK: NDArray[np.float32]) -> list[Any]:
    """Return what is remembered of each row: index and probability of its first label, and flags.

    Of a multi-label model: a bit for each label, as bytes, and flags.

    Args:
        artifact: Whose probabilities they are.
        probabilities_NK: float32 [N, K].
    """
    first_N = probabilities_NK.argmax(axis=1)
    confidence_N = probabilities_NK[np.arange(len(first_N)), first_N]
    flags = [0] * len(first_N)
    if artifact.abstain is not None:
        given_N = is_answered(confidence_N, artifact.abstain.threshold)
        flags = np.where(given_N, 0, ABSTAINED).tolist()
    if artifact.thresholds:
        bits = np.packbits(are_given(probabilities_NK, artifact.thresholds), axis=1)
        return [(row.tobytes(), own) for row, own in zip(bits, flags, strict=True)]
    return list(zip(first_N.tolist(), confidence_N.tolist(), flags, strict=True))


def open_keeper(rows: int) -> Keeper | None:
    """Return this process's keeper; None if nothing is to be remembered, or nothing can be.

    Args:
        rows: How many answered rows each worker remembers.
    """
    if not rows:
        return None
    shared = os.environ.get("PROMETHEUS_MULTIPROC_DIR")
    try:
        if shared:
            return Keeper(Path(shared), rows)
        # A worker alone: nobody else looks for its files, which go at once.
        folder = Path(tempfile.mkdtemp(prefix="foveal-"))
        with contextlib.ExitStack() as stack:
            stack.callback(shutil.rmtree, folder, ignore_errors=True)
            keeper = Keeper(folder, rows)
            stack.pop_all()
            return keeper
    except OSError as error:
        logger.error("feedback is off, as there is no room for answers: %s", error.strerror)
        return None
