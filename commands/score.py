"""Ask a model about many images: ``score``."""

import dataclasses
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from commands.console import show
from commands.options import SHIPPED, JsonOption, ModelsOption, PrecisionOption, open_repository

if TYPE_CHECKING:
    from scoring.job import Progress, Summary

# A confusion matrix of more labels than this is for a program (--json), not for a terminal.
_MATRIX_LABELS = 20


def score(
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="SOURCE…",
            help="Files, folders, patterns, archives (zip, tar), tables (Parquet, CSV), arrays "
            "(npy, npz), URLs; - reads paths from standard input.",
        ),
    ],
    model: Annotated[str, typer.Option(metavar="NAME[:V]", help="Who answers.")],
    out: Annotated[Path, typer.Option(metavar="FILE", help="Table: .parquet, .csv or .jsonl.")],
    resume: Annotated[bool, typer.Option("--resume", help="Go on where a killed run was.")] = False,
    pattern: Annotated[
        str,
        typer.Option(
            "--glob", metavar="PATTERN", help="Files of folders to take, such as '*.jpg'."
        ),
    ] = "",
    image_column: Annotated[
        str,
        typer.Option(
            metavar="NAME", help="Column of images or paths.", show_default="found by name"
        ),
    ] = "",
    label_column: Annotated[
        str, typer.Option(metavar="NAME", help="Column of true labels, for the accuracy.")
    ] = "",
    id_column: Annotated[
        str, typer.Option(metavar="NAME", help="Column of ids.", show_default="path, or table#row")
    ] = "",
    keep: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Column to copy into the output; may be repeated."),
    ] = None,
    top: Annotated[int, typer.Option(min=1, help="Labels an image.")] = 1,
    probabilities: Annotated[
        bool, typer.Option("--probabilities", help="Write the probabilities of all labels, too.")
    ] = False,
    max_errors: Annotated[
        int | None,
        typer.Option(min=0, help="Give up at more rows with an error.", show_default="never"),
    ] = None,
    precision: PrecisionOption = "fp32",
    engine: Annotated[Literal["local", "ray"], typer.Option(help="Who computes.")] = "local",
    ray_address: Annotated[
        str,
        typer.Option(metavar="ADDRESS", help="Ray cluster.", show_default="one on this machine"),
    ] = "",
    models: ModelsOption = SHIPPED,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress bar.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Classify many images into one table, one row an image; a bad image is a row with an error.

    Example: foveal score photos --model fashion-cnn --out scores.parquet
    """
    from scoring.job import Options, score
    from scoring.local import LocalModel
    from scoring.sinks import SINKS
    from scoring.stages import OutputOptions
    from scoring.tables import Columns

    if out.suffix not in SINKS:
        expected = f"expected a name ending in {', '.join(SINKS)}, got {out.name!r}"
        raise typer.BadParameter(expected, param_hint="--out")
    if ray_address and engine != "ray":
        raise typer.BadParameter("expected --engine ray with it", param_hint="--ray-address")
    options = Options(
        Columns(image_column, label_column, id_column, tuple(keep or ())),
        OutputOptions(top, probabilities),
        pattern,
        max_errors,
        resume,
    )
    repository = open_repository(models)
    # One thread a run: there is one run a core.
    loaded = LocalModel.load(repository, model, threads=1, precision=precision)
    elsewhere = None
    if engine == "ray":
        from scoring.cluster import RayEngine

        elsewhere = RayEngine(repository, loaded, options.output, ray_address)
    with _Bar(loaded.artifact.reference, quiet) as bar:
        summary = score(sources, loaded, out, options, engine=elsewhere, on_progress=bar.show)
    show(dataclasses.asdict(summary), as_json, [(str(summary),)])
    if not as_json:
        _show_confusion(summary)
    if summary.errors:
        raise typer.Exit(3)


class _Bar:
    """The progress bar: rows, rows/s, errors, time left; nothing where no one would see it."""

    def __init__(self, title: str, quiet: bool) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        console = Console(stderr=True)
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[said]}"),
            TimeRemainingColumn(),
            console=console,
            disable=quiet or not console.is_terminal,
        )
        self._task = self._progress.add_task(title, total=None, said="")
        self._began: tuple[float, int] | None = None

    def __enter__(self) -> "_Bar":
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def show(self, now: "Progress") -> None:
        """Show how far the job is."""
        began_s, began_rows = self._began = self._began or (time.perf_counter(), now.rows)
        seconds = time.perf_counter() - began_s
        rate = f", {(now.rows - began_rows) / seconds:,.0f} rows/s" if seconds else ""
        total = f" of {now.total:,}" if now.total is not None else ""
        self._progress.update(
            self._task,
            completed=now.rows,
            total=now.total,
            said=f"{now.rows:,}{total} rows{rate}, {now.errors:,} errors",
        )


def _show_confusion(summary: "Summary") -> None:
    from scoring.tally import tabulate

    if summary.accuracy is not None:
        table = tabulate(summary.accuracy)
        if len(table[0]) <= _MATRIX_LABELS + 1:
            show(None, False, table)
