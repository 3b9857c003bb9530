"""What a load test sends: requests of every protocol, made of a version's golden images.

The labels that the model gave them when it was published are expected back, of several labels all.
"""

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from loadtest.calls import Answered, Call, Kind, labels_of
from loadtest.errors import LoadTestError
from models.abstain import is_answered
from models.artifact import GOLDEN_TIE, ModelArtifact
from models.evidence import Golden
from models.image import decode, encode_png
from models.labels import are_given, distinct_names
from models.repository import ModelRepository

_BOUNDARY = "foveal-load"
# 28 x 28 pixels become 112 x 112 and 448 x 448: what is decoded at once, and what on threads.
_FACTORS = (4, 16)


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
    sent = _certain(artifact)
    images = [repository.read_file(artifact, golden.path) for golden in sent]
    answered = _answered(artifact, sent, kind)
    calls = []
    for first in range(len(images)):
        order = [(first + i) % len(images) for i in range(rows)]
        chosen = [images[i] for i in order]
        expected = tuple(answered[i] for i in order)
        made = _make(kind, artifact, chosen, expected)
        calls.append(replace(made, thresholds=artifact.thresholds))
    return calls


def make_call(
    artifact: ModelArtifact, images: Sequence[bytes], answered: Sequence[tuple[int, ...]]
) -> Call:
    """Return one request for some images: the image alone, or a form of several.

    Args:
        artifact: The version that is asked.
        images: Encoded.
        answered: Indexes of the label or labels that each must get.
    """
    kind: Kind = "raw" if len(images) == 1 else "multipart"
    names = distinct_names(artifact.labels)
    expected: tuple[Answered, ...] = tuple(
        tuple(sorted(names[index] for index in row)) if artifact.thresholds else row[0]
        for row in answered
    )
    made = _make(kind, artifact, list(images), expected)
    return replace(made, thresholds=artifact.thresholds)


def _answered(
    artifact: ModelArtifact, images: Sequence[Golden], kind: Kind
) -> tuple[Answered, ...]:
    """Return the labels that each image must get, as answers of this kind say them."""
    probabilities_NK = np.array([golden.probabilities for golden in images], np.float32)
    if not artifact.thresholds or kind not in ("raw", "multipart"):
        return labels_of(probabilities_NK, artifact.thresholds)
    names, given_NK = (
        distinct_names(artifact.labels),
        are_given(probabilities_NK, artifact.thresholds),
    )
    if artifact.abstain is not None:  # such a row gets none
        given_NK &= is_answered(probabilities_NK.max(axis=1), artifact.abstain.threshold)[:, None]
    return tuple(tuple(sorted(names[index] for index in np.flatnonzero(row))) for row in given_NK)


def _certain(artifact: ModelArtifact) -> Sequence[Golden]:
    """Return golden images none of whose labels hangs on the last digits of a probability."""
    if not artifact.thresholds:
        return artifact.golden
    limits_K = np.array(artifact.thresholds)
    certain = [
        golden
        for golden in artifact.golden
        if np.abs(np.array(golden.probabilities) - limits_K).min() > GOLDEN_TIE
    ]
    return certain or artifact.golden


def make_mixed_calls(
    repository: ModelRepository, artifacts: Sequence[ModelArtifact], rows: int = 4
) -> list[Call]:
    """Return traffic as it comes: several models, sizes of images and forms of requests.

    Images are enlarged by whole factors, pixel by pixel, which the service's own resizing undoes:
    the recorded labels hold. Where a model's resizing does not, only its own size is sent.

    Args:
        repository: Where the images lie.
        artifacts: The versions that are asked.
        rows: Images in a request that takes several.

    Raises:
        LoadTestError: A version has no golden images.
    """
    calls = []
    for artifact in artifacts:
        small = make_calls(repository, artifact, "raw")
        calls += small
        for factor in _FACTORS:
            larger = [_enlarged(call.body, artifact, factor) for call in small]
            calls += [replace(c, body=b) for c, b in zip(small, larger, strict=True) if b]
        for kind in ("multipart", "v2-json", "v2-binary"):
            calls += make_calls(repository, artifact, kind, rows)
    return calls


def _enlarged(encoded: bytes, artifact: ModelArtifact, factor: int) -> bytes | None:
    """Return an image of ``factor`` times the sides that is the same to the model, as PNG."""
    spec = artifact.image
    plain = decode(encoded, spec)
    larger = encode_png(np.repeat(np.repeat(plain, factor, axis=0), factor, axis=1))
    return larger if np.array_equal(decode(larger, spec), plain) else None


def as_form(images: Sequence[bytes], field: str = "images") -> tuple[bytes, str]:
    """Return images as a form with one file each, and the form's content type."""
    parts = [
        f'--{_BOUNDARY}\r\nContent-Disposition: form-data; name="{field}"; filename="{i}"\r\n'
        "Content-Type: application/octet-stream\r\n\r\n".encode()
        + image
        + b"\r\n"
        for i, image in enumerate(images)
    ]
    return (
        b"".join(parts) + f"--{_BOUNDARY}--\r\n".encode(),
        f"multipart/form-data; boundary={_BOUNDARY}",
    )


def _make(
    kind: Kind, artifact: ModelArtifact, images: list[bytes], expected: tuple[Answered, ...]
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
    output: dict[str, Any] = {"name": "probabilities" if artifact.thresholds else "logits"}
    if kind == "v2-json":
        document = {
            "inputs": [{**tensor, "data": images_NHWC.ravel().tolist()}],
            "outputs": [output],
        }
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
