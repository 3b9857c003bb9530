"""Request and response of V2, byte for byte, as they were when they were looked at and found right.

Each pair of ``v2_pairs.json`` is a request off the wire and the answer to it, base64 where it is
not text. Numbers are whole, or quarters: any processor's are the same. To look at them anew after a
change that is meant: ``PYTHONPATH=. python tests/golden/test_v2_pairs.py``.
"""

import base64
import json
import struct
import tempfile
from pathlib import Path
from typing import Any

import pytest

from models.image import encode_png
from tests.server import RunningServer, Wire, get, post, running_server
from tests.tiny import SIDE, publish_tiny, random_images

pytestmark = pytest.mark.e2e

FILE = Path(__file__).with_name("v2_pairs.json")
IMAGES = random_images(2, seed=16)
HEAD = "Inference-Header-Content-Length"
# Stages' times and the clock are not part of what is held.
VOLATILE = ("server-timing", "date", "x-request-id")


def tensor(**fields: Any) -> dict[str, Any]:
    return {"name": "images", "datatype": "UINT8", "shape": [2, SIDE, SIDE, 1], **fields}


def with_binary(document: dict[str, Any], behind: bytes) -> bytes:
    head = json.dumps(document).encode()
    return post("/v2/models/tiny/infer", head + behind, f"{HEAD}: {len(head)}")


def requests() -> dict[str, bytes]:
    """Every request that is held, by its name."""
    path, pixels = "/v2/models/tiny/infer", IMAGES.tobytes()
    encoded = [encode_png(image) for image in IMAGES]
    elements = b"".join(struct.pack("<I", len(image)) + image for image in encoded)
    logits = {"outputs": [{"name": "logits"}]}
    black = {"inputs": [tensor(shape=[1, SIDE, SIDE, 1], data=[0] * SIDE * SIDE)]}
    as_json = {"inputs": [tensor(data=IMAGES.ravel().tolist())]} | logits
    as_binary = {"inputs": [tensor(parameters={"binary_data_size": len(pixels)})]} | logits
    as_elements = {
        "inputs": [
            tensor(datatype="BYTES", shape=[2], parameters={"binary_data_size": len(elements)})
        ]
    } | logits
    texts = [base64.b64encode(image).decode() for image in encoded]
    as_texts = {"inputs": [tensor(datatype="BYTES", shape=[2, 1], data=texts)]} | logits
    classes = {"outputs": [{"name": "logits", "parameters": {"classification": 2}}]}
    binary_classes = {
        "outputs": [{"name": "logits", "parameters": {"classification": 1, "binary_data": True}}]
    }
    all_binary = {"id": "a", "parameters": {"binary_data_output": True}}

    def infer(document: dict[str, Any]) -> bytes:
        return post(path, json.dumps(document).encode())

    return {
        "live": get("/v2/health/live"),
        "ready": get("/v2/health/ready"),
        "model": get("/v2/models/tiny"),
        "version": get("/v2/models/tiny/versions/1"),
        "config": get("/v2/models/tiny/config"),
        "index": post("/v2/repository/index", b""),
        "load refused": post("/v2/repository/models/tiny/load", b""),
        "json": infer(as_json),
        "all outputs": infer(black),
        "all outputs, nested": infer(
            {"inputs": [tensor(shape=[1, SIDE, SIDE, 1], data=[[[[0]] * SIDE] * SIDE])]}
        ),
        "json with an id": infer(as_json | {"id": "42"}),
        "classification": infer(as_json | classes),
        "base64": infer(as_texts),
        "binary in, json out": with_binary(as_binary, pixels),
        "binary in and out": with_binary(as_binary | all_binary, pixels),
        "binary classification": with_binary(as_binary | binary_classes, pixels),
        "encoded images": with_binary(as_elements | all_binary, elements),
        "raw": post(path, bytes(SIDE * SIDE), f"{HEAD}: 0"),
        "unknown model": post("/v2/models/large/infer", b"{}"),
        "no inputs": infer({}),
        "wrong datatype": infer({"inputs": [tensor(datatype="FP32", data=[0])]}),
        "wrong shape": infer({"inputs": [tensor(shape=[1], data=[0])]}),
        "wrong size": infer({"inputs": [tensor(data=[0])]}),
        "no json": post(path, b"{"),
        "wrong method": get(path),
    }


def answer_to(server: RunningServer, request: bytes) -> dict[str, Any]:
    with Wire(server) as wire:
        answer = wire.send(request).answer()
    headers = {name: value for name, value in answer.headers.items() if name not in VOLATILE}
    return {
        "request": base64.b64encode(request).decode(),
        "status": answer.status,
        "headers": headers,
        "body": text(answer.body),
    }


def text(body: bytes) -> str | dict[str, str]:
    try:
        return body.decode()
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(body).decode()}


HELD = json.loads(FILE.read_text()) if FILE.exists() else {}


@pytest.mark.parametrize("name", HELD)
def test_pairs(server: RunningServer, name: str) -> None:
    assert answer_to(server, base64.b64decode(HELD[name]["request"])) == HELD[name]


def test_every_request_has_its_pair() -> None:
    assert list(HELD) == list(requests())


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "models"
        for gain in (1.0, 2.0):
            publish_tiny(root, gain=gain)
        (root / "repository.json").write_text(
            '{"default_model": "tiny", "default_versions": {"tiny": 1}}'
        )
        with running_server(root, Path(folder)) as running:
            pairs = {name: answer_to(running, sent) for name, sent in requests().items()}
    FILE.write_text(json.dumps(pairs, indent=1, ensure_ascii=False) + "\n")
