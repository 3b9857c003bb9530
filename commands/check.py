"""Look through a dataset before training: ``foveal check``."""

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from commands.console import show, without_library_output
from commands.help import stoppable
from commands.options import SHIPPED, JsonOption, ModelsOption, open_repository

if TYPE_CHECKING:
    from training.quality.findings import Outcome


def check(
    dataset: Annotated[
        str,
        typer.Argument(
            metavar="DATASET",
            help="Dataset, as `foveal train --dataset` takes it: folder:PATH, parquet:PATH or a "
            "name.",
        ),
    ],
    *,
    data_dir: Annotated[
        Path | None,
        typer.Option(help="Folder of the files of a dataset with a name.", show_default="its own"),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            metavar="NAME[:V]",
            help="Model that checks the labels; it has not seen these images.",
            show_default="cross-validation",
        ),
    ] = None,
    skip_labels: Annotated[
        bool, typer.Option("--skip-labels", help="Leave out the search for wrong labels.")
    ] = False,
    similarity: Annotated[
        float,
        typer.Option(
            min=0.5, max=1, help="Least correlation of near-duplicates; photographs: 0.9."
        ),
    ] = 0.99,
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Output folder.", show_default="runs/check/DATASET"),
    ] = None,
    models: ModelsOption = SHIPPED,
    quiet: Annotated[bool, typer.Option("--quiet", help="Hide the progress bar.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Look through a dataset: unreadable files, duplicates, wrong labels, odd images.

    Writes report.html, with pictures, and findings.csv, with a row for each thing to look at. The
    exit code is 0 whatever is found.

    Example: foveal check folder:photos
    """
    from models.files import check_writable
    from training.early import check_dataset

    folder = out or Path("runs") / "check" / re.sub(r"[^\w.-]+", "-", dataset).strip("-")
    check_dataset(dataset)
    check_writable(folder, "--out")
    from report.progress import ProgressBar
    from training.quality.findings import FINDINGS_CSV
    from training.quality.page import REPORT_HTML
    from training.quality.pipeline import Labels, list_dataset
    from training.quality.pipeline import check as look_through

    labels = Labels(model, open_repository(models) if model else None, skip_labels)
    with (
        stoppable("no report was written; repeat the command"),
        without_library_output(),
        ProgressBar(dataset, quiet=quiet) as bar,
    ):
        outcome = look_through(
            list_dataset(dataset, data_dir),
            folder,
            labels,
            similarity=similarity,
            command=" ".join(["foveal", *sys.argv[1:]]),
            on_progress=lambda stage, done, total: bar.show(done, total, stage),
        )
    table, page = folder / FINDINGS_CSV, folder / REPORT_HTML
    document = outcome.to_json() | {"table": str(table), "report": str(page)}
    show(document, as_json, [*_lines(outcome), ("table", str(table)), ("report", str(page))])


def _lines(outcome: "Outcome") -> list[tuple[str, str]]:
    """Return the summary: the dataset, and the kinds of which something was found."""
    from training.quality.findings import KINDS, count_kinds

    summary = outcome.to_json()
    splits = ", ".join(f"{name} {count:,}" for name, count in summary["splits"].items())
    lines = [
        (
            outcome.listing.name,
            f"{summary['images']:,} images of {summary['labels']} classes: {splits}",
        ),
        ("labels", outcome.judged),
    ]
    counts = count_kinds(outcome.findings)
    lines += [(KINDS[kind][0], f"{count:,}") for kind, count in counts.items() if count]
    if not outcome.findings:
        lines.append(("nothing found", ""))
    if outcome.estimate is not None:
        lines.insert(2, ("Wrong labels, estimated", f"{outcome.estimate:,}"))
    if outcome.orientations:
        lines.append(("Turned by EXIF only", f"{outcome.orientations:,}"))
    if outcome.listing.passed_over:
        lines.append(("Files of the system, passed over", f"{outcome.listing.passed_over:,}"))
    return lines
