"""JSON of an allowed size that costs much: refused before objects are made of it."""

import base64
import tracemalloc
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import orjson
import pytest

from models.image import encode_png
from service.inflight import Inflight
from service.protocols.compression import compress
from tests.loop_watch import LONGEST_S, LoopWatch, collecting_as_the_service, shortest_of
from tests.server import assert_error
from tests.service.protocols.desk import Desk
from tests.service.protocols.v2.test_fuzz import IMAGES, INFER, SHAPE, valid, written
from tests.tiny import tiny_logits

MIB = 1 << 20
MAX_JSON_BYTES = 6 * MIB
MAX_VALUES = 420_000


@pytest.fixture
def budget(desk: Desk) -> Iterator[Inflight]:
    """A budget of a MiB of which half is taken."""
    desk.engine.inflight = inflight = Inflight(MIB)
    inflight.take(MIB // 2)
    yield inflight
    desk.engine.inflight = None


def pixels(data: bytes) -> bytes:
    """A request whose one tensor has this text as its data."""
    head = b'{"inputs":[{"name":"images","datatype":"UINT8","shape":[2,8,8,1],"data":['
    return head + data + b"]}]}"


def images(data: bytes) -> bytes:
    return pixels(data).replace(b"UINT8", b"BYTES").replace(b"[2,8,8,1]", b"[1]")


def outputs(count: int) -> bytes:
    return b'{"inputs":[],"outputs":[' + b'{"name":"logits"},' * count + b"1]}"


# What was seen to hold a loop for seconds, and the largest of each kind that may still be parsed.
BODIES: dict[str, tuple[Callable[[], bytes], int, str]] = {
    "11 M objects": (lambda: pixels(b"{}," * 11_000_000 + b"1"), 413, "FOVEAL_MAX_JSON_BYTES"),
    "objects within the size": (
        lambda: pixels(b"{}," * 2_000_000 + b"1"),
        413,
        "texts and objects",
    ),
    "as many objects as may be": (
        lambda: pixels(b"{}," * 16_000 + b"1"),
        400,
        "expected 128 elements",
    ),
    "2.8 M outputs": (lambda: outputs(2_800_000), 413, "FOVEAL_MAX_JSON_BYTES"),
    "outputs within the size": (lambda: outputs(300_000), 413, "texts and objects"),
    "as many outputs as may be": (lambda: outputs(5000), 400, 'at most 64 "outputs"'),
    "arrays": (
        lambda: pixels(b"[]," * 2_000_000 + b"1"),
        413,
        "at most 420000 values.*FOVEAL_MAX_VALUES",
    ),
    "as many arrays as may be": (lambda: pixels(b"[]," * 83_900 + b"[]"), 400, "got other nesting"),
    "as many arrays of a number as may be": (
        lambda: pixels(b"[7]," * 83_900 + b"[7]").replace(b"[2,8,8,1]", b"[83901,1]"),
        400,
        "expected UINT8",
    ),
    "a hundred nested images": (
        lambda: orjson.dumps(
            {
                "inputs": [
                    {
                        "name": "images",
                        "datatype": "UINT8",
                        "shape": [100, 28, 28, 1],
                        "data": np.full((100, 28, 28, 1), 200).tolist(),
                    }
                ]
            }
        ),
        400,
        "expected UINT8",
    ),
    "more arrays of a number": (
        lambda: pixels(b"[7]," * 84_000 + b"[7]"),
        413,
        "FOVEAL_MAX_VALUES",
    ),
    "as many numbers as may be": (lambda: pixels(b"1," * 419_000 + b"1"), 400, "got 419001"),
    "as many floats as may be": (lambda: pixels(b"0.1234567," * 419_000 + b"1"), 400, "got 419001"),
    "as many texts as may be": (
        lambda: pixels(b'"\xf0\x9f\x98\x80",' * 16_000 + b"1"),
        400,
        "got 16001",
    ),
    "texts within the size": (
        lambda: pixels(b'"\\u0041",' * 419_000 + b"1"),
        413,
        "texts and objects",
    ),
    "one text": (lambda: images(b'"' + b"a" * (6 * MIB - 99) + b'"'), 400, "base64|image"),
    "one text of base64": (
        lambda: images(b'"' + b"QUJD" * (3 * MIB // 2 - 30) + b'"'),
        400,
        "image",
    ),
    "one text of wide characters": (
        lambda: images(b'"' + b"a" * (6 * MIB - 999) + b'\xf0\x9f\x98\x80"'),
        400,
        "base64",
    ),
    "escapes": (lambda: images(b'"' + b"\\u0041" * (MIB - 99) + b'"'), 400, "base64|image"),
    "digits": (lambda: pixels(b"1" * (6 * MIB - 999)), 400, "expected"),
    "depth": (lambda: pixels(b"[" * (6 * MIB - 99)), 413, "FOVEAL_MAX_VALUES"),
    "depth within the values": (lambda: pixels(b"[" * 100_000), 400, "expected JSON"),
    "shape": (
        lambda: pixels(b"1").replace(b"[2,8,8,1]", b"[" + b"1," * 390_000 + b"1]"),
        400,
        "list of whole numbers",
    ),
    "parameters": (
        lambda: (
            b'{"parameters":{' + b",".join(b'"%d":1' % i for i in range(16_000)) + b'},"inputs":[]}'
        ),
        400,
        "at most 64 parameters",
    ),
    "long list of images": (lambda: images(b'"QUJD",' * 16_000 + b'""'), 400, "got 16001"),
}


@pytest.mark.parametrize("name", BODIES)
def test_a_body_is_refused_in_time(desk: Desk, name: str) -> None:
    make, status, match = BODIES[name]
    body = make()

    def measure() -> float:
        with LoopWatch().watching() as watch, collecting_as_the_service():
            answer = desk.ask(INFER, body)
        assert_error(answer, status, match)
        return watch.longest_s

    assert shortest_of(5, measure) <= LONGEST_S


@pytest.mark.parametrize("name", [name for name in BODIES if "may be" not in name])
def test_a_body_is_refused_in_proportion(desk: Desk, name: str) -> None:
    """What is refused before it is parsed costs a copy; the parser reserves 12 bytes a byte."""
    make, status, match = BODIES[name]
    body = make()
    tracemalloc.start()
    try:
        answer = desk.ask(INFER, body)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert_error(answer, status, match)
    assert peak < (2 if status == 413 else 17) * MAX_JSON_BYTES


def test_the_largest_json_is_answered(desk: Desk) -> None:
    """Of one text; a body of a byte more is refused."""
    document, _ = valid("base64")
    body, _ = written(document, b"")
    padded = body[:-1] + b" " * (MAX_JSON_BYTES - len(body)) + b"}"
    answer = desk.ask(INFER, padded)
    assert answer.json()["outputs"][0]["data"] == tiny_logits(IMAGES).ravel().tolist()
    assert_error(desk.ask(INFER, padded + b" "), 413, "at most 6291456 bytes of JSON")


def test_binary_tensors_are_not_counted(desk: Desk) -> None:
    """The limit is of the text: commas behind it are pixels."""
    body, headers = written(*valid("binary"))
    head_bytes = int(headers[0][1])
    pixels_of_commas = b"," * (len(body) - head_bytes)
    assert desk.ask(INFER, body[:head_bytes] + pixels_of_commas, headers).status == 200


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
def test_what_a_body_expands_to_is_counted_before_it_is_there(
    desk: Desk, budget: Inflight, coding: str
) -> None:
    """Another request holds most of the budget: a small bomb is refused, and an honest body not."""
    headers = [("Content-Encoding", coding)]
    bomb = compress(bytes((1 << 20) - 1), coding.encode())
    tracemalloc.start()
    try:
        answer = desk.ask(INFER, bomb, headers)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert_error(answer, 429, "memory: .* of 1048576 in use.*FOVEAL_MAX_INFLIGHT_MIB")
    assert answer.headers["retry-after"] == "1"
    # Measuring deflate needs a piece of it.
    assert peak < (1 << 18 if coding == "gzip" else 3 << 20)
    body, head = written(*valid("binary"))
    assert desk.ask(INFER, compress(body, coding.encode()), head + headers).status == 200
    assert budget.used == MIB // 2


def of_pictures(form: str) -> tuple[dict[str, Any], bytes]:
    """A document of one picture of 40 KB, and the binary data behind it."""
    noise = np.random.default_rng(7).integers(0, 256, (200, 200, 1), np.uint8)
    picture = encode_png(noise)
    document, _ = valid(form)
    tensor = document["inputs"][0] | {"shape": [1]}
    if form == "base64":
        tensor["data"] = [base64.b64encode(picture).decode()]
        return document | {"inputs": [tensor]}, b""
    behind = len(picture).to_bytes(4, "little") + picture
    tensor["parameters"] = {"binary_data_size": len(behind)}
    return document | {"inputs": [tensor]}, behind


@pytest.mark.parametrize("form", ["base64", "images"])
def test_what_is_read_from_a_body_is_counted_and_given_back(
    desk: Desk, budget: Inflight, form: str
) -> None:
    budget.take(MIB // 2)
    assert_error(desk.ask(INFER, *written(*of_pictures(form))), 429, "FOVEAL_MAX_INFLIGHT_MIB")
    budget.give(MIB // 2)
    assert desk.ask(INFER, *written(*of_pictures(form))).status == 200
    assert budget.used == MIB // 2
    document, behind = of_pictures(form)
    document["inputs"][0]["shape"] = [3]
    assert desk.ask(INFER, *written(document, behind)).status == 400
    assert budget.used == MIB // 2


@pytest.mark.parametrize("form", ["flat", "base64", "images"])
def test_small_requests_are_answered_while_a_picture_takes_all(
    desk: Desk, budget: Inflight, form: str
) -> None:
    budget.used = 2 * MIB
    assert desk.ask(INFER, *written(*valid(form))).status == 200
    assert budget.used == 2 * MIB
    document, behind = valid(form)
    document["inputs"][0]["shape"] = [3] if form != "flat" else [3, *SHAPE[1:]]
    assert desk.ask(INFER, *written(document, behind)).status == 400
    assert budget.used == 2 * MIB


def test_a_gzip_body_that_states_another_size_is_refused(desk: Desk) -> None:
    body, head = written(*valid("binary"))
    sent = compress(body, b"gzip")
    headers = [*head, ("Content-Encoding", "gzip")]
    for size in (0, len(body) - 1, len(body) + 1, 1 << 19):
        lying = sent[:-4] + size.to_bytes(4, "little")
        assert_error(desk.ask(INFER, lying, headers), 400, "expected .*gzip data")
    beyond = sent[:-4] + (1 << 31).to_bytes(4, "little")
    assert_error(desk.ask(INFER, beyond, headers), 413, "once expanded")
