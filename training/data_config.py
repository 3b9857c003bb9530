"""The part of a run's configuration that says what its images are, and how they are divided.

Imports only the standard library, as ``config`` does.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from training.options import REQUIRED, Option

DATA = "Data"
REPEAT = "Split and seed"

# Seeds are numbers of 32 bits, as Lightning's.
SEEDS = 1 << 32
_SIZE = re.compile(r"([0-9]{1,5})(?:x([0-9]{1,5}))?", re.IGNORECASE)
# The longest side that the contract allows.
MAX_SIDE = 1 << 14


@dataclass(frozen=True, slots=True, kw_only=True)
class DataConfig:
    """The dataset of a run; see ``config.TrainConfig``."""

    dataset: Annotated[
        str,
        Option(
            DATA,
            "Dataset",
            REQUIRED,
            names=(
                "cifar10",
                "digits",
                "fashion-mnist",
                "mnist",
                "vertical-line[:5]",
                "folder:PATH",
                "parquet:PATH",
            ),
        ),
    ]
    data_dir: Annotated[
        Path | None,
        Option(DATA, "Folder with the dataset's files", default_text="found or downloaded"),
    ]
    size: Annotated[
        str | None,
        Option(
            DATA,
            "Height and width to resize images of folder: and parquet: to, as 224 or 224x160",
            unit="pixels",
            default_text="their size",
            before=None,
        ),
    ]
    resize: Annotated[
        Literal["stretch", "crop", "pad"],
        Option(
            DATA,
            "Way to --size: both sides, the shorter side and the centre, or the longer side and "
            "black borders",
            "stretch",
            before="stretch",
        ),
    ]
    grey: Annotated[bool, Option(DATA, "Read images of folder: and parquet: as grey", False)]
    skip_unreadable: Annotated[
        bool,
        Option(DATA, "Leave out images that cannot be decoded, and log them", False, before=False),
    ]
    image_column: Annotated[
        str | None,
        Option(
            DATA,
            "Column of images of parquet:",
            default_text="found by metadata or name",
            before=None,
        ),
    ]
    label_column: Annotated[
        str | None,
        Option(
            DATA,
            "Column of labels of parquet:",
            default_text="found by metadata or name",
            before=None,
        ),
    ]
    positive: Annotated[
        str | None,
        Option(DATA, "Class to tell from all others, for two classes", default_text="all classes"),
    ]
    validation: Annotated[
        float,
        Option(REPEAT, "Share of the training part held out for validation", 0.1, above=0, below=1),
    ]
    split_seed: Annotated[
        int, Option(REPEAT, "Seed that chooses the validation images", 0, low=0, below=SEEDS)
    ]


def chosen_size(config: DataConfig) -> tuple[int, int] | None:
    """Return the (height, width) that a run asks for; None: that of its images."""
    return parse_size(config.size) if config.size else None


def wrong_size(text: str | None) -> str:
    """Return what is wrong with a size as it is given, "" if nothing is, or none is given."""
    if text is None or parse_size(text) is not None:
        return ""
    return f"size: expected 224 or 224x160, height first, got {text!r}"


def parse_size(text: str) -> tuple[int, int] | None:
    """Return (height, width) of ``224`` or ``224x160``, each 1 to 16,384; None if it is neither."""
    found = _SIZE.fullmatch(text)
    if found is None:
        return None
    height = int(found[1])
    width = int(found[2] or height)
    return (height, width) if 1 <= min(height, width) <= max(height, width) <= MAX_SIDE else None
