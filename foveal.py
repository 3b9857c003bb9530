"""The entry of the command line: collects the commands of ``commands`` and runs one."""

import os
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import NoReturn

# No telemetry; set before any command imports onnxruntime, which reads the variable once.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")


def check_packages() -> None:
    """End the process if somebody else's package has the name of one of ours.

    ``python -m foveal`` looks into the working folder first, every Python into PYTHONPATH.
    """
    home = Path(__file__).resolve().parent
    for name in ("commands", "models", "report", "scoring", "service"):
        spec = find_spec(name)
        places = [] if spec is None else [*(spec.submodule_search_locations or ()), spec.origin]
        if not any(place and Path(place).resolve() == home / name for place in places):
            raise SystemExit(
                f"foveal: expected its own package {name} in {home}, got "
                f"{next(filter(None, places), 'none')}; start in another folder, without PYTHONPATH"
            )


check_packages()

# ruff: noqa: E402
import typer

from commands import (
    adopt,
    bench,
    check,
    completion,
    doctor,
    feedback,
    init,
    keys,
    loadtest,
    models,
    promote,
    record,
    replay,
    score,
    serve,
    train,
    tune,
)
from commands.console import fail, leave
from commands.help import Command, Group, show_help
from commands.version import VersionOption

app = typer.Typer(
    cls=Group,
    help="From a PyTorch image classifier to a fast, safe endpoint.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def root(version: VersionOption = False) -> None:
    """Options that belong to no command."""


for command in (
    init.init,
    serve.serve,
    serve.predict,
    score.score,
    check.check,
    train.train,
    train.export,
    adopt.adopt,
    tune.tune,
    loadtest.loadtest,
    feedback.feedback,
    replay.replay,
    doctor.doctor,
    completion.completion,
):
    app.command(cls=train.TrainCommand if command is train.train else Command)(command)
app.command("help", cls=Command)(show_help)


def add_group(name: str, summary: str, commands: dict[str, Callable[..., None]]) -> typer.Typer:
    """Add commands of two words, as ``models list``."""
    group = typer.Typer(cls=Group, help=summary, no_args_is_help=True)
    # With one command alone, typer would leave out its name.
    group.callback()(lambda: None)
    for word, command in commands.items():
        group.command(word, cls=Command)(command)
    app.add_typer(group, name=name)
    return group


models_app = add_group(
    "models",
    "List, check and change what a model repository serves.",
    {
        "list": models.list_models,
        "show": models.show_model,
        "verify": models.verify_models,
        "upgrade": models.upgrade_model,
        "rollback": models.rollback_model,
        "default": models.set_default,
        "unpin": models.unpin_model,
        "shadow": models.set_shadow,
        "canary": models.set_canary,
        "promote": promote.promote_model,
        "record": models.set_record,
        "prune": models.prune_model,
    },
)
add_group(
    "record",
    "Look at what a service recorded, take it elsewhere, erase it.",
    {
        "list": record.list_rows,
        "show": record.show_rows,
        "export": record.export_rows,
        "erase": record.erase_rows,
    },
)
add_group("keys", "Make API keys for a service.", {"add": keys.add_key})
add_group(
    "bench",
    "Run benchmarks from a checkout; each measures its ratios in one run.",
    {
        "peers": bench.bench_peers,
        "v2": bench.bench_v2,
        "session": bench.bench_session,
        "stages": bench.bench_stages,
        "overload": bench.bench_overload,
        "endurance": bench.bench_endurance,
        "start": bench.bench_start,
        "record": bench.bench_record,
    },
)


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run a command and exit with its code.

    Args:
        arguments: Arguments after ``foveal``; None takes those of the process.
    """
    completion.prepare_completion()
    try:
        code = app(args=arguments, prog_name="foveal", standalone_mode=False)
        leave(code or 0)
    except Exception as error:
        fail(error)


if __name__ == "__main__":
    main()
