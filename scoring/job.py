"""A job: sources through a model into one table; goes on where it was killed.

    read (a thread) -> decode, run (a thread a core) -> write (this thread)

All of them work at once; what lies between them is bounded. One output row an input row, in order;
a bad image is a row with an ``error``. A slow image holds up the core that it is on: the others go
on, until as many rows wait for it as ``WINDOW_ROWS``.
"""

import time
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from queue import SimpleQueue
from threading import Event, Semaphore, Thread

import cv2
import onnxruntime

from models.machine import available_cpus
from scoring.find import find_sources, kept_kinds
from scoring.local import LocalModel
from scoring.parts import Parts
from scoring.rows import CHUNK_ROWS, Chunk, ScoreError, Source
from scoring.sinks import SINKS, Layout, check_out
from scoring.stages import Answers, Scored, Stages
from scoring.tables import Columns
from scoring.tally import Accuracy, Tally

# Rows that were run may wait for one before them that was not: at 30,000 rows/s the second that the
# largest image takes. With all their probabilities, fewer: they hold _WINDOW_BYTES at most.
WINDOW_ROWS = 1 << 15
_WINDOW_BYTES = 32 << 20
# A part is written after this long or after a row group's rows: what a kill can cost.
_PART_S = 5.0
_PROGRESS_S = 0.1

# Number of a source, and how many of its rows are done.
Position = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Options:
    """What is scored, what is said of it, and how the job behaves.

    Attributes:
        columns: Which columns of tables are used.
        answers: What the output says of each row.
        pattern: Which files of folders are taken; "" for all.
        max_errors: Rows with an error at which the job is given up when there are more; None:
            never.
        resume: Whether to go on with what an earlier run of the same job has done.
        part_rows: Rows after which a part is written at the latest; 0: a row group's.
    """

    columns: Columns = field(default_factory=Columns)
    answers: Answers = field(default_factory=Answers)
    pattern: str = ""
    max_errors: int | None = None
    resume: bool = False
    part_rows: int = 0


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a job is: rows done, how many of them with an error, rows in all if that is known."""

    rows: int
    errors: int
    total: int | None


@dataclass(frozen=True, slots=True)
class Summary:
    """What a finished job did.

    Attributes:
        out: The file.
        model: Name of the model.
        version: Its version.
        rows: Rows in the file.
        errors: How many of them with an error.
        resumed_rows: How many of them an earlier run had done.
        seconds: From listing the sources to the renamed file.
        rows_per_s: Rows of this run by its seconds.
        accuracy: How many answers are right, None if no true label is known.
    """

    out: str
    model: str
    version: int
    rows: int
    errors: int
    resumed_rows: int
    seconds: float
    rows_per_s: float
    accuracy: Accuracy | None

    def __str__(self) -> str:
        """Say it on one line."""
        right = ""
        if self.accuracy is not None:
            share, rows = self.accuracy["accuracy"], self.accuracy["rows"]
            right = f", accuracy {share:.2%} of {rows} with a label"
        return (
            f"{self.out}: {self.rows} rows by {self.model}:{self.version}, "
            f"{self.errors} with an error, {self.rows_per_s:.0f} rows/s{right}"
        )


# Scores all rows from a position on, in order: number of the source and answers.
Engine = Callable[[Sequence[Source], Position], Generator[tuple[int, Scored]]]


def score(
    words: Sequence[str],
    model: LocalModel,
    out: Path,
    options: Options | None = None,
    *,
    engine: Engine | None = None,
    on_progress: Callable[[Progress], None] = lambda _: None,
) -> Summary:
    """Score every row of the sources.

    Args:
        words: What to score; see ``find.find_sources``.
        model: Who answers.
        out: File to write, ``.parquet``, ``.csv`` or ``.jsonl``; appears when all is done.
        options: What to say and how to behave.
        engine: Who computes; None: this machine.
        on_progress: Called on this thread now and then, and at the end.

    Raises:
        ScoreError: A source or ``out`` is not what it should be, the job is not the one that is to
            go on, or there are more errors than allowed. What is done is kept.
        InferenceError: onnxruntime failed; ``out`` is left as it was.
        OSError: ``out`` cannot be written.
    """
    started = time.perf_counter()
    options = options or Options()
    check_out(out)
    sources = find_sources(words, options.columns, options.pattern, skip=out)
    artifact = model.artifact
    layout = Layout(
        artifact.labels,
        artifact.name,
        artifact.version,
        options.answers,
        kept_kinds(sources, options.columns.keep),
        artifact.abstain.threshold if artifact.abstain else 0.0,
    )
    sink = SINKS[out.suffix](layout)
    counts = [source.count() for source in sources]
    known = [count for count in counts if count is not None]
    total = sum(known) if len(known) == len(counts) else None
    engine = engine or LocalEngine(model, options.answers)
    with Parts(out, _pin(model, sources, layout, options), resume=options.resume) as parts:
        resumed = parts.tally.rows
        collected = Collected(parts, layout.group_rows, sink.write, options)
        with closing(engine(sources, parts.position)) as answers:
            reported = started
            for number, scored in answers:
                collected.take(number, scored)
                if time.perf_counter() - reported > _PROGRESS_S:
                    reported = time.perf_counter()
                    on_progress(Progress(collected.rows, collected.errors, total))
        collected.flush()
        on_progress(Progress(collected.rows, collected.errors, collected.rows))
        parts.finish(sink.join)
    seconds = time.perf_counter() - started
    tally = parts.tally
    return Summary(
        str(out),
        artifact.name,
        artifact.version,
        tally.rows,
        tally.errors,
        resumed,
        seconds,
        (tally.rows - resumed) / seconds,
        tally.accuracy(artifact.labels),
    )


class Collected:
    """Answers on their way into parts.

    Args:
        parts: Of the job.
        part_rows: Rows of a part at most, but for the last chunk.
        write: Writes a part.
        options: Of the job.
    """

    def __init__(
        self,
        parts: Parts,
        part_rows: int,
        write: Callable[[Path, Sequence[Scored]], None],
        options: Options,
    ) -> None:
        self._parts = parts
        self._write = write
        self._part_rows = options.part_rows or part_rows
        self._max_errors = options.max_errors
        self._position = parts.position
        self._begin()

    @property
    def rows(self) -> int:
        """Return how many rows are done."""
        return self._parts.tally.rows + self._tally.rows

    @property
    def errors(self) -> int:
        """Return how many of them have an error."""
        return self._parts.tally.errors + self._tally.errors

    def take(self, number: int, scored: Scored) -> None:
        """Take the next answers, of source ``number``.

        Raises:
            ScoreError: There are more errors than allowed; the rows before are kept.
        """
        if self._max_errors is not None and self.errors + len(scored.errors) > self._max_errors:
            self.flush()
            row, error = next(iter(scored.errors.items()), (0, "none in this chunk"))
            raise ScoreError(
                f"errors: expected at most {self._max_errors} rows with one, got more; "
                f"the last is {scored.ids[row]}: {error}"
            )
        before = self._position[1] if self._position[0] == number else 0
        self._position = number, before + len(scored)
        self._waiting.append(scored)
        self._tally.count(scored)
        if self._tally.rows >= self._part_rows or time.perf_counter() - self._begun > _PART_S:
            self.flush()

    def flush(self) -> None:
        """Write what waits to a part."""
        if self._waiting:
            waiting = self._waiting
            self._parts.add(lambda path: self._write(path, waiting), self._tally, self._position)
        self._begin()

    def _begin(self) -> None:
        self._waiting: list[Scored] = []
        self._tally = Tally()
        self._begun = time.perf_counter()


class LocalEngine:
    """All cores of this machine.

    Args:
        model: Who answers; loaded with one thread a run, as there is one run a core.
        answers: What is wanted of it.
        threads: Chunks that are worked on at once; 0: as many as there are cores.
    """

    def __init__(self, model: LocalModel, answers: Answers, threads: int = 0) -> None:
        self._stages = Stages(model, answers)
        self._threads = threads or available_cpus()
        row_bytes = 4 * len(model.artifact.labels) if answers.probabilities else 0
        rows = min(WINDOW_ROWS, _WINDOW_BYTES // row_bytes) if row_bytes else WINDOW_ROWS
        self._window = max(4 * self._threads, rows // CHUNK_ROWS)

    def __call__(
        self, sources: Sequence[Source], position: Position
    ) -> Generator[tuple[int, Scored]]:
        """Score all rows from a position on, in order."""
        waiting: SimpleQueue[tuple[int, Future[Scored]] | BaseException | None] = SimpleQueue()
        undecoded = Semaphore(3 * self._threads)  # chunks that hold encoded images
        unwritten = Semaphore(self._window)
        stopping = Event()

        def read() -> None:
            try:
                for number, chunk in read_from(sources, position):
                    undecoded.acquire()
                    unwritten.acquire()
                    if stopping.is_set():
                        return
                    future = pool.submit(self._stages, chunk)
                    future.add_done_callback(lambda _: undecoded.release())
                    waiting.put((number, future))
                waiting.put(None)
            except BaseException as error:
                waiting.put(error)

        with ThreadPoolExecutor(self._threads, "score") as pool:
            reader = Thread(target=read, name="read", daemon=True)
            reader.start()
            try:
                while (item := waiting.get()) is not None:
                    if isinstance(item, BaseException):
                        raise item
                    number, future = item
                    yield number, future.result()
                    unwritten.release()
            finally:
                stopping.set()
                undecoded.release()
                unwritten.release()
                reader.join()
                pool.shutdown(cancel_futures=True)


def read_from(sources: Sequence[Source], position: Position) -> Iterator[tuple[int, Chunk]]:
    """Stream the chunks of all sources from a position on, with the number of the source."""
    first, done = position
    for number in range(first, len(sources)):
        for chunk in sources[number].chunks(done if number == first else 0):
            yield number, chunk


def _pin(
    model: LocalModel, sources: Sequence[Source], layout: Layout, options: Options
) -> dict[str, object]:
    """Return all that the output depends on."""
    columns = options.columns
    return {
        "sources": [source.pin() for source in sources],
        "model": f"{model.artifact.reference} {model.file.precision} {model.file.sha256}",
        "columns": layout.types,
        "table columns": {
            "image": columns.image,
            "label": columns.label,
            "id": columns.id,
            "keep": columns.keep,
        },
        "versions": {"onnxruntime": onnxruntime.__version__, "OpenCV": cv2.__version__},
    }
