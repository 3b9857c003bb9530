"""The batch scorer: files through a model into one table, without a server and without asyncio.

    sources -> decode (threads) -> run (this thread) -> sinks (a thread)

The stages overlap: while one batch runs, the next ones are read and decoded and the last one is
written; each hand-over holds a bounded number of batches. One output row an input row, in order; a
bad file is a row with an ``error``.
"""

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np

from models.artifact import ModelArtifact
from models.image import ImageError, Pixels
from service.local import BATCH_SIZE, LocalModel
from service.pipeline.postprocess import rank
from service.pipeline.session import available_cpus
from service.sinks import ScoredRow, check_out, open_sink
from service.sources import FileRow, ScoreError, find_rows

In = TypeVar("In")
Out = TypeVar("Out")


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a job is: rows written, how many of them with an error, and rows in all."""

    rows: int
    errors: int
    total: int


@dataclass(frozen=True, slots=True)
class Summary:
    """What a finished job did.

    Attributes:
        out: The file.
        model: Name of the model.
        version: Its version.
        rows: Rows written.
        errors: How many of them with an error.
        seconds: From listing the sources to the renamed file.
    """

    out: str
    model: str
    version: int
    rows: int
    errors: int
    seconds: float

    def __str__(self) -> str:
        """Say it on one line."""
        return (
            f"{self.out}: {self.rows} rows by {self.model}:{self.version}, "
            f"{self.errors} with an error, {self.rows / self.seconds:.0f} rows/s"
        )


@dataclass(frozen=True, slots=True)
class DecodedBatch:
    """What the decode stage makes of some rows: an id each, pixels or an error each."""

    ids: list[str]
    decoded: list[Pixels | str]


def score(
    sources: Sequence[str],
    model: LocalModel,
    out: Path,
    *,
    batch_size: int = BATCH_SIZE,
    on_progress: Callable[[Progress], None] = lambda _: None,
) -> Summary:
    """Score every file of the sources.

    Args:
        sources: Files, folders and patterns; see ``sources.find_rows``.
        model: Who answers.
        out: File to write, ``.parquet``, ``.csv`` or ``.jsonl``; appears when all is done.
        batch_size: Files a run gets at most, 1 or more.
        on_progress: Called on this thread after every batch that was written.

    Raises:
        ScoreError: A source or ``out`` is not what it should be.
        InferenceError: onnxruntime failed; ``out`` is left as it was.
        OSError: ``out`` cannot be written.
    """
    started = time.perf_counter()
    check_out(out)
    rows = find_rows(sources, skip=out)
    threads = available_cpus()
    done = errors = 0
    with (
        open_sink(out) as sink,
        ThreadPoolExecutor(threads, "decode") as decoders,
        ThreadPoolExecutor(1, "write") as writer,
    ):

        def write(rows: list[ScoredRow]) -> list[ScoredRow]:
            sink.write(rows)
            return rows

        batches = (rows[start : start + batch_size] for start in range(0, len(rows), batch_size))
        decoded = _ahead(decoders, partial(decode, model), batches, 2 * threads)
        scored = map(partial(run, model), decoded)
        for written in _ahead(writer, write, scored, 2):
            done += len(written)
            errors += sum(row.error is not None for row in written)
            on_progress(Progress(done, errors, len(rows)))
    artifact = model.artifact
    seconds = time.perf_counter() - started
    return Summary(str(out), artifact.name, artifact.version, done, errors, seconds)


def decode(model: LocalModel, rows: Sequence[FileRow]) -> DecodedBatch:
    """Read and decode some rows; may run on any thread."""
    return DecodedBatch([row.id for row in rows], [_decode_row(model, row) for row in rows])


def run(model: LocalModel, batch: DecodedBatch) -> list[ScoredRow]:
    """Run the good rows of a batch, and put all its rows in order again.

    Raises:
        InferenceError: onnxruntime failed.
    """
    artifact = model.artifact
    pixels = [row for row in batch.decoded if not isinstance(row, str)]
    answers: Iterator[tuple[int, np.float32]] = iter(())
    if pixels:
        probabilities_NK = model.run(pixels)
        best_N = rank(probabilities_NK, 1)[:, 0]
        values_N = probabilities_NK[np.arange(len(best_N)), best_N]
        answers = zip(best_N.tolist(), values_N, strict=True)
    return [
        _rejected(artifact, id_, row)
        if isinstance(row, str)
        else _scored(model, id_, *next(answers))
        for id_, row in zip(batch.ids, batch.decoded, strict=True)
    ]


def _decode_row(model: LocalModel, row: FileRow) -> Pixels | str:
    try:
        return model.decode(row.read())
    except (ImageError, ScoreError) as error:
        return str(error)
    except Exception as error:  # a decoder's bug is one row's error, not the end of the job
        return f"image: could not be decoded: {type(error).__name__}"


def _scored(model: LocalModel, id_: str, index: int, probability: np.float32) -> ScoredRow:
    artifact = model.artifact
    if not np.isfinite(probability):
        return _rejected(artifact, id_, f"probability: expected a number, got {probability}")
    label = model.answer(index, probability)
    return ScoredRow(id_, label, index, probability, None, artifact.name, artifact.version)


def _rejected(artifact: ModelArtifact, id_: str, error: str) -> ScoredRow:
    return ScoredRow(id_, None, None, None, error, artifact.name, artifact.version)


def _ahead(
    executor: Executor, work: Callable[[In], Out], inputs: Iterable[In], room: int
) -> Iterator[Out]:
    """Map in order on an executor, at most ``room`` inputs ahead of whoever takes the results."""
    waiting: deque[Future[Out]] = deque()
    for item in inputs:
        waiting.append(executor.submit(work, item))
        if len(waiting) > room:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()
