"""How the command line speaks: one line for a mistake, a table or one JSON document for an answer.

Imports no package of this project: it recognises their errors by name, if they were loaded at all.
"""

import json
import os
import sys
from collections.abc import Iterable, Sequence
from typing import Any

import typer

# Errors whose message is for the user; one that was raised comes from a module that is imported.
_MISTAKES = {
    "export.errors": "AdoptError",
    "models.artifact": "ArtifactError",
    "service.errors": "ServiceError",
    "scoring.remote": "RemoteError",
    "service.settings": "SettingsError",
    "scoring.rows": "ScoreError",
    "training.errors": "TrainingError",
    "loadtest.errors": "LoadTestError",
    "loadtest.tune.errors": "TuneError",
}
# Packages that only an extra brings, and the extra.
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
_EXTRAS = {**dict.fromkeys(_TRAIN, "train"), "onnx": "adopt", "onnxruntime": "cpu", "ray": "ray"}


def explain(error: Exception) -> str | None:
    """Return what to say of an error, None if it is none of the user's."""
    if isinstance(error, typer.TyperException):
        context = getattr(error, "ctx", None)
        message = error.format_message()
        if context is None or "\n" in message:  # several lines: the help itself
            return message
        return f"{context.command_path}: {message.rstrip('.')}; see {context.command_path} --help"
    package = (getattr(error, "name", None) or "").split(".")[0]
    if isinstance(error, ModuleNotFoundError) and package in _EXTRAS:
        extra = _EXTRAS[package]
        return f"foveal: expected the package {package}, got none; pip install 'foveal[{extra}]'"
    if isinstance(error, ModuleNotFoundError) and error.name in _ROOMS:
        return (
            f"foveal: expected the package {package}, got none: a Bento and an image hold what "
            "serves; run this from a checkout"
        )
    if isinstance(error, OSError) and error.filename is not None:
        return f"{os.fsdecode(error.filename)}: {error.strerror}"
    imported = ((sys.modules.get(module), name) for module, name in _MISTAKES.items())
    mistakes = tuple(getattr(module, name) for module, name in imported if module is not None)
    return str(error) if isinstance(error, mistakes) else None


def show(document: Any, as_json: bool, lines: Iterable[Sequence[str]]) -> None:
    """Print a document as JSON, or lines of cells as a table."""
    if as_json:
        print(json.dumps(document, indent=2, ensure_ascii=False))
        return
    table = list(lines)
    sizes = [max(map(len, column)) for column in zip(*table, strict=True)]
    for line in table:
        print("  ".join(map(str.ljust, line, sizes)).rstrip())
