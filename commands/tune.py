"""Find the best plan for a model on this machine: ``foveal tune``."""

import dataclasses
import sys
import time
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from commands.console import print_line, show
from commands.help import headed, stoppable
from commands.options import SHIPPED, JsonOption, ModelsOption, model_names, open_repository


@headed(
    {
        "Search": "p99_ms precision device cores workers budget_s overwrite",
    }
)
def tune(
    model: Annotated[
        str | None,
        typer.Argument(
            metavar="NAME[:V]",
            help="Model to tune.",
            show_default="the repository's default",
            autocompletion=model_names,
        ),
    ] = None,
    *,
    p99_ms: Annotated[
        float, typer.Option(min=0.1, help="Promised p99 latency, milliseconds.")
    ] = 20,
    precision: Annotated[
        str, typer.Option(help="Precisions to try, such as fp32,int8.", show_default="all")
    ] = "",
    device: Annotated[
        Literal["auto", "cpu", "cuda", "tensorrt"],
        typer.Option(envvar="FOVEAL_DEVICE", help="Device of the sessions."),
    ] = "auto",
    cores: Annotated[
        int | None, typer.Option(min=1, help="Cores of the service.", show_default="all")
    ] = None,
    workers: Annotated[
        int, typer.Option(min=1, envvar="FOVEAL_WORKERS", help="Worker processes of the service.")
    ] = 1,
    budget_s: Annotated[float, typer.Option(min=10, help="Time limit, seconds.")] = 300,
    out: Annotated[
        Path | None, typer.Option(help="Output folder.", show_default="runs/tune/NAME-V")
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Discard earlier measurements.")
    ] = False,
    reset: Annotated[bool, typer.Option("--reset", help="Remove the plan and exit.")] = False,
    models: ModelsOption = SHIPPED,
    as_json: JsonOption = False,
) -> None:
    """Find the precision, threads, instances and batch size that serve most within a latency.

    Writes the plan beside the model; the service follows it from its next start. Repeat a stopped
    command to continue it.

    Example: foveal tune fashion-cnn --p99-ms 20
    """
    from models.files import check_writable

    if not reset:
        open_repository(models).resolve(model)
        check_writable(out or Path("runs/tune"), "--out")
    from loadtest.tune.pipeline import Request, tune_model
    from loadtest.tune.pipeline import reset as remove
    from report.progress import ProgressBar

    repository = open_repository(models)
    if reset:
        said = remove(repository, model)
        show({"said": said}, as_json, [(said,)])
        return
    request = Request(
        model,
        p99_ms,
        _precisions(precision),
        device,
        cores,
        workers,
        budget_s,
        out,
        overwrite,
        " ".join(["foveal", *sys.argv[1:]]),
    )
    begun = time.monotonic()
    kept = "measurements so far are kept; repeat the command to go on"
    with stoppable(kept), ProgressBar() as bar:
        result = tune_model(
            repository,
            request,
            progress=lambda step: bar.show_step(step, time.monotonic() - begun, budget_s),
            warn=lambda line: print_line(line, is_error=True),
        )
    plan = dataclasses.asdict(result.plan) if result.plan else None
    document: dict[str, Any] = {
        "model": result.model,
        "verdict": result.verdict,
        "plan": plan,
        "goodput_per_s": result.outcome.best.goodput_per_s,
        "default_goodput_per_s": result.outcome.default.goodput_per_s,
        "report": str(result.report),
    }
    show(document, as_json, [(result.model, result.verdict), ("report", str(result.report))])
    if not result.outcome.is_kept:
        raise typer.Exit(1)


def _precisions(text: str) -> tuple[Any, ...]:
    names = tuple(name for name in text.split(",") if name)
    for name in names:
        if name not in ("fp32", "int8", "fp16"):
            expected = f"expected some of fp32, int8, fp16, got {name!r}"
            raise typer.BadParameter(expected, param_hint="--precision")
    return names
