"""Requests that a stranger may send: good ones of each kind, to be mutated, and costly ones."""

import base64
import gzip
from collections.abc import Iterator
from typing import Any

import numpy as np
import orjson
from tritonclient.grpc import service_pb2 as pb

from tests.hostile.corpus import good
from tests.server import post

MODEL, SIDE = "fashion-fcnn", 28  # whom the seeds ask, and the side of its images
MIB = 1 << 20


def picture() -> bytes:
    """Return an image that every model takes."""
    return good()["png-grey"]


def heads(model: str = MODEL) -> list[bytes]:
    """Return whole requests whose heads are mutated."""
    image = picture()
    chunked = b"%x\r\n%s\r\n0\r\n\r\n" % (len(image), image)
    start = b"POST /predict HTTP/1.1\r\nHost: here\r\n"
    return [
        post("/predict?top=2", image, "Content-Type: image/png", "Accept: */*"),
        post(f"/models/{model}/predict", image, "X-Request-Id: 7", "X-Request-Timeout-Ms: 900"),
        start + b"Transfer-Encoding: chunked\r\n\r\n" + chunked,
        start + b"Upgrade: h2c\r\nConnection: Upgrade\r\nContent-Length: 3\r\n\r\nabc",
        post("/predict", image, "Expect: 100-continue", "Content-Encoding: gzip"),
        b"GET /schema.json HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n",
        b"GET /v2/models/fashion-fcnn HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
        b"HEAD /readyz HTTP/1.1\r\nHost: here\r\n\r\nGET /livez HTTP/1.1\r\nHost: here\r\n\r\n",
        b"OPTIONS * HTTP/1.1\r\nHost: here\r\nOrigin: http://there\r\n\r\n",
        b"PUT http://here/models/fashion-fcnn/traffic HTTP/1.1\r\nHost: here\r\n"
        b"Authorization: Bearer x\r\nContent-Length: 2\r\n\r\n{}",
    ]


BOUNDARY = b"----edge"


def forms() -> list[bytes]:
    """Return bodies of forms with the boundary ``BOUNDARY``."""
    image = picture()
    part = b'--%s\r\nContent-Disposition: form-data; name="image"; filename="a.png"\r\n\r\n%s\r\n'
    file = part % (BOUNDARY, image)
    text = b'--%s\r\nContent-Disposition: form-data; name="top"\r\n\r\n3\r\n' % BOUNDARY
    end = b"--%s--\r\n" % BOUNDARY
    return [file + end, file + file + end, text + file + end, file + text + text + end]


def documents(side: int = SIDE) -> list[bytes]:
    """Return bodies of V2's JSON."""
    rows = np.zeros((2, side, side, 1), np.uint8)
    tensor = {"name": "images", "datatype": "UINT8", "shape": [2, side, side, 1]}
    texts = [base64.b64encode(picture()).decode()] * 2
    encoded = {"name": "images", "datatype": "BYTES", "shape": [2], "data": texts}
    outputs = [{"name": "logits", "parameters": {"classification": 2}}]
    return [
        orjson.dumps({"inputs": [{**tensor, "data": rows.ravel().tolist()}]}),
        orjson.dumps({"inputs": [{**tensor, "data": rows.tolist()}], "outputs": outputs}),
        orjson.dumps({"id": "7", "inputs": [encoded], "parameters": {"priority": 1}}),
    ]


def binaries(side: int = SIDE) -> list[bytes]:
    """Return bodies of V2's binary extension: the header's length, four digits, then both."""
    rows = bytes(side * side)
    image = picture()
    raw: dict[str, Any] = {"name": "images", "datatype": "UINT8", "shape": [1, side, side, 1]}
    element = len(image).to_bytes(4, "little") + image
    encoded: dict[str, Any] = {"name": "images", "datatype": "BYTES", "shape": [1]}
    bodies = []
    for tensor, behind in ((raw, rows), (encoded, element)):
        tensor["parameters"] = {"binary_data_size": len(behind)}
        text = orjson.dumps({"inputs": [tensor]})
        bodies.append(b"%04d" % len(text) + text + behind)
    return bodies


def messages(model: str = MODEL, side: int = SIDE) -> list[bytes]:
    """Return serialized gRPC requests to infer."""
    raw = pb.ModelInferRequest(model_name=model, raw_input_contents=[bytes(side * side)])
    raw.inputs.add(name="images", datatype="UINT8", shape=[1, side, side, 1])
    typed = pb.ModelInferRequest(model_name=model, id="7")
    tensor = typed.inputs.add(name="images", datatype="BYTES", shape=[1])
    tensor.contents.bytes_contents.append(picture())
    typed.outputs.add(name="logits").parameters["classification"].int64_param = 2
    return [raw.SerializeToString(), typed.SerializeToString()]


def form(body: bytes) -> bytes:
    """Return a form as a request to /predict."""
    return post(
        "/predict", body, f"Content-Type: multipart/form-data; boundary={BOUNDARY.decode()}"
    )


def document(body: bytes, model: str = MODEL) -> bytes:
    """Return JSON as a request to V2."""
    return post(f"/v2/models/{model}/infer", body)


def binary(body: bytes, model: str = MODEL) -> bytes:
    """Return V2's binary extension as a request."""
    length = body[:4].decode("ascii", "replace") if body[:4].isdigit() else str(len(body) // 2)
    header = f"Inference-Header-Content-Length: {length}"
    return post(f"/v2/models/{model}/infer", body[4:], header)


def costly_heads() -> Iterator[tuple[str, bytes]]:
    """Yield bytes whose heads, pieces and number cost more than their size."""
    start = b"POST /predict HTTP/1.1\r\nHost: here\r\n"
    chunked = start + b"Transfer-Encoding: chunked\r\n"
    yield "10,000 headers", start + b"a: b\r\n\r\n"[:6] * 10_000 + b"\r\n"
    yield "a long path", b"GET /" + b"p" * 60_000 + b" HTTP/1.1\r\nHost: here\r\n\r\n"
    yield "a long header", start + b"A: " + b"v" * MIB + b"\r\n\r\n"
    yield "a long name", start + b"n" * MIB + b": v\r\n\r\n"
    yield "a long query", post("/predict?" + "top=1&" * 9000, picture())
    # Enough that answering all of a kind at once would hold the loop ten times too long.
    yield "20,000 requests", b"GET /none HTTP/1.1\r\nHost: here\r\n\r\n" * 20_000
    yield "2,000 predictions", post("/predict", picture()) * 2000
    yield "pieces of a byte", chunked + b"\r\n" + b"1\r\na\r\n" * MIB + b"0\r\n\r\n"
    yield "long extensions", chunked + b"\r\n" + b"1;" + b"e" * MIB + b"\r\na\r\n0\r\n\r\n"
    yield "trailers", chunked + b"\r\n0\r\n" + b"t: v\r\n" * 200_000 + b"\r\n"
    yield "empty lines", b"\r\n" * MIB + post("/predict", picture())


def costly_forms() -> Iterator[tuple[str, bytes]]:
    """Yield bodies of forms that are nearly as large as a body may be."""
    edge, size = b"--" + BOUNDARY, 31 * MIB
    named = edge + b'\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n'
    yield "empty parts", (edge + b"\r\n\r\n\r\n") * (size // (len(edge) + 6))
    yield "near boundaries", named + b"\r\n" + (b"\r\n" + edge[:-1]) * (size // (len(edge) + 1))
    yield "line ends", named + b"\r\n" + b"\r\n" * (size // 2)
    yield "hyphens", named + b"\r\n" + b"-" * size
    yield "headers of a part", named + b"a: b\r\n" * (size // 6) + b"\r\n"
    yield "a long header", named + b"a: " + b"b" * size + b"\r\n\r\n"
    yield "quotes", edge + b"\r\nContent-Disposition: form-data; name=" + b'"\\' * (size // 2)
    yield "parameters", edge + b"\r\nContent-Disposition: form-data" + b"; a=b" * (size // 5)
    yield "a preamble", b"p" * size + named + b"\r\nx\r\n" + edge + b"--\r\n"
    yield "256 files", (named + b"\r\n" + bytes(120 << 10) + b"\r\n") * 250 + edge + b"--\r\n"
    yield "250 images", (named + b"\r\n" + picture() + b"\r\n") * 250 + edge + b"--\r\n"


def costly_binaries(model: str = MODEL) -> Iterator[tuple[str, bytes]]:
    """Yield requests in V2's binary extension."""
    head = b'{"inputs":[{"name":"images","datatype":"BYTES","shape":[%d],"parameters":'
    for name, element, count in (
        ("empty elements", bytes(4), 7 * MIB),
        ("elements of a byte", b"\1\0\0\0x", 6 * MIB),
        ("too long an element", b"\xff\xff\xff\x7f", 7 * MIB),
        ("256 elements", (100_000).to_bytes(4, "little") + bytes(100_000), 256),
    ):
        text = head % count + b'{"binary_data_size":%d}}]}' % (len(element) * count)
        yield name, binary(b"%04d" % len(text) + text + element * count, model)


def costly_messages(model: str = MODEL) -> Iterator[tuple[str, bytes]]:
    """Yield serialized gRPC requests of millions of parts, or deep ones."""
    for field in (0x2A, 0x32, 0x3A):  # inputs, outputs, raw contents
        yield f"12 M fields {field:x}", bytes([field, 0]) * (12 * MIB - 1)
    typed = pb.ModelInferRequest(model_name=model)
    contents = typed.inputs.add(name="images", datatype="INT32", shape=[15 * MIB]).contents
    whole = typed.SerializeToString()
    packed = b"\x12" + _varint(15 * MIB) + b"\1" * (15 * MIB)  # int_contents
    contents.bytes_contents.append(b"")
    yield "15 M integers", whole + b"\x2a" + _varint(len(packed) + 5) + b"\x2a" + packed
    tensor = b"\x2a" + _varint(16 * MIB) + b"\x42\0" * (8 * MIB)  # bytes_contents
    yield "8 M empty texts", b"\x2a" + _varint(len(tensor)) + tensor
    yield "groups", b"\x0b" * (15 * MIB)
    yield "long varints", b"\x50" + b"\xff" * (15 * MIB)
    yield "a long name", b"\x0a" + _varint(15 * MIB) + b"m" * (15 * MIB)


def _varint(value: int) -> bytes:
    """Return a number as protobuf writes it."""
    parts = []
    while value > 0x7F:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*parts, value])


def costly_documents(model: str = MODEL) -> Iterator[tuple[str, bytes]]:
    """Yield requests in V2's JSON: as large as a body may be, as JSON may be, or compressed."""
    start = b'{"inputs":[{"name":"images","datatype":"UINT8","shape":[2,8,8,1],"data":['
    units = {
        "objects": b"{},",
        "arrays": b"[],",
        "depth": b"[",
        "numbers": b"1,",
        "floats": b"0.1234567,",
        "texts": b'"a",',
        "wide texts": b'"\xf0\x9f\x98\x80",',
        "escapes": b'"\\u0041",',
        "keys": b'{"a":1},',
        "digits": b"1",
        "spaces": b" ",
        "outputs": b'1]}],"outputs":[{"name":"logits"},',
    }
    yield "31 MiB", document(start + b"{}," * (10 * MIB), model)
    for name, unit in units.items():
        yield f"5 MiB of {name}", document(start + unit * (5 * MIB // len(unit)) + b"1]}]}", model)
        within = min(419_000, 5 * MIB // len(unit))  # below the limit of values: these are parsed
        yield f"many {name}", document(start + unit * within + b"1]}]}", model)
        packed = gzip.compress(start + unit * (31 * MIB // len(unit)), 1, mtime=0)
        path = f"/v2/models/{model}/infer"
        yield f"gzip of {name}", post(path, packed, "Content-Encoding: gzip")
