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
    """Return every path with its methods. All of them take and give an id of the request."""
    text = (Path(__file__).parent / "openapi.yaml").read_text(encoding="utf-8")
    document: Document = yaml.safe_load(text)
    request_id = document["request_id"]

    def identified(operation: Document) -> Document:
        responses = {
            status: {**response, "headers": {request_id["name"]: request_id["answer"]}}
            for status, response in operation["responses"].items()
        }
        parameters = [*operation["parameters"], request_id["parameter"]]
        return {**operation, "parameters": parameters, "responses": responses}

    return {
        path: {method: identified(operation) for method, operation in methods.items()}
        for path, methods in document["paths"].items()
    }
