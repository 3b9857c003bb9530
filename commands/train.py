"""Make a model: ``train`` a network, ``export`` it."""

import dataclasses
import logging
import sys
from pathlib import Path
from typing import Annotated

import typer

from commands.console import show
from commands.options import SHIPPED, JsonOption, ModelsOption, open_repository


def train(
    *,
    dataset: Annotated[str, typer.Option(help="A name, as digits, or folder:PATH.")],
    network: Annotated[str, typer.Option(help="neuron, fcnn, cnn, resnet, speednet.")],
    run: Annotated[Path | None, typer.Option(help="Folder; else runs/DATASET-NETWORK.")] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Folder of the dataset's files.")] = None,
    image_size: Annotated[int | None, typer.Option(help="Resize files to it, pixels.")] = None,
    grey: Annotated[bool | None, typer.Option(help="Read files as grey images.")] = None,
    positive: Annotated[str | None, typer.Option(help="Tell one class from all others.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the training split.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Images a step.")] = None,
    loss: Annotated[str | None, typer.Option(help="Name of the loss.")] = None,
    optimizer: Annotated[str | None, typer.Option(help="Name of the optimizer.")] = None,
    momentum: Annotated[float | None, typer.Option(help="sgd: share of the last step.")] = None,
    nesterov: Annotated[bool | None, typer.Option(help="sgd: look ahead.")] = None,
    lr: Annotated[float | None, typer.Option(help="Largest learning rate.")] = None,
    weight_decay: Annotated[float | None, typer.Option(help="On matrices and kernels.")] = None,
    bias_lr: Annotated[float | None, typer.Option(help="Biases: times the others' rate.")] = None,
    schedule: Annotated[str | None, typer.Option(help="Course of the learning rate.")] = None,
    warmup: Annotated[float | None, typer.Option(help="Share of the steps it rises.")] = None,
    label_smoothing: Annotated[float | None, typer.Option(help="Share over all classes.")] = None,
    hidden: Annotated[str | None, typer.Option(help="fcnn: widths, as 512,512.")] = None,
    widths: Annotated[str | None, typer.Option(help="Widths of the stages, as 32,64.")] = None,
    depth: Annotated[int | None, typer.Option(help="Convolutions or blocks a stage.")] = None,
    activation: Annotated[str | None, typer.Option(help="Name of the activation.")] = None,
    dropout: Annotated[float | None, typer.Option(help="Before linear layers.")] = None,
    shift: Annotated[int | None, typer.Option(help="Largest shift, pixels.")] = None,
    border: Annotated[str | None, typer.Option(help="What moves in: black, reflect.")] = None,
    flip: Annotated[bool | None, typer.Option(help="Mirror half of the images.")] = None,
    cutout: Annotated[int | None, typer.Option(help="Side of a hole, pixels.")] = None,
    ema: Annotated[float | None, typer.Option(help="Decay of the average of weights.")] = None,
    autocast: Annotated[
        str | None, typer.Option(help="Matrix products: auto, bfloat16, float16, none.")
    ] = None,
    clip: Annotated[float | None, typer.Option(help="Largest norm of the gradient.")] = None,
    patience: Annotated[int | None, typer.Option(help="Epochs to wait for a better one.")] = None,
    keep: Annotated[str | None, typer.Option(help="Weights of which epoch: best, last.")] = None,
    devices: Annotated[int | None, typer.Option(help="Devices a machine.")] = None,
    nodes: Annotated[int | None, typer.Option(help="Machines.")] = None,
    validation: Annotated[float | None, typer.Option(help="Share held out.")] = None,
    split_seed: Annotated[int | None, typer.Option(help="Chooses who is held out.")] = None,
    seed: Annotated[int | None, typer.Option(help="Chooses weights and order.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on after an interruption.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Train a network and measure it on the test split; what is not given, the recipe says.

    Example: foveal train --dataset digits --network cnn --run runs/digits
    """
    from training.pipeline import train as fit
    from training.recipes import default_run, resolve
    from training.runs import read_run

    logging.basicConfig(format="%(message)s")
    logging.getLogger("training").setLevel(logging.INFO)
    config = resolve(
        dataset,
        network,
        run or default_run(dataset, network),
        data_dir=data_dir,
        image_size=image_size,
        grey=grey,
        positive=positive,
        epochs=epochs,
        batch_size=batch_size,
        loss=loss,
        optimizer=optimizer,
        momentum=momentum,
        nesterov=nesterov,
        lr=lr,
        weight_decay=weight_decay,
        bias_lr=bias_lr,
        schedule=schedule,
        warmup=warmup,
        label_smoothing=label_smoothing,
        hidden=_widths("--hidden", hidden),
        widths=_widths("--widths", widths),
        depth=depth,
        activation=activation,
        dropout=dropout,
        shift=shift,
        border=border,
        flip=flip,
        cutout=cutout,
        ema=ema,
        autocast=autocast,
        clip=clip,
        patience=patience,
        keep=keep,
        devices=devices,
        nodes=nodes,
        validation=validation,
        split_seed=split_seed,
        seed=seed,
    )
    folder = fit(config, show_progress=sys.stderr.isatty(), resume=resume)
    _, outcome = read_run(folder)
    accuracy = outcome.test.accuracy
    line = f"{folder}: test accuracy {accuracy:.2%}; next: foveal export {folder} --name NAME"
    show({"run": str(folder), "accuracy": accuracy}, as_json, [(line,)])


def export(
    *,
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder that `foveal train` left.")],
    name: Annotated[str, typer.Option(help="Name of the model.")],
    precision: Annotated[str, typer.Option(help="Files: fp32, also int8, fp16.")] = "fp32",
    max_accuracy_drop: Annotated[
        float, typer.Option(min=0, max=100, help="What int8, fp16 may lose, points.")
    ] = 0.5,
    abstain_precision: Annotated[
        float | None, typer.Option(help="Answer only where this share is right, as 0.99.")
    ] = None,
    models: ModelsOption = SHIPPED,
    as_json: JsonOption = False,
) -> None:
    """Export a run to ONNX, prove that nothing changed, publish it as the model's next version.

    int8 and fp16 are measured on the test split; one that loses too much stops the export.

    Example: foveal export runs/digits --name digits-cnn --precision fp32,int8
    """
    from training.pipeline import export as publish

    repository = open_repository(models)
    artifact = publish(
        run,
        name,
        repository,
        precision.split(","),
        max_accuracy_drop=max_accuracy_drop / 100,
        abstain_precision=abstain_precision,
    )
    served = repository.resolve(name)[1]
    line = f"{artifact.reference} published in {repository.path(name, artifact.version)}"
    if served != artifact.version:
        line += f"; version {served} is pinned: `foveal models default {name} {artifact.version}`"
    show(dataclasses.asdict(artifact), as_json, [(line,)])


def _widths(option: str, text: str | None) -> tuple[int, ...] | None:
    try:
        return None if text is None else tuple(int(word) for word in text.split(","))
    except ValueError:
        message = f"expected widths as 512,512, got {text!r}"
        raise typer.BadParameter(message, param_hint=option) from None
