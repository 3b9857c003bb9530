"""The OpenAPI paths of all routes, in place of BentoML's.

They are data: ``openapi.yaml`` beside this file. ``app`` puts them into BentoML's document.
"""

import functools
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]  # installed with BentoML, which needs it

Document = dict[str, Any]


TITLE = "Foveal"
DESCRIPTION = 'Classify images. An error has one body: `{"error": "<message>"}`.'


@functools.cache
def lane_paths() -> dict[str, Document]:
    """Return every path with its methods."""
    text = (Path(__file__).parent / "openapi.yaml").read_text(encoding="utf-8")
    paths: dict[str, Document] = yaml.safe_load(text)["paths"]
    return paths
