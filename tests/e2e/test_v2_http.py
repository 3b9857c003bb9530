"""V2 over HTTP as a client without a library sees it: headers, forms, statuses."""

import base64
import gzip
import zlib
from typing import Any

import httpx
import numpy as np
import orjson
import pytest

from models.image import encode_png
from tests.server import Answer, RunningServer, Wire, assert_error, get, post
from tests.tiny import LABELS, SIDE, random_images, tiny_logits, tiny_probabilities

pytestmark = pytest.mark.e2e

IMAGES = random_images(64, seed=12)
PNGS = [encode_png(image) for image in IMAGES]
INFER = "/v2/models/tiny/infer"
HEAD = "Inference-Header-Content-Length"


@pytest.fixture
def client(two_wires: RunningServer) -> Any:
    with httpx.Client(base_url=two_wires.url, timeout=30) as client:
        yield client


def document(rows: int = 1, **changes: Any) -> dict[str, Any]:
    tensor = {
        "name": "images",
        "datatype": "UINT8",
        "shape": [rows, SIDE, SIDE, 1],
        "data": IMAGES[:rows].ravel().tolist(),
    }
    return {"inputs": [tensor | changes]}


def binary(rows: int, *, outputs: Any = None, **parameters: Any) -> tuple[bytes, dict[str, str]]:
    pixels = IMAGES[:rows].tobytes()
    asked = document(rows, parameters={"binary_data_size": len(pixels)})
    del asked["inputs"][0]["data"]
    asked |= {"parameters": parameters} | ({"outputs": outputs} if outputs else {})
    head = orjson.dumps(asked)
    return head + pixels, {HEAD: str(len(head))}


def split(response: httpx.Response) -> tuple[dict[str, Any], bytes]:
    size = int(response.headers[HEAD])
    assert response.headers["content-type"] == "application/octet-stream"
    return orjson.loads(response.content[:size]), response.content[size:]


def test_json_in_and_out(client: httpx.Client) -> None:
    response = client.post(INFER, json=document(3) | {"id": "π"})
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "application/json"
    assert HEAD.lower() not in response.headers
    said = response.json()
    assert list(said) == ["model_name", "model_version", "id", "outputs"]
    assert (said["model_name"], said["model_version"], said["id"]) == ("tiny", "1", "π")
    logits, probabilities = said["outputs"]
    assert logits == {
        "name": "logits",
        "datatype": "FP32",
        "shape": [3, 4],
        "data": tiny_logits(IMAGES[:3]).ravel().tolist(),
    }
    np.testing.assert_allclose(
        probabilities["data"], tiny_probabilities(IMAGES[:3]).ravel(), atol=1e-6
    )


@pytest.mark.parametrize(
    ("asked", "is_binary"),
    [
        ({}, False),
        ({"binary_data_output": True}, True),
        ({"binary_data_output": False}, False),
    ],
)
def test_who_decides_that_outputs_are_binary(
    client: httpx.Client, asked: dict[str, bool], is_binary: bool
) -> None:
    body, headers = binary(2, **asked)
    response = client.post(INFER, content=body, headers=headers)
    assert response.status_code == 200, response.text
    if not is_binary:
        assert response.json()["outputs"][0]["data"] == tiny_logits(IMAGES[:2]).ravel().tolist()
        return
    said, behind = split(response)
    assert [o["parameters"] for o in said["outputs"]] == [{"binary_data_size": 32}] * 2
    assert behind[:32] == tiny_logits(IMAGES[:2]).tobytes()
    assert len(behind) == 64


def test_an_output_overrides_the_request(client: httpx.Client) -> None:
    outputs = [
        {"name": "probabilities", "parameters": {"binary_data": False}},
        {"name": "logits"},
    ]
    body, headers = binary(1, outputs=outputs, binary_data_output=True)
    said, behind = split(client.post(INFER, content=body, headers=headers))
    assert [output["name"] for output in said["outputs"]] == ["probabilities", "logits"]
    assert len(said["outputs"][0]["data"]) == 4
    assert behind == tiny_logits(IMAGES[:1]).tobytes()


def test_equal_heads_before_other_pixels(client: httpx.Client) -> None:
    """What is remembered of a head says nothing of what follows it."""
    body, headers = binary(1)
    head = body[: int(headers[HEAD])]
    for image in IMAGES[:5]:
        response = client.post(INFER, content=head + image.tobytes(), headers=headers)
        assert response.json()["outputs"][0]["data"] == tiny_logits(image[None]).ravel().tolist()
    short = client.post(INFER, content=head + IMAGES[0].tobytes()[:-1], headers=headers)
    assert_error(short, 400, "expected 64 bytes of binary data, got 63")


@pytest.mark.parametrize("rows", [1, 5])
def test_raw_body_is_the_one_tensor(client: httpx.Client, rows: int) -> None:
    content = IMAGES[:rows].tobytes()
    said, behind = split(client.post(INFER, content=content, headers={HEAD: "0"}))
    assert said["outputs"][0]["shape"] == [rows, 4]
    assert behind[: rows * 16] == tiny_logits(IMAGES[:rows]).tobytes()


def test_the_only_tensor_needs_no_size(client: httpx.Client) -> None:
    asked = document(2)
    del asked["inputs"][0]["data"]
    head = orjson.dumps(asked)
    response = client.post(
        INFER, content=head + IMAGES[:2].tobytes(), headers={HEAD: str(len(head))}
    )
    assert response.json()["outputs"][0]["data"] == tiny_logits(IMAGES[:2]).ravel().tolist()


def test_encoded_images_of_any_size_are_decoded_and_resized(client: httpx.Client) -> None:
    large = np.kron(IMAGES[1][:, :, 0], np.ones((8, 8), np.uint8))[:, :, None]
    texts = [base64.b64encode(png).decode() for png in (PNGS[0], encode_png(large), PNGS[2])]
    response = client.post(INFER, json=document(datatype="BYTES", shape=[3], data=texts))
    assert response.json()["outputs"][0]["data"] == tiny_logits(IMAGES[:3]).ravel().tolist()


def test_one_bad_image_refuses_the_request_and_is_named(client: httpx.Client) -> None:
    for bad, status, match in (
        (PNGS[1][:-30], 400, r'input "images" \[1\]: image: expected a complete PNG'),
        (encode_png(np.zeros((101, 100, 1), np.uint8)), 413, r"\[1\]: image: expected at most"),
        (b"", 400, r"\[1\]: .* empty"),
    ):
        texts = [base64.b64encode(png).decode() for png in (PNGS[0], bad)]
        response = client.post(INFER, json=document(datatype="BYTES", shape=[2], data=texts))
        assert_error(response, status, match)


def test_the_index_takes_no_coding(client: httpx.Client) -> None:
    for coding, status in (("gzip", 415), ("br", 415), ("identity", 200)):
        body = gzip.compress(b"{}") if coding == "gzip" else b"{}"
        headers = {"Content-Encoding": coding}
        answer = client.post("/v2/repository/index", content=body, headers=headers)
        assert answer.status_code == status
        if status == 415:
            assert_error(answer, 415, "content-encoding: expected none on this route, got")


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
def test_codings_both_ways(two_wires: RunningServer, coding: str) -> None:
    """The JSON's length counts before compression, both ways."""
    body, head = binary(64, binary_data_output=True)
    sent = gzip.compress(body) if coding == "gzip" else zlib.compress(body)
    lines = [f"{HEAD}: {head[HEAD]}", f"Content-Encoding: {coding}", f"Accept-Encoding: {coding}"]
    with Wire(two_wires) as wire:
        answer = wire.send(post(INFER, sent, *lines)).answer()
    assert answer.status == 200, answer.body
    assert answer.headers["content-encoding"] == coding
    assert answer.headers["vary"] == "accept-encoding"
    body = gzip.decompress(answer.body) if coding == "gzip" else zlib.decompress(answer.body)
    size = int(answer.headers[HEAD.lower()])
    assert orjson.loads(body[:size])["outputs"][0]["shape"] == [64, 4]
    assert body[size : size + 64 * 16] == tiny_logits(IMAGES).tobytes()


def test_small_answers_and_errors_are_not_compressed(client: httpx.Client) -> None:
    for asked in (document(1), {}):
        response = client.post(INFER, json=asked, headers={"Accept-Encoding": "gzip"})
        assert "content-encoding" not in response.headers


def test_bomb_is_refused(client: httpx.Client) -> None:
    bomb = gzip.compress(bytes(100 << 20))
    response = client.post(INFER, content=bomb, headers={"Content-Encoding": "gzip"})
    assert_error(response, 413, "at most 1048576 bytes once expanded")


CLASSIFY = [{"name": "logits", "parameters": {"classification": 2}}]


def test_classification(client: httpx.Client) -> None:
    logits = tiny_logits(IMAGES[:2])
    order = np.argsort(-logits, axis=1)[:, :2]
    expected = [
        f"{logits[row, i]:.6f}:{i}:{LABELS[i]}" for row in range(2) for i in order[row].tolist()
    ]
    said = client.post(INFER, json=document(2) | {"outputs": CLASSIFY}).json()["outputs"]
    assert said == [{"name": "logits", "datatype": "BYTES", "shape": [2, 2], "data": expected}]


@pytest.mark.parametrize(
    ("path", "version", "gain"),
    [
        (INFER, "1", 1.0),
        ("/v2/models/tiny/versions/2/infer", "2", 2.0),
        ("/v2/models/t%69ny/versions/1/infer", "1", 1.0),
    ],
)
def test_versions(client: httpx.Client, path: str, version: str, gain: float) -> None:
    said = client.post(path, json=document()).json()
    assert said["model_version"] == version
    assert said["outputs"][0]["data"] == tiny_logits(IMAGES[:1], gain).ravel().tolist()


@pytest.mark.parametrize(
    ("change", "status", "match"),
    [
        ({"name": "image"}, 400, 'expected "images", got "image"'),
        ({"name": 1}, 400, '"name" and "datatype" to be strings, got a number and a string'),
        ({"datatype": "FP32"}, 400, r"expected UINT8 \[-1, 8, 8, 1\], or BYTES \[-1\]"),
        ({"datatype": "PIXELS"}, 400, "expected a datatype"),
        ({"shape": [64]}, 400, r"expected UINT8 \[-1, 8, 8, 1\], got UINT8 \[64\]"),
        ({"shape": [1, 8, 8]}, 400, r"got UINT8 \[1, 8, 8\]"),
        ({"shape": [-1, 8, 8, 1]}, 400, "sizes from 0"),
        ({"shape": [1.0, 8, 8, 1]}, 400, "list of whole numbers"),
        ({"shape": "1"}, 400, "list of whole numbers"),
        ({"shape": [True, 8, 8, 1]}, 400, "list of whole numbers"),
        ({"shape": [71, 8, 8, 1]}, 413, "at most 70 rows, got 71"),
        ({"shape": [2, 8, 8, 1]}, 400, "expected 128 elements .* got 64"),
        ({"data": None}, 400, 'expected "data", or "binary_data_size"'),
        ({"data": 1}, 400, '"data" to be an array, got a number'),
        ({"data": ["a"] * 64}, 400, "whole numbers from 0 to 255"),
        ({"data": [1] * 63 + [True]}, 400, r"got true at \[0, 7, 7, 0\]"),
        ({"parameters": {"binary_data_size": 64}}, 400, "got both"),
        ({"parameters": {"x": [1]}}, 400, "string, number or boolean, got an array"),
        ({"parameters": {"binary_data_size": -1}}, 400, "whole number of bytes"),
        ({"data": None, "parameters": {"binary_data_size": 64}}, 400, "got 0 after the JSON"),
        ({"parameters": {"shared_memory_region": "r"}}, 400, "got shared memory"),
        ({"parameters": {"unknown": "r"}}, 200, ""),
    ],
)
def test_tensors_that_are_refused(
    client: httpx.Client, change: dict[str, Any], status: int, match: str
) -> None:
    response = client.post(INFER, json=document(1, **change))
    if status == 200:
        assert response.status_code == 200
    else:
        assert_error(response, status, match)


def test_an_empty_list_of_outputs_asks_for_all(client: httpx.Client) -> None:
    """As over gRPC, where a list that is not sent is empty: test_v2_grpc.py."""
    response = client.post(INFER, json=document() | {"outputs": []})
    assert [output["name"] for output in response.json()["outputs"]] == ["logits", "probabilities"]


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"inputs": []}, 'expected one, "images", got 0'),
        ({"inputs": None}, '"inputs" to be an array, got null'),
        ({"inputs": [1]}, "expected objects, got a number"),
        ({"outputs": {}}, '"outputs" to be an array, got an object'),
        ({"outputs": [{"name": "label"}]}, 'expected logits or probabilities, got "label"'),
        ({"outputs": [{"name": "logits"}] * 2}, "got one twice"),
        ({"outputs": [{"name": "logits", "parameters": {"classification": -1}}]}, "from 0"),
        ({"outputs": [{"name": "logits", "parameters": {"classification": "2"}}]}, "from 0"),
        ({"outputs": [{"name": "logits", "parameters": {"shared_memory_region": "r"}}]}, "shared"),
        ({"id": 7}, "id: expected a string, got a number"),
        ({"parameters": []}, "parameters to be an object"),
        ({"parameters": {"timeout": -1}}, '"timeout": expected a whole number'),
        ({"parameters": {"timeout": "1s"}}, '"timeout": expected a whole number'),
        ({"parameters": {"priority": 0.5}}, '"priority": expected a whole number'),
    ],
)
def test_requests_that_are_refused(
    client: httpx.Client, change: dict[str, Any], match: str
) -> None:
    assert_error(client.post(INFER, json=document() | change), 400, match)


@pytest.mark.parametrize(
    ("head", "match"),
    [
        ("99999", "at most the body's"),
        ("-1", "whole number of bytes"),
        ("x", "whole number"),
        ("9" * 20, "whole number"),
        ("10", "expected JSON"),
        ("0", "multiple of 64 bytes"),
    ],
)
def test_wrong_lengths_of_the_json(client: httpx.Client, head: str, match: str) -> None:
    body, _ = binary(1)
    assert_error(client.post(INFER, content=body, headers={HEAD: head}), 400, match)


def test_bytes_behind_the_tensors_are_refused(client: httpx.Client) -> None:
    body, headers = binary(1)
    response = client.post(INFER, content=body + b"x", headers=headers)
    assert_error(response, 400, "expected 64 bytes of binary data after the JSON, got 65")


@pytest.mark.parametrize(
    ("method", "path", "status", "match"),
    [
        ("POST", "/v2/models/nothing/infer", 404, "expected one of tiny:1, tiny:2"),
        ("POST", "/v2/models/tiny/versions/3/infer", 404, "expected one of"),
        ("POST", "/v2/models/tiny/versions/one/infer", 404, "expected one of"),
        ("GET", "/v2/models/nothing", 404, "expected one of"),
        ("GET", "/v2/models/nothing/ready", 404, "expected one of"),
        ("GET", "/v2/models/tiny/versions/9/config", 404, "expected one of"),
        ("GET", "/v2/models/nothing/stats", 404, "expected one of"),
        ("GET", INFER, 405, "expected POST"),
        ("PUT", INFER, 405, "expected POST"),
        ("POST", "/v2", 405, "expected GET"),
        ("DELETE", "/v2/health/live", 405, "expected GET"),
        ("GET", "/v2/repository/index", 405, "expected POST"),
        ("GET", "/v2/nothing", 404, "no such route"),
        ("POST", "/v2/models/tiny/generate", 404, "no such route"),
        ("GET", "/v2/systemsharedmemory/status", 404, "no such route"),
        ("POST", "/v2/repository/index", 400, "expected JSON"),
        ("POST", "/v2/repository/models/tiny/load", 403, "FOVEAL_ADMIN_TOKEN"),
        ("POST", "/v2/repository/models/tiny/unload", 403, "FOVEAL_ADMIN_TOKEN"),
    ],
)
def test_routes_that_are_refused(
    two_wires: RunningServer, method: str, path: str, status: int, match: str
) -> None:
    with Wire(two_wires) as wire:
        sent = post(path, b"{") if method == "POST" else get(path, method=method)
        answer = wire.send(sent).answer(method)
        assert_error(answer, status, match)
        assert ("allow" in answer.headers) == (status == 405)


def test_deadline_header_counts_beside_the_parameter(client: httpx.Client) -> None:
    headers = {"X-Request-Timeout-Ms": "0.001"}
    assert_error(client.post(INFER, json=document(), headers=headers), 504, "deadline passed")
    headers = {"X-Request-Timeout-Ms": "soon"}
    assert_error(client.post(INFER, json=document(), headers=headers), 400, "milliseconds")
    asked = document() | {"parameters": {"timeout": 1}}
    assert_error(client.post(INFER, json=asked), 504, "deadline passed")
    asked = document() | {"parameters": {"timeout": 0}}
    assert client.post(INFER, json=asked).status_code == 200


def test_pipelined_requests_are_answered_in_order(two_wires: RunningServer) -> None:
    bodies = [orjson.dumps(document(1 + i % 3) | {"id": str(i)}) for i in range(20)]
    with Wire(two_wires) as wire:
        wire.send(*(post(INFER, body) for body in bodies))
        answers: list[Answer] = [wire.answer() for _ in bodies]
    assert [answer.json()["id"] for answer in answers] == [str(i) for i in range(20)]


def test_metrics_name_the_protocol(two_wires: RunningServer, client: httpx.Client) -> None:
    def count(status: str, **labels: str) -> float:
        return two_wires.metric(
            "foveal_requests_total", protocol="v2_http", status=status, **labels
        )

    good, bad, lost = count("200"), count("400", model="tiny"), count("404", model="")
    client.post(INFER, json=document())
    client.post(INFER, json={})
    client.post("/v2/models/nothing/infer", json=document())
    assert count("200") == good + 1
    assert count("400", model="tiny") == bad + 1
    assert count("404", model="") == lost + 1
