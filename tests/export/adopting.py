"""A user who adopts: files, what is known about their pipeline, and a repository."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from export.adopt import Request, adopt
from export.answers import Expected
from export.examine import Wanted
from export.options import Options
from export.sandbox import Bounds
from models.artifact import ModelArtifact
from models.repository import ModelRepository
from tests.export.foreign import save
from tests.export.own import LABELS, MEAN, STD, Pipeline

PIPELINE = Pipeline()
# What a user says who knows the pipeline.
TOLD: dict[str, Any] = {
    "scale": 1 / 255,
    "mean": MEAN,
    "std": STD,
    "resize": 18,
    "filter": "bicubic",
}
FILES = 24


@dataclass
class Own:
    """A user's files, and a way to adopt."""

    folder: Path
    files: list[Path]
    repository: ModelRepository

    def __call__(
        self,
        model: onnx.ModelProto,
        expected: Expected | Path | NDArray[np.float32] | None = None,
        *,
        labels: tuple[str, ...] = LABELS,
        images: Path | None = None,
        wanted: Wanted | None = None,
        force: bool = False,
        **told: Any,
    ) -> ModelArtifact:
        if isinstance(expected, np.ndarray):
            expected = Expected(tuple(self.files), expected, "evaluate.py")
        request = Request(
            save(model, self.folder),
            labels,
            Options(**(TOLD | told)),
            (images or self.folder / "pictures",),
            Bounds(seconds=60),
            "foveal adopt foreign.onnx",
            expected=expected,
            wanted=wanted or Wanted(),
            force=force,
        )
        return adopt(request, "own", self.repository)
