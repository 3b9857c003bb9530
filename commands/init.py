"""Begin a folder of one's own: ``foveal init``."""

import shlex
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer

from commands.console import show
from commands.options import SHIPPED, JsonOption, open_repository

_MODELS, _SETTINGS, _IMAGE, _README = "models", "foveal.env", "example.png", "README.md"

FolderArgument = Annotated[Path, typer.Argument(metavar="DIR", help="Folder to make or to fill.")]
FromOption = Annotated[
    str | None,
    typer.Option(
        "--model",
        metavar="NAME[:V]",
        help="Shipped model to begin with.",
        show_default="the default one",
    ),
]


def init(folder: FolderArgument, model: FromOption = None, as_json: JsonOption = False) -> None:
    """Make a folder with a model repository, a file of settings and an image to try.

    Nothing that exists is written over.

    Example: foveal init shop --model fashion-cnn
    """
    from models.artifact import ArtifactError

    shipped = open_repository(SHIPPED)
    name, version = shipped.resolve(model)
    made = (_MODELS, _SETTINGS, _IMAGE, _README)
    if there := [each for each in made if (folder / each).exists()]:
        raise ArtifactError(
            f"{folder}: expected a folder without {', '.join(made)}, got one with "
            f"{', '.join(there)}; nothing was written: name another folder"
        )
    is_new = not folder.exists()
    try:
        _fill(folder, shipped.path(name, version), name)
    except BaseException:  # a full disk, Ctrl-C: the next try finds the folder as this one did
        shutil.rmtree(folder if is_new else folder / _MODELS, ignore_errors=True)
        for each in made[1:]:
            with suppress(OSError):
                (folder / each).unlink()
        raise
    start = f"cd {shlex.quote(str(folder))} && foveal serve --models {_MODELS}"
    document = {"folder": str(folder), "model": f"{name}:{version}", "files": list(made)}
    lines = [(f"{folder}: {', '.join(made)}; model {name}:{version}",), (f"next: {start}",)]
    show(document, as_json, lines)


def _fill(folder: Path, version: Path, name: str) -> None:
    image = sorted(version.glob("golden/*.png"))[0]
    shutil.copytree(version, folder / _MODELS / name / version.name)
    shutil.copyfile(image, folder / _IMAGE)
    (folder / _SETTINGS).write_text(_settings(), encoding="utf-8")
    (folder / _README).write_text(_readme(name), encoding="utf-8")


def _settings() -> str:
    return (
        "# Settings of the service, one NAME=value a line; docs/reference/settings.md has all.\n"
        "# Read them into a shell before a start: set -a; . ./foveal.env; set +a\n"
        f"FOVEAL_MODELS={_MODELS}\n"
        "# FOVEAL_WORKERS=2\n"
        "# FOVEAL_MAX_BODY_BYTES=33554432\n"
        "# FOVEAL_API_KEYS_FILE=keys.toml\n"
    )


def _readme(name: str) -> str:
    return (
        "# Image classification with Foveal\n\n"
        "    foveal serve --models models\n"
        f"    curl --data-binary @{_IMAGE} http://127.0.0.1:3000/models/{name}/predict\n"
    )
