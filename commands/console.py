"""Output of the command line: errors on one line, results as a table or JSON, progress bars.

Imports no package of this project: it looks errors up by name in the modules that are loaded.
"""

import json
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import typer

# Errors whose message is for the user. Their modules are loaded if they were raised.
_MISTAKES = {
    "export.errors": "ExportError",
    "models.artifact": "ArtifactError",
    "service.access.keys": "KeysError",
    "service.errors": "ServiceError",
    "scoring.remote": "RemoteError",
    "service.settings": "SettingsError",
    "scoring.rows": "ScoreError",
    "training.errors": "TrainingError",
    "loadtest.errors": "LoadTestError",
    "loadtest.tune.errors": "TuneError",
}
# Packages of the extra `train`.
_TRAIN = (
    "matplotlib",
    "onnxscript",
    "pooch",
    "pyarrow",
    "pytorch_lightning",
    "sklearn",
    "torch",
    "torchmetrics",
)
# Packages of ours that are only in a checkout, not in a Bento or an image.
_ROOMS = ("export", "loadtest", "report", "training")
# Package to the extra that installs it.
_EXTRAS = {**dict.fromkeys(_TRAIN, "train"), "onnx": "adopt", "onnxruntime": "cpu", "ray": "ray"}


def explain(error: Exception) -> str | None:
    """Return the message for the user, None if the error is a bug of ours."""
    if isinstance(error, typer.TyperException):
        context = getattr(error, "ctx", None)
        message = error.format_message()
        if context is None or "\n" in message:  # several lines: the help text
            return message
        return f"{context.command_path}: {message.rstrip('.')}; see {context.command_path} --help"
    package = (getattr(error, "name", None) or "").split(".")[0]
    if isinstance(error, ModuleNotFoundError) and package in _EXTRAS:
        extra = _EXTRAS[package]
        return f"foveal: expected the package {package}, got none; pip install 'foveal[{extra}]'"
    if isinstance(error, ModuleNotFoundError) and error.name in _ROOMS:
        return (
            f"foveal: expected the package {package}, got none: a Bento and an image hold "
            "only what serves; run this command from a checkout"
        )
    if isinstance(error, OSError) and error.filename is not None:
        return f"{os.fsdecode(error.filename)}: {error.strerror}"
    imported = ((sys.modules.get(module), name) for module, name in _MISTAKES.items())
    mistakes = tuple(getattr(module, name) for module, name in imported if module is not None)
    return str(error) if isinstance(error, mistakes) else None


def show(document: Any, as_json: bool, lines: Iterable[Sequence[str]]) -> None:
    """Print a document as JSON, or lines of cells as an aligned table."""
    if as_json:
        print(json.dumps(document, indent=2, ensure_ascii=False))
        return
    table = list(lines)
    sizes = [max(map(len, column)) for column in zip(*table, strict=True)]
    for line in table:
        print("  ".join(map(str.ljust, line, sizes)).rstrip())


class ShowProgress(Protocol):
    """Updates a progress bar."""

    def __call__(self, done: float, total: float | None, details: str = "") -> None:
        """Set how much of the total is done; None is an unknown total."""


@contextmanager
def progress_bar(title: str, *, quiet: bool = False) -> Iterator[ShowProgress]:
    """Show a progress bar on standard error while the block runs; only if that is a terminal.

    Args:
        title: Text before the bar.
        quiet: Whether to show nothing.

    Yields:
        A function that updates the bar.
    """
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[details]}"),
        TimeRemainingColumn(),
    )
    disable = quiet or not console.is_terminal
    with Progress(*columns, console=console, disable=disable) as progress:
        task = progress.add_task(title, total=None, details="")

        def show_progress(done: float, total: float | None, details: str = "") -> None:
            progress.update(task, completed=done, total=total, details=details)

        yield show_progress
