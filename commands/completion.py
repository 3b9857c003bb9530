"""Completion of the command line in a shell: ``foveal completion``."""

import os
from typing import Annotated, Any, Literal

import typer
import typer.completion

from commands.console import print_line

VARIABLE = "_FOVEAL_COMPLETE"
_typers: Any = typer.completion  # it does not list the two names as its own


def prepare_completion() -> None:
    """Let typer answer a shell that asks for completions; it does so by a variable."""
    if VARIABLE in os.environ:
        _typers.completion_init()


def completion(
    shell: Annotated[Literal["bash", "zsh", "fish"], typer.Argument(help="Shell that reads it.")],
) -> None:
    """Print what completes commands, options and models in a shell.

    bash: add `eval "$(foveal completion bash)"` to ~/.bashrc. zsh: the same with zsh, in ~/.zshrc
    after compinit. fish: write it to ~/.config/fish/completions/foveal.fish.

    Example: foveal completion bash
    """
    script = _typers.get_completion_script(prog_name="foveal", complete_var=VARIABLE, shell=shell)
    for line in script.splitlines():
        print_line(line)
