"""The command line, one function a command: parses, calls a package, prints.

A package is imported when a command that needs it runs, so `foveal predict` never waits for torch.
Exit codes: 0 done, 1 failed, 2 the command line is wrong, 3 finished, but some rows were rejected.
A user's mistake is one line on stderr, ``where: expected X, got Y; how to fix it``; a traceback is
always a bug.
"""

import dataclasses
import logging
import sys
import tempfile
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, NoReturn

import typer

from foveal_console import explain, show

if TYPE_CHECKING:
    from models.repository import ModelRepository

HOME = Path(__file__).resolve().parent

app = typer.Typer(
    help="From a PyTorch image classifier to a fast, safe endpoint.", no_args_is_help=True,
    add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)  # fmt: skip
models_app = typer.Typer(help="Look into and change the model repository.", no_args_is_help=True)
app.add_typer(models_app, name="models")

SHIPPED = HOME / "models"
ModelsOption = Annotated[Path, typer.Option(
    "--models", metavar="DIR", envvar="FOVEAL_MODELS", help="Model repository.",
    show_default="the shipped models",
)]  # fmt: skip
ModelOption = Annotated[str | None, typer.Option(metavar="NAME[:V]", help="Else the default one.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run a command and exit with its code.

    Args:
        arguments: Words after ``foveal``; None: those of the process.
    """
    try:
        code = app(args=arguments, prog_name="foveal", standalone_mode=False)
    except Exception as error:
        message = explain(error)
        if message is None:
            raise
        print(message, file=sys.stderr)
        sys.exit(getattr(error, "exit_code", 1))
    sys.exit(code or 0)


@app.command()
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


@app.command()
def predict(
    *,
    images: Annotated[list[str], typer.Argument(metavar="IMAGE…", help="Files to classify.")],
    model: ModelOption = None,
    top: Annotated[int, typer.Option(min=1, help="Labels an image.")] = 5,
    url: Annotated[str | None, typer.Option(help="Ask the service there.")] = None,
    local: Annotated[bool, typer.Option("--local", help="Here; so it is without --url.")] = False,
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

        answerer = LocalModel.load(_repository(models), model)
    answer = predict_files(answerer, images, top)
    show(answer, as_json, tabulate(answer))
    rejected = [result for result in answer["results"] if "error" in result]
    for result in rejected:
        print(f"{result['image']}: {result['error']}", file=sys.stderr)
    if rejected:
        raise typer.Exit(3)


@app.command()
def score(
    sources: Annotated[
        list[str], typer.Argument(metavar="SOURCE…", help="Folders, files, patterns: 'a/*.png'.")
    ],
    model: Annotated[str, typer.Option(metavar="NAME[:V]", help="Who answers.")],
    out: Annotated[Path, typer.Option(metavar="FILE", help="Table: .parquet, .csv or .jsonl.")],
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
    loaded = LocalModel.load(_repository(models), model)
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


@app.command()
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
    schedule: Annotated[str | None, typer.Option(help="Course of the learning rate.")] = None,
    warmup: Annotated[float | None, typer.Option(help="Share of the steps it rises.")] = None,
    label_smoothing: Annotated[float | None, typer.Option(help="Share over all classes.")] = None,
    hidden: Annotated[str | None, typer.Option(help="fcnn: widths, as 512,512.")] = None,
    widths: Annotated[str | None, typer.Option(help="Widths of the stages, as 32,64.")] = None,
    depth: Annotated[int | None, typer.Option(help="Convolutions or blocks a stage.")] = None,
    activation: Annotated[str | None, typer.Option(help="Name of the activation.")] = None,
    dropout: Annotated[float | None, typer.Option(help="Before linear layers.")] = None,
    shift: Annotated[int | None, typer.Option(help="Largest shift, pixels.")] = None,
    flip: Annotated[bool | None, typer.Option(help="Mirror half of the images.")] = None,
    cutout: Annotated[int | None, typer.Option(help="Side of a hole, pixels.")] = None,
    ema: Annotated[float | None, typer.Option(help="Decay of the average of weights.")] = None,
    autocast: Annotated[
        str | None, typer.Option(help="Matrix products: auto, bfloat16, float16, none.")
    ] = None,
    clip: Annotated[float | None, typer.Option(help="Largest norm of the gradient.")] = None,
    patience: Annotated[int | None, typer.Option(help="Epochs to wait for a better one.")] = None,
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
        dataset, network, run or default_run(dataset, network), data_dir=data_dir,
        image_size=image_size, grey=grey, positive=positive, epochs=epochs, batch_size=batch_size,
        loss=loss, optimizer=optimizer, momentum=momentum, nesterov=nesterov, lr=lr,
        weight_decay=weight_decay, schedule=schedule, warmup=warmup,
        label_smoothing=label_smoothing, hidden=_widths("--hidden", hidden),
        widths=_widths("--widths", widths), depth=depth, activation=activation, dropout=dropout,
        shift=shift, flip=flip, cutout=cutout, ema=ema, autocast=autocast, clip=clip,
        patience=patience, devices=devices, nodes=nodes, validation=validation,
        split_seed=split_seed, seed=seed,
    )  # fmt: skip
    folder = fit(config, show_progress=sys.stderr.isatty(), resume=resume)
    _, outcome = read_run(folder)
    accuracy = outcome.test.accuracy
    line = f"{folder}: test accuracy {accuracy:.2%}; next: foveal export {folder} --name NAME"
    show({"run": str(folder), "accuracy": accuracy}, as_json, [(line,)])


@app.command()
def export(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder that `foveal train` left.")],
    name: Annotated[str, typer.Option(help="Name of the model.")],
    precision: Annotated[str, typer.Option(help="Files to write, as fp32.")] = "fp32",
    models: ModelsOption = SHIPPED,
    as_json: JsonOption = False,
) -> None:
    """Export a run to ONNX, prove that nothing changed, publish it as the model's next version.

    Example: foveal export runs/digits --name digits-cnn
    """
    from training.pipeline import export as publish

    repository = _repository(models)
    artifact = publish(run, name, repository, precision.split(","))
    served = repository.resolve(name)[1]
    line = f"{artifact.reference} published in {repository.path(name, artifact.version)}"
    if served != artifact.version:
        line += f"; version {served} is pinned: `foveal models default {name} {artifact.version}`"
    show(dataclasses.asdict(artifact), as_json, [(line,)])


@models_app.command("list")
def list_models(models: ModelsOption = SHIPPED, as_json: JsonOption = False) -> None:
    """List every version: accuracy, size, and which one answers.

    Example: foveal models list
    """
    from models.describe import list_entries, tabulate

    entries = list_entries(_repository(models))
    show([dataclasses.asdict(entry) for entry in entries], as_json, tabulate(entries))


@models_app.command("show")
def show_model(
    model: Annotated[str, typer.Argument(metavar="NAME[:V]")],
    models: ModelsOption = SHIPPED,
    as_json: JsonOption = False,
) -> None:
    """Show one version's whole story: what it takes and gives, how good, from where.

    Example: foveal models show fashion-cnn
    """
    from models.describe import tell

    repository = _repository(models)
    artifact = repository.load(*repository.resolve(model))
    show(dataclasses.asdict(artifact), as_json, tell(artifact))


@models_app.command("verify")
def verify_models(
    model: Annotated[str | None, typer.Argument(metavar="[NAME[:V]]", show_default="all")] = None,
    models: ModelsOption = SHIPPED,
    as_json: JsonOption = False,
) -> None:
    """Check checksums and graphs, and replay the golden images; exit code 1 if any is wrong.

    Example: foveal models verify fashion-cnn
    """
    from service.local import verify

    verdicts = verify(_repository(models), model)
    show(verdicts, as_json, list(verdicts.items()))
    if set(verdicts.values()) != {"ok"}:
        raise typer.Exit(1)


@models_app.command("rollback")
def rollback_model(name: str, models: ModelsOption = SHIPPED) -> None:
    """Serve the version before the one that is served now; nothing is deleted.

    Example: foveal models rollback fashion-cnn
    """
    version = _repository(models).rollback(name)
    print(f"{name}:{version} answers from the next start of the service")


@models_app.command("default")
def set_default(
    name: str,
    version: Annotated[int | None, typer.Argument(metavar="[V]")] = None,
    models: ModelsOption = SHIPPED,
) -> None:
    """Make a model the default, or with V: make V the version that answers for it.

    Example: foveal models default fashion-cnn 2
    """
    _repository(models).set_default(name, version)
    answers = f"/predict is {name}'s" if version is None else f"{name}:{version} answers"
    print(f"{answers} from the next start of the service")


@app.command()
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

    repository = _repository(models)
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


def _repository(root: Path) -> "ModelRepository":
    from models.repository import ModelRepository

    return ModelRepository(root)


def _widths(option: str, text: str | None) -> tuple[int, ...] | None:
    try:
        return None if text is None else tuple(int(word) for word in text.split(","))
    except ValueError:
        message = f"expected widths as 512,512, got {text!r}"
        raise typer.BadParameter(message, param_hint=option) from None


if __name__ == "__main__":
    main()
