"""Measure: ``loadtest`` a service."""

import dataclasses
import sys
import tempfile
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import typer

from commands.console import show
from commands.options import HOME, SHIPPED, JsonOption, ModelOption, ModelsOption, open_repository


def loadtest(
    *,
    url: Annotated[str, typer.Argument(metavar="[URL]")] = "http://127.0.0.1:3000",
    users: Annotated[int, typer.Option(min=1, help="Connections at once.")] = 32,
    duration_s: Annotated[int, typer.Option(min=1, help="Seconds of load.")] = 10,
    out: Annotated[Path | None, typer.Option(help="For HTML and CSV; else a new one.")] = None,
    model: ModelOption = None,
    start: Annotated[bool, typer.Option("--start", help="Start a service for it.")] = False,
    models: ModelsOption = SHIPPED,
    as_json: JsonOption = False,
) -> None:
    """Measure a service under load with golden images, every label checked; needs locust.

    Example: foveal loadtest http://localhost:3000 --users 32 --duration-s 10
    """
    from loadtest.headless import run_locust, running_service

    repository = open_repository(models)
    artifact = repository.load(*repository.resolve(model))
    folder = out or Path(tempfile.mkdtemp(prefix="foveal-loadtest-"))
    serve = [sys.executable, str(HOME / "foveal.py"), "serve", "--models", str(models.resolve())]
    with running_service(serve, folder / "serve.log") if start else nullcontext(url) as address:
        figures = run_locust(
            address, repository, artifact, folder, users=users, duration_s=duration_s
        )
    document = dataclasses.asdict(figures)
    show(document, as_json, [(title, str(value)) for title, value in document.items()])
    if figures.failures or not figures.requests:
        raise typer.Exit(1)
