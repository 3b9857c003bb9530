"""A scoring job: sources through a model into one table; resumes after a kill.

    read (a thread) -> decode, run (a thread for each core) -> write (this thread)

All of them work at once, with bounded queues between them. One output row for each input row, in
order; a bad image is a row with an ``error``. A slow image blocks only its own core, until
``WINDOW_ROWS`` rows after it wait to be written.
"""

import time
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from threading import Event, Thread

import onnxruntime

from models.artifact import ModelArtifact
from models.image import decoder_versions
from models.labels import distinct_names
from models.machine import available_cpus
from scoring.budget import Budget
from scoring.local import LocalModel
from scoring.marks import Marks
from scoring.parts import Parts
from scoring.rows import (
    CHUNK_BYTES,
    CHUNK_ROWS,
    Chunk,
    Noted,
    ScoreError,
    Source,
    text_bytes,
)
from scoring.sinks import SINKS, Layout, check_out
from scoring.sources import kept_kinds, list_sources
from scoring.stages import OutputOptions, Scored, Stages
from scoring.tables import Columns
from scoring.tally import Accuracy, Tally

# Finished rows that may wait for an unfinished one before them: at 30,000 rows/s, the second that
# the largest image takes. Fewer if all probabilities are written: they hold at most _WINDOW_BYTES.
WINDOW_ROWS = 1 << 15
_WINDOW_BYTES = 32 << 20
# Long ids and kept values count as more rows: as much as that of usual ones of a chunk.
_SLOT_BYTES = 1 << 16
# A part is written when the text of its rows takes this much.
_PART_TEXT_BYTES = 64 << 20
# A part is written after this time or after a row group's rows: the most that a kill can cost.
_PART_S = 5.0
_PROGRESS_S = 0.1

# Number of a source, and the number of its finished rows.
Position = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Options:
    """Settings of a job.

    Attributes:
        columns: Columns of tables to use.
        output: What is written for each row.
        pattern: Pattern for files in folders; "" takes all.
        max_errors: Most rows with an error before the job stops; None is no limit.
        resume: Whether to continue an earlier run of the same job.
        part_rows: Most rows of a part; 0 is the rows of a row group.
    """

    columns: Columns = field(default_factory=Columns)
    output: OutputOptions = field(default_factory=OutputOptions)
    pattern: str = ""
    max_errors: int | None = None
    resume: bool = False
    part_rows: int = 0


@dataclass(frozen=True, slots=True)
class Progress:
    """State of a running job: finished rows, those with an error, all rows (None if unknown)."""

    rows: int
    errors: int
    total: int | None


@dataclass(frozen=True, slots=True)
class Summary:
    """Result of a finished job.

    Attributes:
        out: The file.
        model: Name of the model.
        version: Its version.
        rows: Rows in the file.
        errors: Rows with an error.
        resumed_rows: Rows that an earlier run wrote.
        seconds: From listing the sources to the renamed file.
        rows_per_s: Rows of this run by its seconds.
        accuracy: Share of right labels, None if no true label is known.
        notes: What the user should know of how sources and true labels were read, a line each.
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
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        """Format it as one line."""
        right = ""
        if self.accuracy is not None:
            share, rows = self.accuracy["accuracy"], self.accuracy["rows"]
            low, high = self.accuracy["interval"]
            right = f", accuracy {share:.2%} of {rows} with a label (95 %: {low:.2%} to {high:.2%})"
        return (
            f"{self.out}: {self.rows} rows by {self.model}:{self.version}, "
            f"{self.errors} with an error, {self.rows_per_s:.0f} rows/s{right}"
        )

    def lines(self) -> list[str]:
        """Format it as lines: what happened, then what stands behind the accuracy, then notes."""
        lines = [str(self)]
        accuracy = self.accuracy
        if accuracy is not None and accuracy.get("is_unbalanced"):
            worst, labels = accuracy["worst"], len(accuracy["confusion"])
            lines.append(
                f"balanced accuracy {accuracy['balanced']:.2%} of {labels} labels; the worst is "
                f"{worst['label']}: {worst['correct'] / worst['rows']:.2%} of {worst['rows']}"
            )
        return [*lines, *self.notes]


# Scores all rows after a position, in order; yields the number of the source and a scored chunk.
Engine = Callable[[Sequence[Source], Position], Generator[tuple[int, Scored]]]


def score(
    arguments: Sequence[str],
    model: LocalModel,
    out: Path,
    options: Options | None = None,
    *,
    engine: Engine | None = None,
    on_progress: Callable[[Progress], None] = lambda _: None,
) -> Summary:
    """Score every row of the sources.

    Args:
        arguments: What to score; see ``sources.list_sources``.
        model: The model.
        out: File to write, ``.parquet``, ``.csv`` or ``.jsonl``; appears when the job is done.
        options: Settings of the job.
        engine: Computes the rows; None is this machine.
        on_progress: Called on this thread every 0.1 s, and at the end.

    Raises:
        ScoreError: A source or ``out`` is invalid, the job to resume is another one, or there are
            more errors than allowed. Finished rows are kept for a resume.
        InferenceError: onnxruntime failed; ``out`` is unchanged.
        OSError: ``out`` cannot be written.
    """
    started = time.perf_counter()
    options = options or Options()
    check_out(out)
    sources = list_sources(arguments, options.columns, options.pattern, skip=out)
    layout = _layout(model.artifact, sources, options)
    sink = SINKS[out.suffix](layout)
    total = _count(sources)
    with Parts(out, _pin(model, sources, layout, options), resume=options.resume) as parts:
        engine = engine or LocalEngine(model, options.output, marks=parts.marks)
        resumed = parts.tally.rows
        collected = Collected(parts, layout.group_rows, sink.write, options)
        with closing(engine(sources, parts.position)) as chunks:
            reported = started
            for number, scored in chunks:
                collected.take(number, scored)
                if time.perf_counter() - reported > _PROGRESS_S:
                    reported = time.perf_counter()
                    on_progress(Progress(collected.rows, collected.errors, total))
        collected.flush()
        on_progress(Progress(collected.rows, collected.errors, collected.rows))
        parts.finish(sink.join)
    notes = [note for source in sources if isinstance(source, Noted) for note in source.notes()]
    seconds = time.perf_counter() - started
    return _summarize(out, model.artifact, parts.tally, resumed, seconds, notes)


def _layout(artifact: ModelArtifact, sources: Sequence[Source], options: Options) -> Layout:
    return Layout(
        artifact.labels,
        artifact.name,
        artifact.version,
        options.output,
        kept_kinds(sources, options.columns.keep),
        artifact.abstain.threshold if artifact.abstain else 0.0,
        distinct_names(artifact.labels) if artifact.thresholds else (),
    )


def _count(sources: Sequence[Source]) -> int | None:
    """Return the number of all rows, None if a source does not know its own."""
    counts = [source.count() for source in sources]
    known = [count for count in counts if count is not None]
    return sum(known) if len(known) == len(counts) else None


def _summarize(
    out: Path,
    artifact: ModelArtifact,
    tally: Tally,
    resumed: int,
    seconds: float,
    notes: list[str],
) -> Summary:
    accuracy = tally.accuracy(distinct_names(artifact.labels))
    return Summary(
        str(out),
        artifact.name,
        artifact.version,
        tally.rows,
        tally.errors,
        resumed,
        seconds,
        (tally.rows - resumed) / seconds,
        accuracy,
        (*notes, *tally.remarks.lines(is_compared=accuracy is not None)),
    )


class Collected:
    """Scored chunks that wait to be written to a part.

    Args:
        parts: Parts of the job.
        part_rows: Most rows of a part, except for its last chunk.
        write: Writes a part.
        options: Settings of the job.
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
        """Return the number of finished rows."""
        return self._parts.tally.rows + self._tally.rows

    @property
    def errors(self) -> int:
        """Return the number of finished rows with an error."""
        return self._parts.tally.errors + self._tally.errors

    def take(self, number: int, scored: Scored) -> None:
        """Add the next scored chunk, of source ``number``.

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
        self._text_bytes += text_bytes(scored.ids, scored.kept)
        is_full = self._tally.rows >= self._part_rows or self._text_bytes > _PART_TEXT_BYTES
        if is_full or time.perf_counter() - self._begun > _PART_S:
            self.flush()

    def flush(self) -> None:
        """Write the waiting chunks to a part."""
        if self._waiting:
            waiting = self._waiting
            self._parts.add(lambda path: self._write(path, waiting), self._tally, self._position)
        self._begin()

    def _begin(self) -> None:
        self._waiting: list[Scored] = []
        self._tally = Tally()
        self._text_bytes = 0
        self._begun = time.perf_counter()


class LocalEngine:
    """All cores of this machine.

    Args:
        model: The model, loaded with one thread for a run, because each core has a run of its own.
        output: What is written for each row.
        threads: Chunks to work on at once; 0 is one for each core.
        marks: File of the rows that are being decoded; None: there is none.
    """

    def __init__(
        self,
        model: LocalModel,
        output: OutputOptions,
        threads: int = 0,
        marks: Path | None = None,
    ) -> None:
        self._threads = threads or available_cpus()
        self._stages = Stages(model, output, Marks(marks, self._threads) if marks else None)
        row_bytes = 4 * len(model.artifact.labels) if output.probabilities else 0
        rows = min(WINDOW_ROWS, _WINDOW_BYTES // row_bytes) if row_bytes else WINDOW_ROWS
        self._window = max(4 * self._threads, rows // CHUNK_ROWS)

    def __call__(
        self, sources: Sequence[Source], position: Position
    ) -> Generator[tuple[int, Scored]]:
        """Score all rows after a position, in order."""
        waiting: SimpleQueue[tuple[int, Future[Scored], int] | BaseException | None] = SimpleQueue()
        # Two bounds: encoded images are large, so few chunks are read ahead of the decoders;
        # results are small, so many may wait for a slow chunk before them.
        undecoded = Budget(3 * self._threads * CHUNK_BYTES)
        unwritten = Budget(self._window)
        stopping = Event()

        def read() -> None:
            try:
                for number, chunk in read_from(sources, position):
                    image_bytes = max(CHUNK_BYTES, chunk.image_bytes)
                    slots = 1 + chunk.text_bytes // _SLOT_BYTES
                    undecoded.take(image_bytes)
                    unwritten.take(slots)
                    if stopping.is_set():
                        return
                    future = pool.submit(self._stages, chunk)
                    del chunk  # it is freed when it is scored
                    future.add_done_callback(partial(_give, undecoded, image_bytes))
                    waiting.put((number, future, slots))
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
                    number, future, slots = item
                    yield number, future.result()
                    unwritten.give(slots)
            finally:
                # Also when the caller stops early: wake the reader wherever it waits, then end it.
                stopping.set()
                undecoded.close()
                unwritten.close()
                reader.join()
                pool.shutdown(cancel_futures=True)


def _give(budget: Budget, amount: int, _: "Future[Scored]") -> None:
    budget.give(amount)


def read_from(sources: Sequence[Source], position: Position) -> Iterator[tuple[int, Chunk]]:
    """Stream the chunks of all sources after a position, with the number of the source."""
    first, done = position
    for number in range(first, len(sources)):
        row = done if number == first else 0
        for chunk in sources[number].chunks(row):
            chunk.place = number, row
            row += len(chunk.ids)
            yield number, chunk


def _pin(
    model: LocalModel, sources: Sequence[Source], layout: Layout, options: Options
) -> dict[str, object]:
    """Return everything that the output depends on."""
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
        "versions": {
            "onnxruntime": onnxruntime.__version__,
            **decoder_versions(model.artifact.image),
        },
    }
