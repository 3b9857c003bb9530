"""Adopt a model that was made elsewhere: ``adopt``."""

import dataclasses
import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from commands.console import show
from commands.options import (
    SHIPPED,
    AbstainOption,
    DropOption,
    ForceOption,
    JsonOption,
    ModelsOption,
    PublishOption,
    ServingDropOption,
    open_repository,
)

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
    typer.Option(
        help="Image or folder for the proof, its folders named as labels; repeatable "
        "(default: random pixels)."
    ),
]
ExpectedOption = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Your own answers: .npy, a row for each sorted image, or .csv by file name.",
    ),
]
ExifOption = Annotated[
    str | None, typer.Option(help="EXIF orientation: apply or ignore (default: apply).")
]
TransparencyOption = Annotated[
    str | None,
    typer.Option(help="Transparent pixels: over white, or drop (default: white)."),
]
CalibrateOption = Annotated[
    bool,
    typer.Option(
        "--calibrate",
        help="Fit a temperature on half of the labelled images; else probabilities stay.",
    ),
]
MemoryOption = Annotated[
    float, typer.Option(min=0.5, help="Memory limit of the graph during the proof, GiB.")
]


def adopt(
    *,
    file: Annotated[Path, typer.Argument(metavar="FILE.onnx", help="ONNX file to adopt.")],
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
    exif: ExifOption = None,
    transparency: TransparencyOption = None,
    images: ImagesOption = None,
    expected: ExpectedOption = None,
    calibrate: CalibrateOption = False,
    abstain_precision: AbstainOption = None,
    precision: PublishOption = "fp32",
    max_accuracy_drop: DropOption = 0.5,
    max_drop_from_serving: ServingDropOption = 1,
    force: ForceOption = False,
    memory_gib: MemoryOption = 4,
    models: ModelsOption = SHIPPED,
    as_json: JsonOption = False,
) -> None:
    """Adopt an ONNX classifier made elsewhere: wrap it, prove its answers unchanged, publish it.

    Example: foveal adopt resnet50.onnx --name resnet50 --labels imagenet.txt --scale 1/255
    --mean 0.485,0.456,0.406 --std 0.229,0.224,0.225 --resize crop
    """
    from export.adopt import Request
    from export.adopt import adopt as publish
    from export.examine import Wanted
    from export.options import read_labels, read_options
    from export.precision import lower_precisions
    from export.sandbox import Bounds

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
        "exif": exif,
        "transparency": transparency,
    }
    repository = open_repository(models)
    request = Request(
        file,
        read_labels(labels) if labels else (),
        read_options(toml, flags),
        images or (),
        Bounds(int(memory_gib * (1 << 30))),
        shlex.join(["foveal", *sys.argv[1:]]),
        expected,
        Wanted(calibrate, abstain_precision, lower_precisions(precision), max_accuracy_drop / 100),
        max_drop_from_serving / 100,
        force,
    )
    artifact = publish(request, name, repository)
    line = f"{artifact.reference} published in {repository.path(name, artifact.version)}"
    proof, metrics = artifact.proof, artifact.metrics
    if proof is not None:
        line += f"; {proof.images} files answered as {proof.reference} says"
    if metrics is not None:
        line += f"; accuracy {metrics.accuracy:.2%} of {metrics.images} images"
    show(dataclasses.asdict(artifact), as_json, [(line,)])
