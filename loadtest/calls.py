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

# What a row is answered with: the index of its first label; of a multi-label model all of its
# labels, their names in an answer of ``/predict``, their indices in one of V2.
Answered = int | tuple[int, ...] | tuple[str, ...]

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
        expected: Labels of each row, see ``Answered``; empty where nothing is checked.
        answer: How to read them in the answer.
        method: Of HTTP.
        thresholds: Of a multi-label model: least probability of each label.
    """

    kind: Kind
    path: str
    headers: tuple[tuple[str, str], ...]
    body: bytes
    expected: tuple[Answered, ...]
    answer: Answer
    method: str = "POST"
    thresholds: tuple[float, ...] = ()

    @property
    def rows(self) -> int:
        """Images in the request."""
        return len(self.expected)

    @property
    def output(self) -> str:
        """Output of V2 in which the labels are found."""
        return "probabilities" if self.thresholds else "logits"

    def with_headers(self, *more: tuple[str, str]) -> "Call":
        """Return the same call with further headers."""
        return replace(self, headers=(*self.headers, *more))


# Answered by the service's own front without touching a model: what is left is the client's work.
DO_NOTHING = Call("nothing", "/v2/health/live", (), b"", (), "any", "GET")


def read_labels(call: Call, headers: dict[str, str], body: bytes) -> tuple[Answered, ...]:
    """Return the labels of each row in a good answer to a call.

    Args:
        call: What was asked.
        headers: Of the answer, names in lower case.
        body: Whole.

    Raises:
        ValueError: The answer has another form.
    """
    try:
        return _READERS[call.answer](call, headers, body)
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
        got = read_labels(call, headers, body)
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
            tuple(tuple(row) if isinstance(row, list) else row for row in d["expected"]),
            d["answer"],
            d["method"],
            tuple(d["thresholds"]),
        )
        for d in json.loads(path.read_text(encoding="utf-8"))
    ]


def triton_images(call: Call) -> NDArray[np.uint8]:
    """Return the images of a gRPC call, uint8 [N, H, W, C]."""
    head, _, raw = call.body.partition(b"\n")
    images_NHWC: NDArray[np.uint8] = np.frombuffer(raw, np.uint8).reshape(json.loads(head))
    return images_NHWC


def labels_of(values_NK: NDArray[Any], thresholds: tuple[float, ...]) -> tuple[Answered, ...]:
    """Return the index of each row's first label, or the indices of all of several.

    Args:
        values_NK: Logits, or probabilities of a multi-label model.
        thresholds: Of a multi-label model: least probability of each label.
    """
    if not thresholds:
        return tuple(values_NK.argmax(axis=1).tolist())
    given_NK = values_NK.astype(np.float32) >= np.array(thresholds, np.float32)
    return tuple(tuple(np.flatnonzero(row).tolist()) for row in given_NK)


def _predict(call: Call, _headers: dict[str, str], body: bytes) -> tuple[Answered, ...]:
    results = orjson.loads(body)["results"]
    if call.thresholds:
        return tuple(tuple(sorted(result["labels"])) for result in results)
    return tuple(result["predictions"][0]["index"] for result in results)


def _v2_json(call: Call, _headers: dict[str, str], body: bytes) -> tuple[Answered, ...]:
    (output,) = orjson.loads(body)["outputs"]
    return _of_rows(call, np.asarray(output["data"]), output["shape"])


def _v2_binary(call: Call, headers: dict[str, str], body: bytes) -> tuple[Answered, ...]:
    size = int(headers[_INFERENCE_HEADER])
    (output,) = orjson.loads(body[:size])["outputs"]
    return _of_rows(call, np.frombuffer(body[size:], np.float32), output["shape"])


def _of_rows(call: Call, values: NDArray[Any], shape: list[int]) -> tuple[Answered, ...]:
    if values.size != math.prod(shape):
        raise ValueError(f"output: expected {shape}, got {values.size} values")
    return labels_of(values.reshape(shape), call.thresholds)


def _index(_call: Call, _headers: dict[str, str], body: bytes) -> tuple[Answered, ...]:
    document = orjson.loads(body)
    if isinstance(document, list):
        (document,) = document
    return (int(document["label"] if isinstance(document, dict) else document),)


def _any(_call: Call, _headers: dict[str, str], _body: bytes) -> tuple[Answered, ...]:
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
