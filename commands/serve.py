"""Use a model: ``serve`` the repository, ``predict`` a few images; ``score`` has its own module."""

import dataclasses
import os
from pathlib import Path
from typing import Annotated, Literal

import typer

from commands.console import print_line, show, without_library_output
from commands.help import headed, stop_if_heard
from commands.options import (
    SHIPPED,
    JsonOption,
    ModelOption,
    ModelsOption,
    PrecisionOption,
    open_repository,
)

PortOption = Annotated[
    int, typer.Option(min=0, max=65535, help="Port to listen on; 0: a free one.")
]


def _take_host(host: str) -> str:
    """Take the variable out of the environment: to the service itself it is no setting."""
    os.environ.pop("FOVEAL_HOST", None)
    return host


HostOption = Annotated[
    str,
    typer.Option(
        envvar="FOVEAL_HOST",
        callback=_take_host,
        help="Address to listen on; 0.0.0.0: all of this machine's.",
    ),
]
WorkersOption = Annotated[
    int | None,
    typer.Option(
        min=1, help="Worker processes that share the port.", show_default="FOVEAL_WORKERS, else 1"
    ),
]
DeviceOption = Annotated[
    Literal["auto", "cpu", "cuda", "tensorrt"] | None,
    typer.Option(
        help="Device that runs models; auto is a GPU if one works, else the CPU.",
        show_default="FOVEAL_DEVICE, else auto",
    ),
]
MaxImagePixelsOption = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Most pixels of an image as it is decoded.",
        show_default="FOVEAL_MAX_IMAGE_PIXELS, else by memory, at most 33554432",
    ),
]
DryRunOption = Annotated[
    bool,
    typer.Option(
        "--dry-run",
        help="Load and check what would be served, print it, and end; 1 if a version is refused.",
    ),
]
UrlOption = Annotated[
    str | None,
    typer.Option(help="Running service to use, http://host:port.", show_default="none, run here"),
]
LocalOption = Annotated[
    bool, typer.Option("--local", help="Run the model in this process, as without --url.")
]


@headed(
    {
        "Address": "host port",
        "Running": "workers device max_image_pixels",
    }
)
def serve(
    models: ModelsOption = SHIPPED,
    port: PortOption = 3000,
    host: HostOption = "127.0.0.1",
    workers: WorkersOption = None,
    device: DeviceOption = None,
    max_image_pixels: MaxImagePixelsOption = None,
    is_dry: DryRunOption = False,
    as_json: JsonOption = False,
) -> None:
    """Serve the models over HTTP; FOVEAL_* variables hold the other settings.

    Example: foveal serve --models models --port 3000
    """
    from service.launch import become_bentoml, configure, prepare

    if as_json and not is_dry:
        raise typer.BadParameter("expected --dry-run with it", param_hint="--json")
    models = open_repository(models).root
    if is_dry:
        from service.access.access import open_access
        from service.rollout.dry_run import load_all, tabulate
        from service.settings import load_settings

        configure(models, workers, device, max_image_pixels)
        settings = load_settings()
        open_access(settings)
        rows = load_all(settings)
        show([dataclasses.asdict(row) for row in rows], as_json, tabulate(rows))
        if any(row.error for row in rows):
            raise typer.Exit(1)
        return
    words = prepare(models, host, port, workers, device, max_image_pixels)
    become_bentoml(words, stop_if_heard)


def predict(
    *,
    images: Annotated[list[str], typer.Argument(metavar="IMAGE…", help="Files to classify.")],
    model: ModelOption = None,
    top: Annotated[int, typer.Option(min=1, help="Number of labels for each image.")] = 5,
    url: UrlOption = None,
    local: LocalOption = False,
    precision: PrecisionOption = "fp32",
    models: ModelsOption = SHIPPED,
    as_json: JsonOption = False,
) -> None:
    """Classify a few images, in this process or with a running service.

    The exit code is 3 if an image has an error.

    Example: foveal predict boot.png --model fashion-cnn --top 2
    """
    if not url:  # before what takes a second to import
        open_repository(models).resolve(model)
    from scoring.predictions import Predictor, predict_files, tabulate

    if url and local:
        raise typer.BadParameter("expected one of them, got both", param_hint="--url, --local")
    equal: set[str] = set()
    if url:
        from scoring.remote import RemoteModel

        predictor: Predictor = RemoteModel(url, model or "")
    else:
        from models.labels import equal_labels
        from scoring.local import LocalModel

        loaded = LocalModel.load(open_repository(models), model, precision=precision)
        predictor, equal = loaded, equal_labels(loaded.artifact.labels)
    with without_library_output():
        response = predict_files(predictor, images, top)
    show(response, as_json, tabulate(response, equal))
    rejected = [result for result in response["results"] if "error" in result]
    for result in rejected:
        way = "; `foveal score` takes folders" if Path(result["image"]).is_dir() else ""
        print_line(f"{result['image']}: {result['error']}{way}", is_error=True)
    if rejected:
        raise typer.Exit(3)
