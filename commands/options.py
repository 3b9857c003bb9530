"""Options that several commands share, and the repository that one of them names."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from models.repository import ModelRepository

HOME = Path(__file__).resolve().parent.parent
SHIPPED = HOME / "models"
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
ModelOption = Annotated[str | None, typer.Option(metavar="NAME[:V]", help="Else the default one.")]
PrecisionOption = Annotated[
    Literal["auto", "fp32", "int8", "fp16"],
    typer.Option(envvar="FOVEAL_PRECISION", help="Which file answers; auto: the fastest here."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]


def open_repository(root: Path) -> "ModelRepository":
    """Return the repository in a folder; nothing is read yet."""
    from models.repository import ModelRepository

    return ModelRepository(root)
