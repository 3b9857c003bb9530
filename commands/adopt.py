"""Adopt a model that was made elsewhere: ``adopt``."""

import dataclasses
import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from commands.console import show
from commands.options import SHIPPED, JsonOption, ModelsOption, open_repository

LabelsOption = Annotated[
    Path | None,
    typer.Option(help="Class labels: one a line, or a JSON list (default: the file's own)."),
]
TomlOption = Annotated[Path | None, typer.Option(help="TOML file with the options below.")]
LayoutOption = Annotated[
    str | None, typer.Option(help="Input axes: NCHW or NHWC (default: from its shape).")
]
ScaleOption = Annotated[
    str | None, typer.Option(help="Factor for each pixel, as 1/255 (default: 1).")
]
MeanOption = Annotated[
    str | None, typer.Option(help="Then subtracted: one number, or R,G,B (default: 0).")
]
StdOption = Annotated[
    str | None, typer.Option(help="Then divided by: one number, or R,G,B (default: 1).")
]
ChannelsOption = Annotated[str | None, typer.Option(help="RGB or BGR (default: RGB).")]
ResizeOption = Annotated[str | None, typer.Option(help="stretch, crop or pad (default: stretch).")]
ResizeToOption = Annotated[
    str | None,
    typer.Option(help="Size of the resize before the crop, as 256 (default: the graph's)."),
]
InterpolationOption = Annotated[
    str | None, typer.Option(help="Pillow's filter, as bicubic (default: bilinear).")
]
SizeOption = Annotated[
    str | None, typer.Option(help="HEIGHTxWIDTH, required if the graph leaves it open.")
]
OutputOption = Annotated[
    str | None, typer.Option(help="Output to use, required if there are several.")
]
GivesOption = Annotated[
    str | None, typer.Option(help="Meaning: logits or probabilities (default: from the graph).")
]
ImagesOption = Annotated[
    list[Path] | None,
    typer.Option(help="Image file or folder of them, for the proof; repeatable (default: random)."),
]
PythonOption = Annotated[
    str, typer.Option(help="Python of the environment that a PyTorch model runs in.")
]
WeightsOption = Annotated[Path | None, typer.Option(help="File of weights, of timm:NAME.")]
TrustPickleOption = Annotated[
    bool, typer.Option("--trust-pickle", help="Load a pickle, which can run code.")
]
AcceptDifferenceOption = Annotated[
    bool,
    typer.Option(
        "--accept-difference", help="Publish although pixels differ from a PyTorch transform's."
    ),
]
MemoryOption = Annotated[
    float, typer.Option(min=0.5, help="Memory limit of the graph during the proof, GiB.")
]


def adopt(
    *,
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="FILE.py:FUNCTION that returns (module, transform); an ONNX file; a folder of "
            "transformers; timm:NAME; a .pt2 or TorchScript file.",
        ),
    ],
    name: Annotated[str, typer.Option(help="Name of the model.")],
    labels: LabelsOption = None,
    toml: TomlOption = None,
    layout: LayoutOption = None,
    scale: ScaleOption = None,
    mean: MeanOption = None,
    std: StdOption = None,
    channels: ChannelsOption = None,
    resize: ResizeOption = None,
    resize_to: ResizeToOption = None,
    interpolation: InterpolationOption = None,
    size: SizeOption = None,
    output: OutputOption = None,
    gives: GivesOption = None,
    images: ImagesOption = None,
    python: PythonOption = sys.executable,
    weights: WeightsOption = None,
    trust_pickle: TrustPickleOption = False,
    accept_difference: AcceptDifferenceOption = False,
    memory_gib: MemoryOption = 4,
    models: ModelsOption = SHIPPED,
    as_json: JsonOption = False,
) -> None:
    """Adopt a classifier made elsewhere: wrap it, prove its answers unchanged, publish it.

    Examples: foveal adopt eval.py:make --python ../venv/bin/python --images val/ --name birds;
    foveal adopt resnet50.onnx --name resnet50 --labels imagenet.txt --scale 1/255
    --mean 0.485,0.456,0.406 --std 0.229,0.224,0.225 --resize crop
    """
    from export.adopt import Request
    from export.adopt import adopt as publish
    from export.options import read_labels, read_options
    from export.sandbox import Bounds
    from export.source import list_images, read_source

    flags = {
        "layout": layout,
        "scale": scale,
        "mean": mean,
        "std": std,
        "channels": channels,
        "resize": resize,
        "resize_to": resize_to,
        "interpolation": interpolation,
        "size": size,
        "output": output,
        "gives": gives,
    }
    repository = open_repository(models)
    source = read_source(model, weights)
    request = Request(
        Path(model),
        read_labels(labels) if labels else (),
        read_options(toml, flags),
        list_images(images or ()),
        Bounds(int(memory_gib * (1 << 30))),
        shlex.join(["foveal", *sys.argv[1:]]),
    )
    if source is None:
        artifact = publish(request, name, repository)
    else:
        from export.from_torch import User, exported

        user = User(source, python, trust_pickle, accept_difference)
        with exported(user, request) as taken:
            artifact = publish(taken, name, repository)
    line = f"{artifact.reference} published in {repository.path(name, artifact.version)}"
    show(dataclasses.asdict(artifact), as_json, [(line,)])
