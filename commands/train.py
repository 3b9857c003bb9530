"""``train`` a network, ``export`` a run."""

import dataclasses
import functools
import inspect
import logging
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from commands.console import show
from commands.help import Command, headed, stoppable
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

if TYPE_CHECKING:
    from training.options import OptionField


class TrainCommand(Command):
    """The command ``train``, whose options are those that ``TrainConfig`` declares.

    They are read when the command is used, not when this module is imported: a Bento and an image
    have the command line without the folder ``training``.
    """

    _params: list[Any]
    _is_complete: bool

    @property
    def params(self) -> list[Any]:
        """The declared options, then those in the signature of ``train``; always the same list."""
        if not self._is_complete:
            self._is_complete = True
            self._params[:0] = _declared_options()
        return self._params

    @params.setter
    def params(self, own: list[Any]) -> None:
        self._params, self._is_complete = own, False

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the command line; ``train`` finds the declared options in ``ctx.obj``."""
        # As earlier releases called it.
        args = [re.sub(r"^--image-size(?==|$)", "--size", word) for word in args]
        rest = super().parse_args(ctx, args)
        ctx.obj = {option.name: ctx.params.pop(option.name) for option in _declared_options()}
        return rest


@headed({"Run": "resume overwrite logger sweep trials publish_as models as_json"})
def train(
    context: typer.Context,
    *,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue an interrupted run with the same options.")
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Throw away the run in the folder and begin anew.")
    ] = False,
    logger: Annotated[
        Literal["tensorboard", "mlflow", "wandb", "none"],
        typer.Option(
            help="Where the figures of each epoch go, besides metrics.csv; mlflow and wandb read "
            "their own environment variables.",
            show_default="tensorboard, if it is installed",
        ),
    ] = "tensorboard",
    sweep: Annotated[
        str | None,
        typer.Option(
            help="Options to search, as 'lr=1e-4..1e-2 log, mixup=0,0.2'; keeps the best run."
        ),
    ] = None,
    trials: Annotated[int, typer.Option(min=1, help="Runs of a sweep.")] = 20,
    publish_as: Annotated[
        str | None,
        typer.Option("--export", metavar="NAME", help="Export the run as this model, too."),
    ] = None,
    models: ModelsOption = SHIPPED,
    as_json: JsonOption = False,
) -> None:
    """Train a network and measure it on the test split.

    The dataset and the network choose a recipe; its values come before the defaults below.
    Networks are those listed, timm's, or what a function of your own makes.

    Example: foveal train --dataset digits --network cnn --run runs/digits
    """
    from models.files import check_writable
    from training.early import check_free, check_options
    from training.endings import describe_progress, explained
    from training.threads import FreeCores

    if resume and overwrite:
        raise typer.BadParameter(
            "expected one of them, got both", param_hint="--resume, --overwrite"
        )
    options: dict[str, Any] = context.obj
    dataset, network, run = (options.pop(name) for name in ("dataset", "network", "run"))
    for name in ("hidden", "widths"):
        options[name] = _widths(f"--{name}", options[name])
    check_options({**options, "dataset": dataset, "network": network})
    folder = Path(run or "runs")
    check_writable(folder, "--run")
    if run and sweep is None and not (resume or overwrite):
        check_free(folder)
    if publish_as is not None:
        from models.repository import check_name

        check_name(publish_as)
    space = None
    if sweep is not None:
        from training.search import parse_space

        space = parse_space(sweep)
    cores = FreeCores.begin()
    with explained(sys.argv[1:], lambda: str(run or dataset)):
        from training.pretrained import check_torchvision

        check_torchvision()
        from training.recipes import resolve

        logging.basicConfig(format="%(message)s")
        logging.getLogger("training").setLevel(logging.INFO)
        repository = open_repository(models) if publish_as is not None else None
        config = resolve(dataset, network, run, **options)
        if config.devices * config.nodes == 1:
            cores.use()
    with explained(sys.argv[1:], lambda: describe_progress(config.run, config.epochs)):
        folder = _run(config, space, trials, resume=resume, overwrite=overwrite, logger=logger)
        model = "" if publish_as is None else _export(folder, publish_as, repository)
    _show_run(folder, model, as_json=as_json)


def _run(
    config: Any, space: Any, trials: int, *, resume: bool, overwrite: bool, logger: Any
) -> Path:
    """Train one run, or the best of a sweep; return its folder."""
    if space is None:
        from training import pipeline

        return pipeline.train(
            config,
            show_progress=sys.stderr.isatty(),
            resume=resume,
            overwrite=overwrite,
            logger=logger,
        )
    from training.sweep import sweep as search

    return search(config, space, trials, resume=resume, overwrite=overwrite)


def _export(folder: Path, name: str, repository: Any) -> str:
    from training import pipeline

    return str(pipeline.export(folder, name, repository).reference)


def _show_run(folder: Path, model: str, *, as_json: bool) -> None:
    from training.runs import read_run

    _, outcome = read_run(folder)
    accuracy, balanced = outcome.test.accuracy, outcome.test.balanced_accuracy
    record: dict[str, Any] = {"run": str(folder), "accuracy": accuracy}
    record["balanced_accuracy"] = balanced
    line = f"{folder}: test accuracy {accuracy:.2%} (balanced {balanced:.2%}); "
    if model:
        line += f"{model} published"
        record["model"] = model
    else:
        line += f"next: foveal export {folder} --name NAME"
    show(record, as_json, [(line,)])


@headed(
    {
        "Publishing": "name precision max_accuracy_drop abstain_precision max_drop_from_serving "
        "force models",
    }
)
def export(
    *,
    run: Annotated[
        Path, typer.Argument(metavar="RUN", help="Folder of a finished run of `foveal train`.")
    ],
    name: Annotated[str, typer.Option(help="Name of the model to publish.")],
    precision: PublishOption = "fp32",
    max_accuracy_drop: DropOption = 0.5,
    abstain_precision: AbstainOption = None,
    max_drop_from_serving: ServingDropOption = 1,
    force: ForceOption = False,
    embedding: Annotated[
        bool, typer.Option("--embedding", help="Add the input of the last layer as an output.")
    ] = False,
    models: ModelsOption = SHIPPED,
    as_json: JsonOption = False,
) -> None:
    """Export a run to ONNX, compare it with torch, and publish it as the model's next version.

    int8 and fp16 are measured on the test split; if one loses too much, nothing is published.

    Example: foveal export runs/digits --name digits-cnn --precision fp32,int8
    """
    from models.files import check_writable
    from models.repository import check_name
    from report.progress import ProgressBar
    from training.early import check_finished, check_precisions

    check_finished(run)
    check_precisions(precision)
    check_name(name)
    check_writable(models, "--models")
    with (
        stoppable("nothing was published; repeat the command"),
        ProgressBar(f"{run}: to ONNX, proof, publication", quiet=as_json) as bar,
    ):
        bar.show(0, None)
        from training.pretrained import check_torchvision

        check_torchvision()
        from training.pipeline import export as publish

        repository = open_repository(models)
        artifact = publish(
            run,
            name,
            repository,
            precision.split(","),
            max_accuracy_drop=max_accuracy_drop / 100,
            abstain_precision=abstain_precision,
            max_drop=None if force else max_drop_from_serving / 100,
            embedding=embedding,
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


@functools.cache
def _declared_options() -> list[Any]:
    """Let typer build the options from their declarations, as it does from a signature."""
    from training.config import OPTIONS

    def declared() -> None: ...

    signature = inspect.Signature([_parameter(field) for field in OPTIONS.values()])
    declared.__signature__ = signature  # type: ignore[attr-defined]
    app = typer.Typer(add_completion=False)
    app.command()(declared)
    command: Any = typer.main.get_command(app)
    return list(command.params)


def _parameter(field: "OptionField") -> inspect.Parameter:
    option = typer.Option(help=field.help, rich_help_panel=field.option.group)
    if field.is_required:
        annotation, default = Annotated[field.word_type, option], inspect.Parameter.empty
    else:
        # None: not given, so the recipe decides.
        annotation, default = Annotated[field.word_type | None, option], None
    return inspect.Parameter(
        field.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation
    )
