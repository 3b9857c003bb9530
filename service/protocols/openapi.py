"""The OpenAPI paths of what the lane answers, which BentoML does not know of.

Plain documents in the shape of OpenAPI 3.0; ``app`` adds them to what BentoML says of itself.
"""

from typing import Any

Document = dict[str, Any]

_ERROR = {
    "description": "Refused, or failed",
    "content": {
        "application/json": {
            "schema": {
                "type": "object",
                "required": ["error"],
                "properties": {"error": {"type": "string"}},
            }
        }
    },
}
_BINARY = {"type": "string", "format": "binary"}
_TENSOR = {
    "type": "object",
    "required": ["name", "datatype", "shape"],
    "properties": {
        "name": {"type": "string"},
        "datatype": {"type": "string", "description": "In: UINT8 or BYTES. Out: FP32 or BYTES."},
        "shape": {"type": "array", "items": {"type": "integer"}},
        "parameters": {"type": "object"},
        "data": {"type": "array", "items": {}, "description": "Flat, or nested as the shape is"},
    },
}
_INFER_REQUEST = {
    "type": "object",
    "required": ["inputs"],
    "properties": {
        "id": {"type": "string"},
        "parameters": {"type": "object"},
        "inputs": {"type": "array", "items": _TENSOR},
        "outputs": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["name"],
                "properties": {"name": {"type": "string"}, "parameters": {"type": "object"}},
            },
        },
    },
}
_INFER_RESPONSE = {
    "type": "object",
    "properties": {
        "model_name": {"type": "string"},
        "model_version": {"type": "string"},
        "id": {"type": "string"},
        "outputs": {"type": "array", "items": _TENSOR},
    },
}
_PREDICTIONS = {
    "type": "object",
    "properties": {
        "model": {"type": "string"},
        "version": {"type": "integer"},
        "results": {"type": "array", "items": {"type": "object"}},
    },
}
_OBJECT = {"type": "object"}
_SHARE = {
    "type": ["object", "null"],
    "required": ["version", "fraction"],
    "properties": {
        "version": {"type": "integer", "minimum": 1},
        "fraction": {"type": "number", "minimum": 0, "maximum": 1},
    },
}
_TRAFFIC = {"type": "object", "properties": {"shadow": _SHARE, "canary": _SHARE}}
_TOP = {
    "name": "top",
    "in": "query",
    "description": "Labels an image",
    "schema": {"type": "integer", "minimum": 1, "default": 5},
}
_DEADLINE = {
    "name": "X-Request-Timeout-Ms",
    "in": "header",
    "description": "Deadline in milliseconds",
    "schema": {"type": "number"},
}
_JSON_BYTES = {
    "name": "Inference-Header-Content-Length",
    "in": "header",
    "description": "Bytes of JSON before binary tensors; 0: the body is the one tensor's pixels",
    "schema": {"type": "integer", "minimum": 0},
}
_IMAGES = {
    "image/*": {"schema": _BINARY},
    "multipart/form-data": {
        "schema": {"type": "object", "additionalProperties": {"type": "array", "items": _BINARY}}
    },
}
_TENSORS = {
    "application/json": {"schema": _INFER_REQUEST},
    "application/octet-stream": {"schema": _BINARY},
}


def lane_paths() -> dict[str, Document]:
    """Return the paths of ``/predict``, of candidates and of V2, each with its methods."""
    paths: dict[str, Document] = {}
    for prefix in ("", "/models/{name}", "/models/{name}/versions/{version}"):
        paths[f"{prefix}/predict"] = _operation(
            "post",
            prefix,
            "Classify one image, or several files",
            _PREDICTIONS,
            tag="Images",
            body=_IMAGES,
            parameters=[_TOP, _DEADLINE],
        )
    path = "/models/{name}/traffic"
    for method, summary, given in (
        ("get", "Which candidates see a share of the requests", None),
        (
            "put",
            "Give candidates a share of the requests",
            {"application/json": {"schema": _TRAFFIC}},
        ),
    ):
        told = f"{summary}; needs FOVEAL_ADMIN_TOKEN as Bearer token"
        operation = _operation(method, path, told, _OBJECT, tag="Models", body=given)
        paths[path] = {**paths.get(path, {}), **operation}
    for path, summary in (
        ("/v2", "Name, version and extensions of the server"),
        ("/v2/health/live", "Whether the server answers"),
        ("/v2/health/ready", "Whether every model has a good version"),
        ("/v2/models/stats", "Statistics of all models"),
    ):
        paths[path] = _operation("get", path, summary, _OBJECT)
    for prefix in ("/v2/models/{name}", "/v2/models/{name}/versions/{version}"):
        for tail, summary in (
            ("", "What the model takes and gives"),
            ("/ready", "Whether the model is served"),
            ("/config", "The model's configuration, as Triton words it"),
            ("/stats", "Statistics of the model"),
        ):
            paths[prefix + tail] = _operation("get", prefix, summary, _OBJECT)
        paths[f"{prefix}/infer"] = _operation(
            "post",
            prefix,
            "Run the model on a tensor of pixels or of encoded images",
            _INFER_RESPONSE,
            body=_TENSORS,
            parameters=[_JSON_BYTES, _DEADLINE],
        )
    json_body = {"application/json": {"schema": _OBJECT}}
    paths["/v2/repository/index"] = _operation(
        "post",
        "",
        "Every version and whether it is served",
        {"type": "array", "items": _OBJECT},
        body=json_body,
    )
    for verb in ("load", "unload"):
        path = f"/v2/repository/models/{{name}}/{verb}"
        summary = f"{verb.capitalize()} a model; needs FOVEAL_ADMIN_TOKEN as Bearer token"
        paths[path] = _operation("post", path, summary, _OBJECT, body=json_body)
    return paths


def _operation(  # noqa: PLR0913 - one table's columns
    method: str,
    path: str,
    summary: str,
    answer: Document,
    *,
    tag: str = "Open Inference Protocol V2",
    body: Document | None = None,
    parameters: list[Document] | None = None,
) -> Document:
    in_path = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for name in ("name", "version")
        if f"{{{name}}}" in path
    ]
    operation: Document = {
        "tags": [tag],
        "summary": summary,
        "parameters": [*in_path, *(parameters or [])],
        "responses": {
            "200": {"description": "Done", "content": {"application/json": {"schema": answer}}},
            "default": _ERROR,
        },
    }
    if body is not None:
        operation["requestBody"] = {"content": body}
    return {method: operation}
