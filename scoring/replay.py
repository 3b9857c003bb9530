"""Replay: recorded requests through a version, in this process, and what came out differently.

    recording -> decode -> run, in batches as they were recorded -> compare with the answers

A row's last bits may depend on how many rows run with it: a matrix product of one row is computed
in another order than one of many. So rows run in batches of the size that was recorded, and one
that still differs runs once more, alone in such a batch, at every place of it.

Layout legend: N rows, K classes.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from models.abstain import is_answered
from models.artifact import ModelArtifact
from models.image import ImageError, Pixels, decode
from models.labels import are_given
from models.machine import available_cpus
from scoring.local import LocalModel
from scoring.recorded import Wanted, image_of
from scoring.rows import ScoreError, Truth
from service.record.reading import RecordingError
from service.record.sample import Sample

# Decoded rows that wait for others of their batch size.
_WAITING_ROWS = 512
_CHUNK = 64
# Rows that are run again, alone: to tell how a difference came about, not to hide many.
_AGAIN = 1000


@dataclass(frozen=True, slots=True)
class Answer:
    """What one version answers to one row.

    Attributes:
        probabilities_K: float32 [K].
        chosen: Indexes of its label or labels; empty where it abstained, or gave none.
        seconds: What it took: a row's share of a run, or from request to answer at a URL.
    """

    probabilities_K: NDArray[np.float32]
    chosen: tuple[int, ...]
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Pair:
    """One recorded row, answered twice.

    Attributes:
        sample: As recorded.
        truth: What is known to be true of it; None: nothing.
        before: The recorded answer, or that of the version to compare with.
        after: The candidate's; None: it has none.
        error: Why it has none.
        is_again: Whether it was equal only when it was run once more, alone.
    """

    sample: Sample
    truth: Truth
    before: Answer
    after: Answer | None
    error: str = ""
    is_again: bool = False


def choose(artifact: ModelArtifact, probabilities_K: NDArray[np.float32]) -> tuple[int, ...]:
    """Return the label, or the labels, that a row gets, by index; none where the model abstains."""
    abstain = artifact.abstain
    if abstain is not None and not is_answered(probabilities_K.max(), abstain.threshold):
        return ()
    if artifact.thresholds:
        given_K = are_given(probabilities_K[None], artifact.thresholds)[0]
        return tuple(np.flatnonzero(given_K).tolist())
    return (int(probabilities_K.argmax()),)


def recorded_answer(sample: Sample, classes: int) -> Answer:
    """Return what was answered when it was recorded.

    Raises:
        ScoreError: It was answered by a model with another number of labels.
    """
    document = sample.document
    probabilities_K = np.array(document["probabilities"], np.float32)
    if len(probabilities_K) != classes:
        raise ScoreError(
            f"{sample.id}: expected an answer of {classes} labels, got {len(probabilities_K)} from "
            f"{document['model']}:{document['version']}; choose its rows with --model"
        )
    chosen = document.get("labels", [document["index"]])
    if document.get("abstained"):
        chosen = []
    run_s = (document["queue_ms"] + document["run_ms"]) / 1e3
    return Answer(probabilities_K, tuple(chosen), run_s)


def replay(
    recording: Path,
    wanted: Wanted,
    candidate: LocalModel,
    against: LocalModel | None = None,
    on_row: Callable[[int], None] = lambda _: None,
) -> Iterator[Pair]:
    """Run the answered rows of a recording through a candidate.

    Args:
        recording: A folder of shards, or one tar.
        wanted: Which rows, and what is known to be true of them.
        candidate: The version that answers now.
        against: Answers beside it, in the place of the recorded answers; None: these.
        on_row: Called with the number of rows so far.

    Yields:
        A pair for each row, in no order.

    Raises:
        RecordingError: There is no recording.
        ScoreError: The answers cannot be compared.
        InferenceError: onnxruntime failed.
    """
    batches = _Batches(candidate, against)
    rows = ((s, t) for s, t in wanted.rows(recording) if s.is_answered)
    count = 0
    with ThreadPoolExecutor(available_cpus(), "decode") as pool:
        while chunk := list(islice(rows, _CHUNK)):
            decoded = pool.map(lambda pair: _decode(candidate, pair[0]), chunk)
            for (sample, truth), row in zip(chunk, decoded, strict=True):
                yield from batches.add(sample, truth, row)
            count += len(chunk)
            on_row(count)
    yield from batches.rest()


def _decode(model: LocalModel, sample: Sample) -> Pixels | str:
    try:
        return decode(image_of(sample), model.artifact.image)
    except (ImageError, RecordingError) as error:
        return str(error)


_Waiting = tuple[Sample, Truth, Pixels]


class _Batches:
    """Rows that wait for their batch, by its size."""

    def __init__(self, candidate: LocalModel, against: LocalModel | None) -> None:
        self._candidate = candidate
        self._against = against
        self._waiting: dict[int, list[_Waiting]] = {}
        self._rows = 0
        self._again = 0

    def add(self, sample: Sample, truth: Truth, row: Pixels | str) -> Iterator[Pair]:
        """Add a row; yield the pairs of batches that are full."""
        if isinstance(row, str):
            before = recorded_answer(sample, len(self._candidate.artifact.labels))
            yield Pair(sample, truth, before, None, row)
            return
        size = max(1, min(int(sample.document["batch_rows"]), 4096))
        waiting = self._waiting.setdefault(size, [])
        waiting.append((sample, truth, row))
        self._rows += 1
        if len(waiting) == size:
            yield from self._run(size)
        elif self._rows >= _WAITING_ROWS:
            yield from self._run(max(self._waiting, key=lambda each: len(self._waiting[each])))

    def rest(self) -> Iterator[Pair]:
        """Yield the pairs of what still waits."""
        for size in list(self._waiting):
            yield from self._run(size)

    def _run(self, size: int) -> Iterator[Pair]:
        waiting = self._waiting.pop(size)
        self._rows -= len(waiting)
        rows = np.stack([row for _, _, row in waiting])
        # Filled up with its last row: the size is what counts.
        filled_NHWC = np.concatenate([rows, np.repeat(rows[-1:], size - len(rows), axis=0)])
        after = _answers(self._candidate, filled_NHWC)
        before = None if self._against is None else _answers(self._against, filled_NHWC)
        classes = len(self._candidate.artifact.labels)
        for number, (sample, truth, row) in enumerate(waiting):
            old = recorded_answer(sample, classes) if before is None else before[number]
            new, is_again = after[number], False
            if not np.array_equal(old.probabilities_K, new.probabilities_K):
                found = self._alone(row, size, old) if before is None else None
                new, is_again = (found or new), found is not None
            yield Pair(sample, truth, old, new, is_again=is_again)

    def _alone(self, row: Pixels, size: int, old: Answer) -> Answer | None:
        """Run a row in a batch of nothing else; return the answer that is equal, if one is."""
        if self._again >= _AGAIN:
            return None
        self._again += 1
        for each in _answers(self._candidate, np.repeat(row[None], size, axis=0)):
            if np.array_equal(each.probabilities_K, old.probabilities_K):
                return each
        return None


def _answers(model: LocalModel, images_NHWC: Pixels) -> Sequence[Answer]:
    begun = time.perf_counter()
    probabilities_NK = model.run_batch(images_NHWC)
    seconds = (time.perf_counter() - begun) / len(images_NHWC)
    artifact = model.artifact
    return [Answer(each_K, choose(artifact, each_K), seconds) for each_K in probabilities_NK]
