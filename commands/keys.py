"""API keys: ``foveal keys add`` makes one for the file of ``FOVEAL_API_KEYS_FILE``."""

import os
from pathlib import Path
from typing import Annotated

import typer

from commands.console import print_line, show
from commands.options import JsonOption


def add_key(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Whose key it is.")],
    file: Annotated[
        Path | None,
        typer.Option(help="Keys file; made if missing.", show_default="FOVEAL_API_KEYS_FILE"),
    ] = None,
    requests_per_s: Annotated[
        float, typer.Option(min=0, help="Rate limit, requests/s; 0: none.")
    ] = 0.0,
    burst: Annotated[
        int, typer.Option(min=0, help="Requests at once after a pause; 0: one second's.")
    ] = 0,
    as_json: JsonOption = False,
) -> None:
    """Make a key, print it once, and add its hash to the keys file.

    A running service knows it after two seconds. To take a key away, delete its table in the file.

    Example: foveal keys add mobile-app --file keys.toml --requests-per-s 50
    """
    from service.access.keys import add_key as add

    path = file or Path(os.environ.get("FOVEAL_API_KEYS_FILE", ""))
    if path == Path():
        raise typer.BadParameter("expected a file, got none", param_hint="--file")
    key = add(path, name, requests_per_s, burst)
    show({"name": name, "key": key, "file": str(path)}, as_json, [(key,)])
    print_line(f"{path}: {name} added; its key is shown this once", is_error=True)
