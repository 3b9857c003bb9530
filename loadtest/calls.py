"""A request of a load test and the labels that its answer must have; the file that holds them.

Made by ``payloads``, written to a file, read by the processes that send. Imports nothing of ours:
some of those are locust's, whose standard library is patched.
"""

import base64
import json
import math
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import orjson
from numpy.typing import NDArray

from loadtest.samples import EXPIRED, FAILED, REFUSED, RIGHT, WRONG

Kind = Literal["raw", "multipart", "v2-json", "v2-binary", "grpc", "nothing"]
KINDS: tuple[Kind, ...] = ("raw", "multipart", "v2-json", "v2-binary", "grpc")
# How the labels are found in an answer; "index" is what the peers of the benchmarks say.
Answer = Literal["predict", "v2-json", "v2-binary", "grpc", "index", "any"]

_BY_STATUS = {429: REFUSED, 504: EXPIRED}
_INFERENCE_HEADER = "inference-header-content-length"


@dataclass(frozen=True, slots=True)
class Call:
    """One request and the labels that its answer must have.

    Attributes:
        kind: Kind of request; figures are grouped by it.
        path: With the query; for gRPC the full method.
        headers: Name and value, without those that every request has.
        body: Whole.
        expected: Index of the label of each row; empty where nothing is checked.
        answer: How to read them in the answer.
        method: Of HTTP.
    """

    kind: Kind
    path: str
    headers: tuple[tuple[str, str], ...]
    body: bytes
    expected: tuple[int, ...]
    answer: Answer
    method: str = "POST"

    @property
    def rows(self) -> int:
        """Images in the request."""
        return len(self.expected)

    def with_headers(self, *more: tuple[str, str]) -> "Call":
        """Return the same call with further headers."""
        return replace(self, headers=(*self.headers, *more))


# Answered by the service's own front without touching a model: what is left is the client's work.
DO_NOTHING = Call("nothing", "/v2/health/live", (), b"", (), "any", "GET")


def read_indices(call: Call, headers: dict[str, str], body: bytes) -> tuple[int, ...]:
    """Return the index of the first label of each row in a good answer to a call.

    Args:
        call: What was asked.
        headers: Of the answer, names in lower case.
        body: Whole.

    Raises:
        ValueError: The answer has another form.
    """
    try:
        return _READERS[call.answer](headers, body)
    except (KeyError, IndexError, TypeError) as error:
        raise ValueError(f"no labels in the answer: {body[:100]!r}") from error


def judge(call: Call, status: int, headers: dict[str, str], body: bytes) -> tuple[int, str]:
    """Return the outcome of an answer, and what is wrong with it, if anything.

    Args:
        call: What was asked.
        status: Of HTTP.
        headers: Names in lower case.
        body: Whole.
    """
    if status != 200:
        return _BY_STATUS.get(status, FAILED), f"status {status}: {_said(body)}"
    try:
        got = read_indices(call, headers, body)
    except ValueError as error:
        return FAILED, str(error)
    if got == call.expected:
        return RIGHT, ""
    return WRONG, f"expected labels {call.expected}, got {got}"


def write_calls(path: Path, calls: Iterable[Call]) -> None:
    """Write calls to a file for the processes that send them."""
    documents = [{**asdict(c), "body": base64.b64encode(c.body).decode()} for c in calls]
    path.write_text(json.dumps(documents), encoding="utf-8")


def authorization() -> tuple[tuple[str, str], ...]:
    """Return the header with the key in ``FOVEAL_API_KEY``, if there is one, for gRPC as well."""
    key = os.environ.get("FOVEAL_API_KEY", "").strip()
    return (("authorization", f"Bearer {key}"),) if key else ()


def read_calls(path: Path) -> list[Call]:
    """Read what ``write_calls`` wrote, and add this environment's key, which no file holds."""
    key = authorization()
    return [
        Call(
            d["kind"],
            d["path"],
            (*((name, value) for name, value in d["headers"]), *key),
            base64.b64decode(d["body"]),
            tuple(d["expected"]),
            d["answer"],
            d["method"],
        )
        for d in json.loads(path.read_text(encoding="utf-8"))
    ]


def triton_images(call: Call) -> NDArray[np.uint8]:
    """Return the images of a gRPC call, uint8 [N, H, W, C]."""
    head, _, raw = call.body.partition(b"\n")
    images_NHWC: NDArray[np.uint8] = np.frombuffer(raw, np.uint8).reshape(json.loads(head))
    return images_NHWC


def _predict(_headers: dict[str, str], body: bytes) -> tuple[int, ...]:
    results = orjson.loads(body)["results"]
    return tuple(result["predictions"][0]["index"] for result in results)


def _v2_json(_headers: dict[str, str], body: bytes) -> tuple[int, ...]:
    (output,) = orjson.loads(body)["outputs"]
    return _largest(np.asarray(output["data"]), output["shape"])


def _v2_binary(headers: dict[str, str], body: bytes) -> tuple[int, ...]:
    size = int(headers[_INFERENCE_HEADER])
    (output,) = orjson.loads(body[:size])["outputs"]
    return _largest(np.frombuffer(body[size:], np.float32), output["shape"])


def _largest(values: NDArray[Any], shape: list[int]) -> tuple[int, ...]:
    if values.size != math.prod(shape):
        raise ValueError(f"output: expected {shape}, got {values.size} values")
    return tuple(values.reshape(shape).argmax(axis=1).tolist())


def _index(_headers: dict[str, str], body: bytes) -> tuple[int, ...]:
    document = orjson.loads(body)
    if isinstance(document, list):
        (document,) = document
    return (int(document["label"] if isinstance(document, dict) else document),)


def _any(_headers: dict[str, str], _body: bytes) -> tuple[int, ...]:
    return ()


_READERS = {
    "predict": _predict,
    "v2-json": _v2_json,
    "v2-binary": _v2_binary,
    "index": _index,
    "any": _any,
}


def _said(body: bytes) -> str:
    """Return an error's message without its numbers, so that like counts with like."""
    try:
        text = str(json.loads(body)["error"])
    except (ValueError, KeyError, TypeError):
        text = body[:60].decode("latin-1")
    return "".join("#" if c.isdigit() else c for c in text)
