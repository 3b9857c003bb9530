"""Classify many images: ``foveal score``."""

import dataclasses
import os
import sys
import time
from collections.abc import Callable
from contextlib import redirect_stdout
from typing import TYPE_CHECKING, Annotated, Literal, cast

import typer

from commands.console import print_line, show, without_library_output
from commands.help import headed
from commands.options import SHIPPED, JsonOption, ModelsOption, PrecisionOption, open_repository

if TYPE_CHECKING:
    from report.progress import ProgressBar
    from scoring.job import Progress, Summary
    from service.session.gpu.open_card import Decoding

# A table of more labels than this is for a program (--json), not for a terminal.
_MATRIX_LABELS = 20
# What a shell says of a program that SIGPIPE ends: 128 + 13.
_READER_LEFT = 141
# Seconds between lines of progress where no terminal shows a bar.
_LINE_S = 60.0

SourcesArgument = Annotated[
    list[str],
    typer.Argument(
        metavar="SOURCE…",
        help="Files, folders, patterns, archives (zip, tar), tables (Parquet, Arrow, CSV, JSONL), "
        "arrays (npy, npz), lists (txt) or URLs; - reads more of them from standard input, one on "
        "each line or with NULs between them.",
    ),
]
RequiredModelOption = Annotated[str, typer.Option(metavar="NAME[:V]", help="Model to use.")]
OutOption = Annotated[
    str,
    typer.Option(
        metavar="FILE",
        help="Table to write: .parquet, .csv, .jsonl, .csv.gz or .jsonl.gz, here or behind a URL; "
        "- is standard output.",
    ),
]
FormatOption = Annotated[
    Literal["csv", "jsonl", "parquet"] | None,
    typer.Option(
        "--format",
        help="Format of the table.",
        show_default="by the name of --out; csv for standard output",
    ),
]
OverwriteOption = Annotated[
    bool,
    typer.Option(
        "--overwrite", help="Write over a file or a job that exists; never over a source."
    ),
]
StrictOption = Annotated[
    bool,
    typer.Option(
        "--strict",
        help="Make damaged JPEGs that viewers show, and files such as Thumbs.db or README, rows "
        "with an error.",
    ),
]
ResumeOption = Annotated[
    bool, typer.Option("--resume", help="Continue the same job after it was stopped.")
]
GlobOption = Annotated[
    list[str] | None,
    typer.Option(
        "--glob",
        metavar="PATTERN",
        help="Pattern that files in folders must match, such as '*.jpg', in any case of letters; "
        "may be repeated.",
        show_default="all files",
    ),
]
ImageColumnOption = Annotated[
    str,
    typer.Option(
        metavar="NAME",
        help="Table column of images or paths; a field of a struct with dots.",
        show_default="found by name",
    ),
]
LabelColumnOption = Annotated[
    str,
    typer.Option(
        metavar="NAME",
        help="Table column of true labels, to compute the accuracy from; it may hold lists.",
    ),
]
IdColumnOption = Annotated[
    str,
    typer.Option(
        metavar="NAME", help="Table column of row ids.", show_default="path, or table#row"
    ),
]
KeepOption = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME", help="Table column to copy to the output; may be repeated."),
]
TopOption = Annotated[int, typer.Option(min=1, help="Number of labels for each image.")]
ProbabilitiesOption = Annotated[
    bool, typer.Option("--probabilities", help="Write the probabilities of all labels.")
]
MaxErrorsOption = Annotated[
    int | None,
    typer.Option(min=0, help="Most rows with an error before it stops.", show_default="no limit"),
]
MaxImagePixelsOption = Annotated[
    int,
    typer.Option(
        min=1,
        envvar="FOVEAL_MAX_IMAGE_PIXELS",
        help="Most pixels of an image as it is decoded.",
    ),
]
EngineOption = Annotated[
    Literal["local", "ray"], typer.Option(help="Where to compute: this process, or Ray.")
]
RayAddressOption = Annotated[
    str,
    typer.Option(
        metavar="ADDRESS",
        help="Address of a Ray cluster.",
        show_default="starts one on this machine",
    ),
]
DeviceOption = Annotated[
    Literal["auto", "cpu", "cuda", "tensorrt"],
    typer.Option(help="Device that runs the model; auto is a GPU if one works, else the CPU."),
]
QuietOption = Annotated[bool, typer.Option("--quiet", help="Hide the progress bar.")]


@headed(
    {
        "Images": "patterns image_column label_column id_column strict max_image_pixels max_errors",
        "Table": "out kind keep top probabilities resume overwrite",
        "Running": "model precision device engine ray_address models",
    }
)
def score(
    sources: SourcesArgument,
    model: RequiredModelOption,
    out: OutOption,
    kind: FormatOption = None,
    resume: ResumeOption = False,
    overwrite: OverwriteOption = False,
    strict: StrictOption = False,
    patterns: GlobOption = None,
    image_column: ImageColumnOption = "",
    label_column: LabelColumnOption = "",
    id_column: IdColumnOption = "",
    keep: KeepOption = None,
    top: TopOption = 1,
    probabilities: ProbabilitiesOption = False,
    max_errors: MaxErrorsOption = None,
    max_image_pixels: MaxImagePixelsOption = 1 << 25,
    precision: PrecisionOption = "fp32",
    device: DeviceOption = "cpu",
    engine: EngineOption = "local",
    ray_address: RayAddressOption = "",
    models: ModelsOption = SHIPPED,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Classify many images into one table, with one row for each image.

    A bad image is a row with an error; the exit code is then 3.

    Example: foveal score photos --model fashion-cnn --out scores.parquet
    """
    repository = open_repository(models)
    repository.resolve(model)  # before what takes a second to import
    from report.progress import ProgressBar
    from scoring.job import Options, score
    from scoring.local import LocalModel
    from scoring.outputs import STANDARD_OUTPUT, Output
    from scoring.sinks import FormatError
    from scoring.stages import OutputOptions
    from scoring.stream import ReaderLeftError
    from scoring.tables import Columns

    try:
        output = Output.parse(out, kind or "")
    except FormatError as error:
        raise typer.BadParameter(str(error), param_hint="--out") from None
    _check_engine(engine, ray_address, device)
    options = Options(
        Columns(image_column, label_column, id_column, tuple(keep or ())),
        OutputOptions(top, probabilities, strict, max_image_pixels),
        tuple(patterns or ()),
        max_errors,
        resume,
        overwrite,
    )
    # One thread for a run, because each core has a run of its own.
    loaded = LocalModel.load(repository, model, 1, precision, device, _decoding())
    # A bar between rows could not be read.
    quiet = quiet or (out == STANDARD_OUTPUT and sys.stdout.isatty())
    cluster = None
    if engine == "ray":
        from scoring.cluster import RayEngine

        cluster = RayEngine(repository, loaded, options.output, ray_address)
    try:
        with (
            without_library_output(),
            ProgressBar(loaded.artifact.reference, quiet=quiet, is_timed=True) as bar,
        ):
            report = _reporter(bar, quiet=quiet)
            summary = score(sources, loaded, output, options, engine=cluster, on_progress=report)
    except ReaderLeftError:
        raise typer.Exit(_READER_LEFT) from None
    except KeyboardInterrupt:
        kept = "" if out == STANDARD_OUTPUT else "; finished rows are kept: add --resume to go on"
        print_line(f"foveal score: stopped{kept}", is_error=True)
        raise typer.Exit(130) from None
    # Standard output may be the table.
    with redirect_stdout(sys.stderr if out == STANDARD_OUTPUT else sys.stdout):
        show(dataclasses.asdict(summary), as_json, [(line,) for line in summary.lines()])
        if not as_json:
            for id_, reason in summary.examples.items():
                print_line(f"{id_}: answered as viewers show it, but damaged: {reason}")
            _show_confusion(summary)
    if summary.errors:
        raise typer.Exit(3)


def _check_engine(engine: str, ray_address: str, device: str) -> None:
    if ray_address and engine != "ray":
        raise typer.BadParameter("expected --engine ray with it", param_hint="--ray-address")
    if device != "cpu" and engine == "ray":
        raise typer.BadParameter("expected cpu with --engine ray", param_hint="--device")


def _decoding() -> "Decoding":
    """Return where JPEGs are decoded if a GPU runs the model: the service's setting."""
    asked = os.environ.get("FOVEAL_GPU_DECODE", "auto")
    if asked not in {"auto", "off", "rehearse"}:
        raise typer.BadParameter(
            f"expected auto, off or rehearse, got {asked!r}", param_hint="FOVEAL_GPU_DECODE"
        )
    return cast("Decoding", asked)


def _reporter(bar: "ProgressBar", *, quiet: bool) -> "Callable[[Progress], None]":
    """Return a callback that shows a job's progress: rows, rows/s, errors.

    Without a terminal, it is a line a minute.
    """
    first: tuple[float, int] | None = None
    printed_s = time.perf_counter()
    is_logged = not quiet and not sys.stderr.isatty()

    def report(now: "Progress") -> None:
        nonlocal first, printed_s
        # Rate since the first call: rows that an earlier run wrote would inflate it.
        first_s, first_rows = first = first or (time.perf_counter(), now.rows)
        seconds = time.perf_counter() - first_s
        rate = f", {(now.rows - first_rows) / seconds:,.0f} rows/s" if seconds else ""
        total = f" of {now.total:,}" if now.total is not None else ""
        line = f"{now.rows:,}{total} rows{rate}, {now.errors:,} errors"
        bar.show(now.rows, now.total, line)
        if is_logged and time.perf_counter() - printed_s >= _LINE_S:
            printed_s = time.perf_counter()
            print_line(line, is_error=True)

    return report


def _show_confusion(summary: "Summary") -> None:
    from scoring.tally import tabulate

    if summary.accuracy is not None:
        table = tabulate(summary.accuracy)
        if max(len(table), len(table[0])) <= _MATRIX_LABELS + 1:
            show(None, False, table)
