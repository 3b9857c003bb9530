"""The OpenAPI paths of the lane's routes, which BentoML does not know of.

They are data: ``openapi.yaml`` beside this file. ``app`` adds them to BentoML's own document.
"""

import functools
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]  # installed with BentoML, which needs it

Document = dict[str, Any]


@functools.cache
def lane_paths() -> dict[str, Document]:
    """Return the paths of ``/predict``, of the rollout and of V2, each with its methods."""
    text = (Path(__file__).parent / "openapi.yaml").read_text(encoding="utf-8")
    paths: dict[str, Document] = yaml.safe_load(text)["paths"]
    return paths
