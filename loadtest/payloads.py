"""What a load test sends: requests of every protocol, made of a version's golden images.

The labels that the model gave them when it was published are expected back.
"""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from loadtest.calls import Call, Kind
from loadtest.errors import LoadTestError
from models.artifact import ModelArtifact
from models.image import decode
from models.repository import ModelRepository

_BOUNDARY = "foveal-load"


def make_calls(
    repository: ModelRepository, artifact: ModelArtifact, kind: Kind = "raw", rows: int = 1
) -> list[Call]:
    """Return as many requests as the version has golden images, each beginning with another.

    Args:
        repository: Where the images lie.
        artifact: The version; its labels are expected back.
        kind: Protocol and form of the request.
        rows: Images in one request, 1 or more; ``raw`` takes one only.

    Raises:
        LoadTestError: The version has no golden images, or the kind takes no such number of rows.
    """
    if not artifact.golden:
        raise LoadTestError(f"{artifact.reference}: expected golden images to send, got none")
    if kind == "raw" and rows != 1:
        raise LoadTestError(f"rows: expected 1 for raw images, got {rows}; use multipart or V2")
    images = [repository.read_file(artifact, golden.path) for golden in artifact.golden]
    indices = [int(np.argmax(golden.probabilities)) for golden in artifact.golden]
    calls = []
    for first in range(len(images)):
        order = [(first + i) % len(images) for i in range(rows)]
        chosen = [images[i] for i in order]
        expected = tuple(indices[i] for i in order)
        calls.append(_make(kind, artifact, chosen, expected))
    return calls


def as_form(images: Sequence[bytes], field: str = "images") -> tuple[bytes, str]:
    """Return images as a form with one file each, and the form's content type."""
    parts = [
        f'--{_BOUNDARY}\r\nContent-Disposition: form-data; name="{field}"; filename="{i}"\r\n'
        "Content-Type: application/octet-stream\r\n\r\n".encode() + image + b"\r\n"
        for i, image in enumerate(images)
    ]  # fmt: skip
    return (
        b"".join(parts) + f"--{_BOUNDARY}--\r\n".encode(),
        f"multipart/form-data; boundary={_BOUNDARY}",
    )


def _make(
    kind: Kind, artifact: ModelArtifact, images: list[bytes], expected: tuple[int, ...]
) -> Call:
    route = f"models/{artifact.name}/versions/{artifact.version}"
    if kind == "raw":
        headers = (("Content-Type", "application/octet-stream"),)
        return Call(kind, f"/{route}/predict?top=1", headers, images[0], expected, "predict")
    if kind == "multipart":
        body, content_type = as_form(images)
        headers = (("Content-Type", content_type),)
        return Call(kind, f"/{route}/predict?top=1", headers, body, expected, "predict")
    images_NHWC = np.stack([decode(image, artifact.image) for image in images])
    if kind == "grpc":
        return Call(kind, artifact.reference, (), _triton_body(images_NHWC), expected, "grpc")
    name = artifact.inputs[0].name
    tensor: dict[str, Any] = {"name": name, "datatype": "UINT8", "shape": images_NHWC.shape}
    output: dict[str, Any] = {"name": "logits"}
    if kind == "v2-json":
        document = {"inputs": [{**tensor, "data": images_NHWC.ravel().tolist()}],
                    "outputs": [output]}  # fmt: skip
        headers = (("Content-Type", "application/json"),)
        return Call(
            kind, f"/v2/{route}/infer", headers, json.dumps(document).encode(), expected, "v2-json"
        )
    raw = images_NHWC.tobytes()
    document = {
        "inputs": [{**tensor, "parameters": {"binary_data_size": len(raw)}}],
        "outputs": [{**output, "parameters": {"binary_data": True}}],
    }
    head = json.dumps(document).encode()
    headers = (
        ("Content-Type", "application/octet-stream"),
        ("Inference-Header-Content-Length", str(len(head))),
    )  # type: ignore[assignment]
    return Call(kind, f"/v2/{route}/infer", headers, head + raw, expected, "v2-binary")


def _triton_body(images_NHWC: NDArray[np.uint8]) -> bytes:
    """Return the shape as a line of JSON, then the pixels: what the gRPC user makes a call of."""
    return json.dumps(images_NHWC.shape).encode() + b"\n" + images_NHWC.tobytes()
