"""Ask a model: ``serve`` it, ``predict`` a few images; ``score`` has a module of its own."""

import sys
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
    device: Annotated[
        Literal["auto", "cpu", "cuda", "tensorrt"] | None, typer.Option(help="Who computes.")
    ] = None,
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
    from scoring.predictions import Predictor, predict_files, tabulate

    if url and local:
        raise typer.BadParameter("expected one of them, got both", param_hint="--url, --local")
    if url:
        from scoring.remote import RemoteModel

        predictor: Predictor = RemoteModel(url, model or "")
    else:
        from scoring.local import LocalModel

        predictor = LocalModel.load(open_repository(models), model, precision=precision)
    response = predict_files(predictor, images, top)
    show(response, as_json, tabulate(response))
    rejected = [result for result in response["results"] if "error" in result]
    for result in rejected:
        print(f"{result['image']}: {result['error']}", file=sys.stderr)
    if rejected:
        raise typer.Exit(3)
