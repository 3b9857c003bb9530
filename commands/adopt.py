"""Adopt a model that was made elsewhere: ``adopt``."""

import dataclasses
import errno
import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from commands.console import show
from commands.help import headed, stoppable
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
from commands.record import as_pictures

if TYPE_CHECKING:
    from export.adopt import Request
    from export.from_torch import User
    from models.artifact import ModelArtifact
    from models.repository import ModelRepository

LabelsOption = Annotated[
    Path | None,
    typer.Option(
        help="Class labels: one a line, JSON, CSV or a Python dict.", show_default="the file's own"
    ),
]
TomlOption = Annotated[Path | None, typer.Option(help="TOML file with the options below.")]
LayoutOption = Annotated[
    str | None, typer.Option(help="Input axes: NCHW or NHWC.", show_default="from its shape")
]
ScaleOption = Annotated[
    str | None, typer.Option(help="Factor for each pixel, as 1/255.", show_default="1")
]
MeanOption = Annotated[
    str | None, typer.Option(help="Then subtracted: one number, or R,G,B.", show_default="0")
]
StdOption = Annotated[
    str | None, typer.Option(help="Then divided by: one number, or R,G,B.", show_default="1")
]
ChannelsOption = Annotated[str | None, typer.Option(help="RGB or BGR.", show_default="RGB")]
ResizeOption = Annotated[
    str | None,
    typer.Option(
        help="stretch, crop or pad; or the shorter side before a centre crop, as 256.",
        show_default="stretch",
    ),
]
CropShareOption = Annotated[
    str | None,
    typer.Option(help="Share of the resized picture that is kept, as 0.875.", show_default="1"),
]
CropRoundingOption = Annotated[
    str | None,
    typer.Option(help="Offset of the centre: half-even, or floor as transformers."),
]
FilterOption = Annotated[
    str | None, typer.Option(help="Pillow's filter, as bicubic.", show_default="bilinear")
]
PadColourOption = Annotated[
    str | None, typer.Option(help="Colour of the padding, as 114 or R,G,B.", show_default="0")
]
LoaderOption = Annotated[
    str | None,
    typer.Option(
        help="viewer: EXIF applied, transparency over white; pillow: as Image.open(f).convert.",
        show_default="viewer",
    ),
]
ScaledDecodingOption = Annotated[
    bool,
    typer.Option(
        "--scaled-decoding",
        help="Decode large JPEGs at 1/2, 1/4 or 1/8: faster; 50 of --images show what it changes.",
    ),
]
SizeOption = Annotated[
    str | None, typer.Option(help="HEIGHTxWIDTH, required if the graph leaves it open.")
]
OutputOption = Annotated[
    str | None, typer.Option(help="Output to use, required if there are several.")
]
GivesOption = Annotated[
    str | None,
    typer.Option(help="Meaning: logits or probabilities.", show_default="from the graph"),
]
TaskOption = Annotated[
    str | None,
    typer.Option(help="single-label, binary or multi-label.", show_default="from the graph"),
]
ThresholdOption = Annotated[
    str | None,
    typer.Option(
        help="Least probability of a multi-label answer, or a file of one a label.",
        show_default="0.5",
    ),
]
InputChannelsOption = Annotated[
    str | None, typer.Option(help="1 or 3, required if neither shape nor first layer says it.")
]
ImagesOption = Annotated[
    list[Path] | None,
    typer.Option(
        help="Image or folder for the proof, its folders named as labels; repeatable.",
        show_default="random pixels",
    ),
]
ExpectedOption = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Your own answers: .npy, a row for each sorted image, or .csv by file name.",
    ),
]
CalibrateOption = Annotated[
    bool,
    typer.Option(
        "--calibrate",
        help="Fit a temperature on half of the labelled images; else probabilities stay.",
    ),
]
PythonOption = Annotated[
    str,
    typer.Option(
        help="Python of the environment that a PyTorch model runs in.",
        show_default="that of Foveal",
    ),
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
    float | None,
    typer.Option(
        min=0.5,
        help="Memory limit of the graph during the proof, GiB.",
        show_default="4, or 1 and 2.5 times its weights",
    ),
]


@headed(
    {
        "Labels and answers": "labels output gives task threshold",
        "Pixels": "toml layout scale mean std channels input_channels size resize crop_share "
        "crop_rounding filter pad_colour loader scaled_decoding",
        "Proof": "images expected calibrate accept_difference memory_gib",
        "PyTorch": "python weights trust_pickle",
        "Publishing": "name precision max_accuracy_drop abstain_precision max_drop_from_serving "
        "force models",
    }
)
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
    crop_share: CropShareOption = None,
    crop_rounding: CropRoundingOption = None,
    filter: FilterOption = None,
    pad_colour: PadColourOption = None,
    loader: LoaderOption = None,
    scaled_decoding: ScaledDecodingOption = False,
    size: SizeOption = None,
    output: OutputOption = None,
    gives: GivesOption = None,
    task: TaskOption = None,
    threshold: ThresholdOption = None,
    input_channels: InputChannelsOption = None,
    images: ImagesOption = None,
    expected: ExpectedOption = None,
    calibrate: CalibrateOption = False,
    abstain_precision: AbstainOption = None,
    precision: PublishOption = "fp32",
    max_accuracy_drop: DropOption = 0.5,
    max_drop_from_serving: ServingDropOption = 1,
    force: ForceOption = False,
    python: PythonOption = sys.executable,
    weights: WeightsOption = None,
    trust_pickle: TrustPickleOption = False,
    accept_difference: AcceptDifferenceOption = False,
    memory_gib: MemoryOption = None,
    models: ModelsOption = SHIPPED,
    as_json: JsonOption = False,
) -> None:
    r"""Adopt a classifier made elsewhere: wrap it, prove its answers unchanged, publish it.

    Example: foveal adopt eval.py:make --python ../venv/bin/python --images val/ --name birds

    Example: foveal adopt resnet50.onnx --name resnet50 --labels imagenet.txt --resize 256 \
        --scale 1/255 --mean 0.485,0.456,0.406 --std 0.229,0.224,0.225
    """
    _check_early(model, name, models)
    from export.adopt import Request
    from export.examine import Wanted
    from export.from_torch import User
    from export.labels import read_labels
    from export.options import read_options
    from export.precision import lower_precisions
    from export.sandbox import Bounds
    from export.source import read_source

    flags = {
        "layout": layout,
        "scale": scale,
        "mean": mean,
        "std": std,
        "channels": channels,
        "resize": resize,
        "crop_share": crop_share,
        "crop_rounding": crop_rounding,
        "filter": filter,
        "pad_colour": pad_colour,
        "loader": loader,
        "size": size,
        "output": output,
        "gives": gives,
        "task": task,
        "threshold": threshold,
        "input_channels": input_channels,
    }
    lower, drop = lower_precisions(precision), max_accuracy_drop / 100
    repository = open_repository(models)
    source = read_source(model, weights)
    request = Request(
        Path(model),
        read_labels(labels) if labels else (),
        read_options(toml, flags),
        (),
        Bounds() if memory_gib is None else Bounds(int(memory_gib * (1 << 30)), is_given=True),
        shlex.join(["foveal", *sys.argv[1:]]),
        expected=expected,
        wanted=Wanted(calibrate, abstain_precision, lower, drop, scaled_decoding),
        max_drop=max_drop_from_serving / 100,
        force=force,
    )
    user = None if source is None else User(source, python, trust_pickle, accept_difference)
    with stoppable("nothing was published; repeat the command"):
        artifact = _publish(request, images or [], user, name, repository)
    line = _summary(artifact, repository.path(name, artifact.version))
    show(dataclasses.asdict(artifact), as_json, [(line,)])


def _check_early(model: str, name: str, models: Path) -> None:
    """Refuse what needs no import that takes a while."""
    from models.files import check_writable
    from models.repository import check_name

    check_name(name)
    check_writable(models, "--models")
    if ":" not in model and not Path(model).exists():
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), model)


def _publish(
    request: "Request",
    images: "list[Path]",
    user: "User | None",
    name: str,
    repository: "ModelRepository",
) -> "ModelArtifact":
    from export.adopt import adopt as publish
    from export.from_torch import exported

    with as_pictures(images, repository) as pictures:
        request = dataclasses.replace(request, images=pictures)
        if user is None:
            return publish(request, name, repository)
        with exported(user, request) as taken:
            return publish(taken, name, repository)


def _summary(artifact: "ModelArtifact", folder: Path) -> str:
    line = f"{artifact.reference} published in {folder}"
    proof, metrics = artifact.proof, artifact.metrics
    if proof is not None:
        line += f"; {proof.images} files answered as {proof.reference} says"
        if proof.label_agreement < 1 or proof.max_probability_difference > proof.tolerance:
            line += (
                f" for {proof.label_agreement:.2%} of the labels, probabilities within "
                f"{proof.max_probability_difference:.2g}"
            )
    if metrics is not None:
        line += f"; accuracy {metrics.accuracy:.2%} of {metrics.images} images"
    return line
