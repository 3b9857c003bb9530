"""A scoring job: sources through a model into one table; resumes after a kill.

    find, open -> engine: read, decode, run -> write (this thread)

One output row for each input row, in order; a bad image is a row with an ``error``.
"""

import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import onnxruntime

from models.artifact import ModelArtifact
from models.image import decoder_versions
from models.labels import distinct_names
from scoring.archives import ArchiveSource
from scoring.engine import Engine, LocalEngine
from scoring.folders import Found
from scoring.local import LocalModel
from scoring.outputs import STANDARD_OUTPUT, Output
from scoring.parts import Parts
from scoring.rows import LostError, Noted, ScoreError, Source, text_bytes
from scoring.sinks import SINKS, Layout, ParquetSink, Sink
from scoring.sources import find, kept_kinds, open_sources
from scoring.stages import OutputOptions, Scored
from scoring.stream import Stream
from scoring.tables import Columns
from scoring.tally import Accuracy, Tally

# Damaged images that are named in the summary.
_EXAMPLES = 3
# A part is written when the text of its rows takes this much.
_PART_TEXT_BYTES = 64 << 20
# A part is written after this time or after a row group's rows: the most that a kill can cost.
_PART_S = 5.0
_PROGRESS_S = 0.1


@dataclass(frozen=True, slots=True)
class Options:
    """Settings of a job.

    Attributes:
        columns: Columns of tables to use.
        output: What is written for each row.
        patterns: Patterns for files in folders; none takes all.
        max_errors: Most rows with an error before the job stops; None is no limit.
        resume: Whether to continue an earlier run of the same job.
        overwrite: Whether a file with the name of the output may be written over.
        part_rows: Most rows of a part; 0 is the rows of a row group.
    """

    columns: Columns = field(default_factory=Columns)
    output: OutputOptions = field(default_factory=OutputOptions)
    patterns: tuple[str, ...] = ()
    max_errors: int | None = None
    resume: bool = False
    overwrite: bool = False
    part_rows: int = 0

    @property
    def strict(self) -> bool:
        """Return whether files beside the images, and damage within them, are errors."""
        return self.output.strict


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
        passed_over: Files beside the images that are no rows: those of systems and tools.
        damaged: Rows whose JPEG is damaged, but not so much that its decoder ends.
        examples: Ids of some of those of this run, and what the decoder says.
        by_card: Rows of this run whose JPEG a GPU decoded.
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
    passed_over: int = 0
    damaged: int = 0
    examples: dict[str, str] = field(default_factory=dict)
    by_card: int = 0

    def __str__(self) -> str:
        """Format it as one line."""
        right = ""
        if self.accuracy is not None:
            share, rows = self.accuracy["accuracy"], self.accuracy["rows"]
            low, high = self.accuracy["interval"]
            right = f", accuracy {share:.2%} of {rows} with a label (95 %: {low:.2%} to {high:.2%})"
        left = f"{self.damaged} with damage, " if self.damaged else ""
        left += f"{self.passed_over} other files passed over, " if self.passed_over else ""
        left += f"{self.by_card} decoded by the GPU, " if self.by_card else ""
        return (
            f"{self.out}: {self.rows} rows by {self.model}:{self.version}, "
            f"{self.errors} with an error, {left}{self.rows_per_s:.0f} rows/s{right}"
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


def score(
    arguments: Sequence[str],
    model: LocalModel,
    out: str | Path | Output,
    options: Options | None = None,
    *,
    engine: Engine | None = None,
    on_progress: Callable[[Progress], None] = lambda _: None,
) -> Summary:
    """Score every row of the sources.

    Args:
        arguments: What to score; see ``sources.find``.
        model: The model.
        out: Table to write, ``.parquet``, ``.csv`` or ``.jsonl``; appears when the job is done. On
            standard output rows of CSV and JSONL appear as they are finished.
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
    output = out if isinstance(out, Output) else Output.parse(out)
    found = output.without_sources(
        find(arguments, options.patterns), overwrite=options.overwrite, resume=options.resume
    )
    sources = open_sources(_rows_of(found, options), options.columns, strict=options.strict)
    layout = _layout(model.artifact, sources, options)
    sink = SINKS[output.ending](layout)
    total = _count(sources)
    pin = _pin(model, sources, layout, options)
    with _begin(output, sink, pin, resume=options.resume) as parts:
        engine = engine or LocalEngine(model, options.output, marks=parts.marks)
        resumed = parts.tally.rows
        part_rows = 1 if isinstance(parts, Stream) else layout.group_rows
        collected = Collected(parts, part_rows, sink.write, options)
        with closing(engine(sources, parts.position)) as chunks:
            _collect(
                chunks, collected, lambda rows, errors: on_progress(Progress(rows, errors, total))
            )
        on_progress(Progress(collected.rows, collected.errors, collected.rows))
        parts.finish(lambda paths, table: output.write(lambda file: sink.join(paths, file), table))
    notes = [note for source in sources if isinstance(source, Noted) for note in source.notes()]
    seconds = time.perf_counter() - started
    tally = parts.tally
    accuracy = tally.accuracy(distinct_names(model.artifact.labels))
    return Summary(
        output.name,
        model.artifact.name,
        model.artifact.version,
        tally.rows,
        tally.errors,
        resumed,
        seconds,
        (tally.rows - resumed) / seconds,
        accuracy,
        (*notes, *tally.remarks.lines(is_compared=accuracy is not None)),
        _passed_over(found, sources, options),
        tally.damaged,
        collected.damaged_examples,
        collected.by_card,
    )


def _begin(output: Output, sink: Sink, pin: dict[str, object], *, resume: bool) -> Parts | Stream:
    """Return where finished rows go: Parquet ends with what its begin needs, and waits for it."""
    if isinstance(sink, ParquetSink) or output.name != STANDARD_OUTPUT:
        return Parts(output.path, pin, resume=resume)
    return Stream(sink.header)


def _collect(
    chunks: Iterable[tuple[int, Scored]],
    collected: "Collected",
    on_progress: Callable[[int, int], None],
) -> None:
    """Write all chunks to parts, also those before a service is gone or the user stops the job."""
    reported = time.perf_counter()
    try:
        for number, scored in chunks:
            collected.take(number, scored)
            if time.perf_counter() - reported > _PROGRESS_S:
                reported = time.perf_counter()
                on_progress(collected.rows, collected.errors)
    except (LostError, KeyboardInterrupt):
        collected.flush()
        raise
    collected.flush()


def _passed_over(found: Sequence[Found], sources: Sequence[Source], options: Options) -> int:
    in_archives = sum(each.passed_over for each in sources if isinstance(each, ArchiveSource))
    return in_archives + (0 if options.strict else sum(each.is_junk for each in found))


def _rows_of(found: Sequence[Found], options: Options) -> list[Found]:
    """Return the files that are rows.

    Raises:
        ScoreError: There is none.
    """
    kept = [each for each in found if options.strict or not each.is_junk]
    if not kept:
        raise ScoreError(
            f"sources: expected at least one image, got {len(found)} files that are none, such as "
            f"{found[0].path if found else 'the output itself'}"
        )
    return kept


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


class Collected:
    """Scored chunks that wait to be written to a part.

    Args:
        parts: Where finished rows go.
        part_rows: Most rows of a part, except for its last chunk.
        write: Writes a part.
        options: Settings of the job.
    """

    def __init__(
        self,
        parts: Parts | Stream,
        part_rows: int,
        write: Callable[[BinaryIO, Sequence[Scored]], None],
        options: Options,
    ) -> None:
        self._parts = parts
        self._write = write
        self._part_rows = options.part_rows or part_rows
        self._max_errors = options.max_errors
        self.damaged_examples: dict[str, str] = {}
        self.by_card = 0
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
        self.by_card += scored.by_card
        for row, reason in scored.damaged.items():
            if len(self.damaged_examples) < _EXAMPLES:
                self.damaged_examples[scored.ids[row]] = reason
        self._text_bytes += text_bytes(scored.ids, scored.kept)
        is_full = self._tally.rows >= self._part_rows or self._text_bytes > _PART_TEXT_BYTES
        if is_full or time.perf_counter() - self._begun > _PART_S:
            self.flush()

    def flush(self) -> None:
        """Write the waiting chunks to a part."""
        if self._waiting:
            waiting = self._waiting
            self._parts.add(lambda file: self._write(file, waiting), self._tally, self._position)
        self._begin()

    def _begin(self) -> None:
        self._waiting: list[Scored] = []
        self._tally = Tally()
        self._text_bytes = 0
        self._begun = time.perf_counter()


def _pin(
    model: LocalModel, sources: Sequence[Source], layout: Layout, options: Options
) -> dict[str, object]:
    """Return everything that the output depends on."""
    columns = options.columns
    return {
        "sources": [source.pin() for source in sources],
        "model": f"{model.artifact.reference} {model.computed_in} {model.file.sha256}",
        "columns": layout.types,
        "table columns": {
            "image": columns.image,
            "label": columns.label,
            "id": columns.id,
            "keep": columns.keep,
        },
        "limits": {
            "strict": options.output.strict,
            "max_image_pixels": options.output.max_image_pixels,
        },
        "versions": {
            "onnxruntime": onnxruntime.__version__,
            **decoder_versions(model.artifact.image),
        },
    }
