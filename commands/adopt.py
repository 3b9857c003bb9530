"""Adopt a model that was made elsewhere: ``adopt``."""

import dataclasses
import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from commands.console import show
from commands.options import SHIPPED, JsonOption, ModelsOption, open_repository


def adopt(
    *,
    file: Annotated[Path, typer.Argument(metavar="FILE.onnx", help="The graph.")],
    name: Annotated[str, typer.Option(help="Name of the model.")],
    labels: Annotated[
        Path | None, typer.Option(help="One label a line, or a JSON list; else the file's own.")
    ] = None,
    toml: Annotated[Path | None, typer.Option(help="The options below, in a file.")] = None,
    layout: Annotated[str | None, typer.Option(help="NCHW or NHWC; else by its shape.")] = None,
    scale: Annotated[str | None, typer.Option(help="Times each pixel, as 1/255.")] = None,
    mean: Annotated[str | None, typer.Option(help="Then less this; one, or R,G,B.")] = None,
    std: Annotated[str | None, typer.Option(help="Then divided by; one, or R,G,B.")] = None,
    channels: Annotated[str | None, typer.Option(help="RGB or BGR.")] = None,
    resize: Annotated[str | None, typer.Option(help="stretch, crop or pad.")] = None,
    interpolation: Annotated[
        str | None, typer.Option(help="nearest, linear, cubic or area.")
    ] = None,
    size: Annotated[str | None, typer.Option(help="HEIGHTxWIDTH, where it is open.")] = None,
    output: Annotated[str | None, typer.Option(help="Which of several outputs.")] = None,
    gives: Annotated[str | None, typer.Option(help="logits or probabilities.")] = None,
    images: Annotated[
        list[Path] | None, typer.Option(help="Verify on it; may be repeated; else random.")
    ] = None,
    memory_gib: Annotated[
        float, typer.Option(min=0.5, help="The graph may use, while verified.")
    ] = 4,
    models: ModelsOption = SHIPPED,
    as_json: JsonOption = False,
) -> None:
    """Adopt an ONNX classifier made elsewhere: wrap it, prove it answers as before, publish it.

    Example: foveal adopt resnet50.onnx --name resnet50 --labels imagenet.txt --scale 1/255
    --mean 0.485,0.456,0.406 --std 0.229,0.224,0.225 --resize crop
    """
    from export.adopt import Request
    from export.adopt import adopt as publish
    from export.options import read_labels, read_options
    from export.sandbox import Bounds

    flags = {
        "layout": layout,
        "scale": scale,
        "mean": mean,
        "std": std,
        "channels": channels,
        "resize": resize,
        "interpolation": interpolation,
        "size": size,
        "output": output,
        "gives": gives,
    }
    repository = open_repository(models)
    request = Request(
        file,
        read_labels(labels) if labels else (),
        read_options(toml, flags),
        images or (),
        Bounds(int(memory_gib * (1 << 30))),
        shlex.join(["foveal", *sys.argv[1:]]),
    )
    artifact = publish(request, name, repository)
    line = f"{artifact.reference} published in {repository.path(name, artifact.version)}"
    show(dataclasses.asdict(artifact), as_json, [(line,)])
