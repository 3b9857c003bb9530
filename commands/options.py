"""Options that several commands share, and the model repository where none is named.

From a checkout, models are published into the checkout. Installed by pip, pipx or uv, the models of
the wheel stay as they are: what is served and published is a copy in the user's data folder.
"""

import os
import shutil
import sysconfig
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from models.repository import ModelRepository

# As in ``models.installation``, which is not imported here: BentoML imports the module ``foveal``
# where it looks for the Bento of that name, and ``models`` is the Bento's then.
_HOME = Path(__file__).resolve().parent.parent
_PACKAGED = _HOME / "models"


def _default_models() -> Path:
    if str(_HOME) not in (sysconfig.get_path("purelib"), sysconfig.get_path("platlib")):
        return _PACKAGED
    from platformdirs import user_data_path

    return user_data_path("foveal", appauthor=False) / "models"


SHIPPED = _default_models()
"""The model repository where none is named; ``open_repository`` makes it if it is missing."""


def model_names(incomplete: str) -> list[str]:
    """Return the models whose names begin so, for completion in a shell."""
    from models.artifact import ArtifactError

    root = Path(os.environ.get("FOVEAL_MODELS", SHIPPED))
    try:
        return [name for name in open_repository(root).names() if name.startswith(incomplete)]
    except (ArtifactError, OSError):
        return []


ModelsOption = Annotated[
    Path,
    typer.Option(
        "--models",
        metavar="DIR",
        envvar="FOVEAL_MODELS",
        help="Model repository.",
        show_default="the shipped models",
    ),
]
ModelOption = Annotated[
    str | None,
    typer.Option(
        metavar="NAME[:V]",
        help="Model to use.",
        show_default="the repository's default",
        autocompletion=model_names,
    ),
]
PrecisionOption = Annotated[
    Literal["auto", "fp32", "int8", "fp16"],
    typer.Option(
        envvar="FOVEAL_PRECISION",
        help="File of the model to run; auto is the fastest one on this machine.",
    ),
]
PublishOption = Annotated[
    str, typer.Option(help="Precisions to publish, comma-separated: fp32, int8, fp16.")
]
DropOption = Annotated[
    float,
    typer.Option(
        min=0, max=100, help="Accuracy that int8 and fp16 may lose, in percentage points."
    ),
]
AbstainOption = Annotated[
    float | None,
    typer.Option(
        help="Share of the answers that must be right, as 0.99; the model abstains from others."
    ),
]
ServingDropOption = Annotated[
    float,
    typer.Option(
        min=0,
        max=100,
        help="Accuracy that it may lose against the serving version, in percentage points.",
    ),
]
ForceOption = Annotated[
    bool,
    typer.Option(
        "--force",
        help="Publish it even if the serving version is better or cannot be compared with it.",
    ),
]
JsonOption = Annotated[
    bool, typer.Option("--json", help="Print one JSON document instead of text.")
]


def open_repository(root: Path) -> "ModelRepository":
    """Return the repository in a folder, without reading it.

    Raises:
        OSError: It is the one of an installed program, and cannot be made.
    """
    from models.repository import ModelRepository

    if root == SHIPPED != _PACKAGED and not root.exists():
        _copy_packaged(root)
    return ModelRepository(root)


def _copy_packaged(root: Path) -> None:
    """Copy the models of the wheel; one that comes first wins."""
    root.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".models-", dir=root.parent) as scratch:
        copy = Path(scratch) / "models"
        copy.mkdir()
        for entry in _PACKAGED.iterdir():
            if any(each.name.isdecimal() for each in entry.glob("*/")):
                shutil.copytree(entry, copy / entry.name)
            elif entry.name == "repository.json":
                shutil.copy(entry, copy)
        try:
            copy.rename(root)
        except OSError:
            if not root.is_dir():  # else another process has done the same
                raise
