"""Ask a model: ``serve`` it, ``predict`` a few images, ``score`` many."""

import dataclasses
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from commands.console import show
from commands.options import (
    SHIPPED,
    JsonOption,
    ModelOption,
    ModelsOption,
    PrecisionOption,
    open_repository,
)


def serve(
    models: ModelsOption = SHIPPED,
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")] = 3000,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "0.0.0.0",
    workers: Annotated[int | None, typer.Option(min=1, help="Processes on the port.")] = None,
    device: Annotated[Literal["auto", "cpu"] | None, typer.Option(help="Who computes.")] = None,
) -> None:
    """Serve the models over HTTP; other settings are FOVEAL_* variables.

    Example: foveal serve --models models --port 3000
    """
    from service.launch import launch

    launch(models, host, port, workers, device)


def predict(
    *,
    images: Annotated[list[str], typer.Argument(metavar="IMAGE…", help="Files to classify.")],
    model: ModelOption = None,
    top: Annotated[int, typer.Option(min=1, help="Labels an image.")] = 5,
    url: Annotated[str | None, typer.Option(help="Ask the service there.")] = None,
    local: Annotated[bool, typer.Option("--local", help="Here; so it is without --url.")] = False,
    precision: PrecisionOption = "fp32",
    models: ModelsOption = SHIPPED,
    as_json: JsonOption = False,
) -> None:
    """Classify a few images, here or through a running service.

    Example: foveal predict boot.png --model fashion-cnn --top 2
    """
    from service.answer import Answerer, predict_files, tabulate

    if url and local:
        raise typer.BadParameter("expected one of them, got both", param_hint="--url, --local")
    if url:
        from service.remote import RemoteModel

        answerer: Answerer = RemoteModel(url, model or "")
    else:
        from service.local import LocalModel

        answerer = LocalModel.load(open_repository(models), model, precision=precision)
    answer = predict_files(answerer, images, top)
    show(answer, as_json, tabulate(answer))
    rejected = [result for result in answer["results"] if "error" in result]
    for result in rejected:
        print(f"{result['image']}: {result['error']}", file=sys.stderr)
    if rejected:
        raise typer.Exit(3)


def score(
    sources: Annotated[
        list[str], typer.Argument(metavar="SOURCE…", help="Folders, files, patterns: 'a/*.png'.")
    ],
    model: Annotated[str, typer.Option(metavar="NAME[:V]", help="Who answers.")],
    out: Annotated[Path, typer.Option(metavar="FILE", help="Table: .parquet, .csv or .jsonl.")],
    precision: PrecisionOption = "fp32",
    models: ModelsOption = SHIPPED,
    as_json: JsonOption = False,
) -> None:
    """Classify many images into one table, one row a file; a bad file is a row with an error.

    Example: foveal score photos --model fashion-cnn --out scores.parquet
    """
    from rich.console import Console
    from rich.progress import MofNCompleteColumn, Progress, TimeRemainingColumn

    from service import score as scorer
    from service.local import LocalModel
    from service.sinks import SINKS

    if out.suffix not in SINKS:
        expected = f"expected a name ending in {', '.join(SINKS)}, got {out.name!r}"
        raise typer.BadParameter(expected, param_hint="--out")
    loaded = LocalModel.load(open_repository(models), model, precision=precision)
    columns = *Progress.get_default_columns()[:2], MofNCompleteColumn(), TimeRemainingColumn()
    console = Console(stderr=True)
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task(loaded.artifact.reference, total=None)
        summary = scorer.score(
            sources, loaded, out,
            on_progress=lambda now: bar.update(task, completed=now.rows, total=now.total),
        )  # fmt: skip
    show(dataclasses.asdict(summary), as_json, [(str(summary),)])
    if summary.errors:
        raise typer.Exit(3)
