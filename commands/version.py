"""The option ``--version`` of the command line."""

from typing import Annotated

import typer

from commands.console import print_line


def _show_version(is_asked: bool) -> None:
    if is_asked:
        from models.installation import NAME, version

        print_line(f"{NAME} {version()}")
        raise typer.Exit


VersionOption = Annotated[
    bool,
    typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version."),
]
