"""The entry of the command line: collects the commands of ``commands`` and runs one."""

import os
import sys
from collections.abc import Sequence
from typing import NoReturn

# No telemetry; set before any command imports onnxruntime, which reads the variable once.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

import typer

from commands import (
    adopt,
    bench,
    check,
    feedback,
    keys,
    loadtest,
    models,
    record,
    replay,
    score,
    serve,
    train,
    tune,
)
from commands.console import explain, print_line

app = typer.Typer(
    help="From a PyTorch image classifier to a fast, safe endpoint.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for command in (
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
):
    app.command(cls=train.TrainCommand if command is train.train else None)(command)

models_app = typer.Typer(
    help="List, check and change what a model repository serves.", no_args_is_help=True
)
app.add_typer(models_app, name="models")
models_app.command("list")(models.list_models)
models_app.command("show")(models.show_model)
models_app.command("verify")(models.verify_models)
models_app.command("upgrade")(models.upgrade_model)
models_app.command("rollback")(models.rollback_model)
models_app.command("default")(models.set_default)
models_app.command("unpin")(models.unpin_model)
models_app.command("shadow")(models.set_shadow)
models_app.command("canary")(models.set_canary)
models_app.command("record")(models.set_record)
models_app.command("prune")(models.prune_model)

record_app = typer.Typer(
    help="Look at what a service recorded, take it elsewhere, erase it.", no_args_is_help=True
)
app.add_typer(record_app, name="record")
record_app.command("list")(record.list_rows)
record_app.command("show")(record.show_rows)
record_app.command("export")(record.export_rows)
record_app.command("erase")(record.erase_rows)

keys_app = typer.Typer(help="Make API keys for a service.", no_args_is_help=True)
app.add_typer(keys_app, name="keys")
keys_app.command("add")(keys.add_key)
# With one command alone, typer would leave out its name.
keys_app.callback()(lambda: None)

bench_app = typer.Typer(
    help="Run benchmarks; each measures its ratios in one run.", no_args_is_help=True
)
app.add_typer(bench_app, name="bench")
bench_app.command("peers")(bench.bench_peers)
bench_app.command("v2")(bench.bench_v2)
bench_app.command("session")(bench.bench_session)
bench_app.command("stages")(bench.bench_stages)
bench_app.command("overload")(bench.bench_overload)
bench_app.command("endurance")(bench.bench_endurance)
bench_app.command("start")(bench.bench_start)
bench_app.command("record")(bench.bench_record)


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run a command and exit with its code.

    Args:
        arguments: Arguments after ``foveal``; None takes those of the process.
    """
    try:
        code = app(args=arguments, prog_name="foveal", standalone_mode=False)
    except Exception as error:
        message = explain(error)
        if message is None:
            raise
        for line in message.split("\n"):
            print_line(line, is_error=True)
        sys.exit(getattr(error, "exit_code", 1))
    sys.exit(code or 0)


if __name__ == "__main__":
    main()
