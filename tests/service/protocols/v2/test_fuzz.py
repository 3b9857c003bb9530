"""Malformed bodies through the real handlers: 4xx in the one error shape, whatever is sent."""

import base64
import copy
import gzip
import re
import zlib
from collections import Counter
from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from models.image import encode_png
from tests.server import Answer, assert_error
from tests.service.protocols.desk import MAX_BODY_BYTES, MAX_ROWS, Desk
from tests.tiny import SIDE, random_images, tiny_logits

INFER = "/v2/models/tiny/infer"
HEAD = "Inference-Header-Content-Length"
IMAGES = random_images(2, seed=6)
PNGS = [encode_png(image) for image in IMAGES]
SHAPE = [2, SIDE, SIDE, 1]

SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**64 - 1),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=8),
    st.sampled_from(["images", "logits", "UINT8", "BYTES", "FP32", "FP16", "BF16"]),
)
JSON = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=6), inner, max_size=4)
    ),
    max_leaves=8,
)
SIZES = st.one_of(st.integers(-2, 20), st.sampled_from([2**31, 2**63 - 1, 2**64 - 1, -(2**63)]))
PATHS: list[tuple[Any, ...]] = [
    ("id",),
    ("parameters",),
    ("inputs",),
    ("outputs",),
    ("inputs", 0),
    ("outputs", 0),
    *(("inputs", 0, key) for key in ("name", "datatype", "shape", "data", "parameters")),
    ("inputs", 0, "parameters", "binary_data_size"),
    ("inputs", 0, "shape", 0),
    ("inputs", 0, "shape", 3),
    ("outputs", 0, "name"),
    ("outputs", 0, "parameters"),
    ("outputs", 0, "parameters", "classification"),
    ("outputs", 0, "parameters", "binary_data"),
    ("parameters", "priority"),
    ("parameters", "binary_data_output"),
]


def valid(form: str) -> tuple[dict[str, Any], bytes]:
    """A document, and the binary data behind it."""
    tensor: dict[str, Any] = {"name": "images", "datatype": "UINT8", "shape": list(SHAPE)}
    behind = b""
    if form == "flat":
        tensor["data"] = IMAGES.ravel().tolist()
    elif form == "nested":
        tensor["data"] = IMAGES.tolist()
    elif form == "base64":
        texts = [base64.b64encode(png).decode() for png in PNGS]
        tensor |= {"datatype": "BYTES", "shape": [2], "data": texts}
    elif form == "binary":
        behind = IMAGES.tobytes()
    else:
        behind = b"".join(len(png).to_bytes(4, "little") + png for png in PNGS)
        tensor |= {"datatype": "BYTES", "shape": [2, 1]}
    if behind:
        tensor["parameters"] = {"binary_data_size": len(behind)}
    outputs = [{"name": "logits", "parameters": {"binary_data": False}}]
    return {"id": "7", "parameters": {"x": 1}, "inputs": [tensor], "outputs": outputs}, behind


FORMS = ("flat", "nested", "base64", "binary", "images")


def written(document: Any, behind: bytes) -> tuple[bytes, list[tuple[str, str]]]:
    text = orjson.dumps(document)
    return text + behind, [(HEAD, str(len(text)))] if behind else []


@pytest.mark.parametrize("form", FORMS)
def test_forms_that_are_mutated_below_are_good(desk: Desk, form: str) -> None:
    answer = desk.ask(INFER, *written(*valid(form)))
    assert answer.status == 200, answer.body
    (output,) = answer.json()["outputs"]
    assert output["data"] == tiny_logits(IMAGES).ravel().tolist()


def replace(document: Any, path: tuple[Any, ...], value: Any) -> None:
    """Put a value at the end of a path, if it still leads somewhere."""
    for step, key in enumerate(path):
        is_key = isinstance(key, str) and isinstance(document, dict)
        is_index = isinstance(key, int) and isinstance(document, list) and key < len(document)
        if not (is_key or is_index):
            return
        if step == len(path) - 1:
            document[key] = value
        else:
            document = document.setdefault(key, {}) if is_key else document[key]


@st.composite
def bodies(draw: st.DrawFn) -> tuple[bytes, list[tuple[str, str]]]:
    """A valid request in which something, or more than one thing, is not as it was."""
    document, behind = copy.deepcopy(valid(draw(st.sampled_from(FORMS))))
    kind = draw(st.integers(0, 9))
    for _ in range(draw(st.integers(1, 3)) if kind < 7 else 0):
        replace(document, draw(st.sampled_from(PATHS)), draw(st.one_of(JSON, SIZES)))
    body, headers = written(document, behind)
    if kind == 7:
        cut = draw(st.integers(0, len(body) - 1))
        body = body[:cut] + draw(st.binary(max_size=8))
    elif kind == 8:
        size = draw(st.one_of(SIZES.map(str), st.sampled_from(["", "x", "1e3", "٣", "9" * 40])))
        headers = [(HEAD, size.encode("utf-8").decode("latin-1"))]
    elif kind == 9:
        coding = draw(st.sampled_from(["gzip", "deflate", "br", "identity, gzip"]))
        sent = gzip.compress(body, 1) if coding == "gzip" else zlib.compress(body, 1)
        cut = draw(st.integers(0, len(sent)))
        body = sent[:cut] + draw(st.binary(max_size=4))
        headers.append(("Content-Encoding", coding))
    return body, headers


def check(answer: Answer) -> None:
    """200 with the rows' own answer, as a mutation may change nothing that matters; or 4xx."""
    if answer.status != 200:
        assert 400 <= answer.status < 500, answer
        assert_error(answer, answer.status, ".")
        assert len(answer.body) < 1000, answer.body


@pytest.mark.slow
def test_20000_malformed_bodies(desk: Desk) -> None:
    statuses: Counter[int] = Counter()

    @settings(
        max_examples=20_000, deadline=None, database=None, suppress_health_check=list(HealthCheck)
    )
    @given(bodies())
    def ask(sent: tuple[bytes, list[tuple[str, str]]]) -> None:
        answer = desk.ask(INFER, *sent)
        check(answer)
        statuses[answer.status] += 1

    ask()
    assert statuses.total() >= 20_000
    assert statuses[200] < statuses.total() / 4, statuses  # else it mutates nothing that matters
    test_forms_that_are_mutated_below_are_good(desk, "binary")


@settings(max_examples=500, deadline=None)
@given(st.binary(max_size=300), st.sampled_from([None, "0", "1", "5", "300"]))
def test_any_bytes(desk: Desk, body: bytes, head: str | None) -> None:
    check(desk.ask(INFER, body, [] if head is None else [(HEAD, head)]))


@pytest.mark.parametrize("depth", [2, 200, 1024, 1025, 100_000])
@pytest.mark.parametrize("opening", [b"[", b'{"inputs":', b'{"inputs":[{"data":['])
def test_deep_json(desk: Desk, depth: int, opening: bytes) -> None:
    is_counted = b"{" in opening and depth > 16384
    status, match = (413, "texts and objects") if is_counted else (400, "expected")
    assert_error(desk.ask(INFER, opening * depth), status, match)
    closing = bytes(reversed(opening.translate(bytes.maketrans(b"[{", b"]}"), b'":inputsdat')))
    assert_error(desk.ask(INFER, opening * depth + b"1" + closing * depth), status, match)


@pytest.mark.parametrize(
    "text", [b"NaN", b"Infinity", b"-Infinity", b"1e999", b"nan", b"01", b"1."]
)
def test_numbers_that_json_has_not(desk: Desk, text: bytes) -> None:
    body = orjson.dumps(valid("flat")[0])
    body = re.sub(rb'"data":\[\d+', b'"data":[' + text, body)
    assert_error(desk.ask(INFER, body), 400, "expected JSON")


@pytest.mark.parametrize(
    "shape", [[2**63 - 1, SIDE, SIDE, 1], [10**9, SIDE, SIDE, 1], [MAX_ROWS + 1, SIDE, SIDE, 1]]
)
def test_shapes_that_lie_about_their_size(desk: Desk, shape: list[int]) -> None:
    document, behind = valid("binary")
    document["inputs"][0]["shape"] = shape
    assert_error(desk.ask(INFER, *written(document, behind)), 413, f"at most {MAX_ROWS} rows")
    for size in (2**63, 10**12):
        document, behind = valid("binary")
        document["inputs"][0]["parameters"]["binary_data_size"] = size
        assert_error(desk.ask(INFER, *written(document, behind)), 400, f"expected {size} bytes")


def test_bomb(desk: Desk) -> None:
    bomb = gzip.compress(bytes(MAX_BODY_BYTES + 1))
    answer = desk.ask(INFER, bomb, [("Content-Encoding", "gzip")])
    assert_error(answer, 413, "once expanded")
