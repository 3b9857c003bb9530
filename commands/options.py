"""Options that several commands share."""

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
ModelOption = Annotated[
    str | None,
    typer.Option(metavar="NAME[:V]", help="Model to use.", show_default="the repository's default"),
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
    """Return the repository in a folder, without reading it."""
    from models.repository import ModelRepository

    return ModelRepository(root)
