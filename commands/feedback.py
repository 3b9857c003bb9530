"""Tell a running service what was true: ``foveal feedback``."""

import dataclasses
from pathlib import Path
from typing import Annotated

import typer

from commands.console import print_line, show
from commands.options import JsonOption

# More than these are for a program (--json).
_SHOWN = 10


def feedback(
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE",
            help="CSV with the columns id (the answer's X-Request-Id), row (from 0; left out: 0) "
            "and label or index; of multi-label models labels or indexes, with ; between.",
        ),
    ],
    model: Annotated[str, typer.Option(metavar="NAME", help="Model that answered.")],
    url: Annotated[
        str, typer.Option(metavar="URL", help="Address of the service.")
    ] = "http://127.0.0.1:3000",
    as_json: JsonOption = False,
) -> None:
    """Tell a service what was true of its answers; it counts them right or wrong in /metrics.

    The service must run with FOVEAL_FEEDBACK_ROWS. A truth that it has is not counted again, so a
    file may be sent twice. Exit code 1 if a truth was refused.

    Example: foveal feedback truths.csv --model digits-cnn --url http://localhost:3000
    """
    from scoring.feedback import send

    sent = send(file, url, model)
    if as_json:
        show(dataclasses.asdict(sent), as_json, ())
    else:
        counts = ", ".join(f"{rows} {outcome}" for outcome, rows in sent.counts.items() if rows)
        print_line(f"{model}: {counts or 'nothing counted'}; {len(sent.refused)} refused")
        for line, reason in sent.refused[:_SHOWN]:
            print_line(f"{file}, line {line}: {reason}", is_error=True)
        if len(sent.refused) > _SHOWN:
            print_line(f"and {len(sent.refused) - _SHOWN} more; --json has all", is_error=True)
    if sent.refused:
        raise typer.Exit(1)
