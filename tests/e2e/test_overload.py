"""A service that is asked for more than it can do: refusals, waits, brownout."""

import re
import threading
import time
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import orjson
import pytest
from tritonclient.utils import InferenceServerException  # type: ignore[import-untyped]

from models.image import encode_png
from tests.e2e.triton import triton
from tests.guarded import until
from tests.overloaded import flood, rows_of, slow_model
from tests.server import RunningServer, Wire, assert_error, free_port, post, running_server
from tests.tiny import (
    assert_own_result,
    publish_tiny,
    random_images,
    tiny_logits,
    tiny_model,
)

pytestmark = pytest.mark.e2e

IMAGES = random_images(4, seed=22)
PNG = encode_png(IMAGES[0])
MAX_WAIT_MS = 100
LOWER_GAIN = 3.0
REFUSED = (
    b'{"error":"queue: expected a wait of at most 100 ms, got more; '
    b'retry later or raise FOVEAL_MAX_WAIT_MS"}'
)


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """Rows of about a millisecond and runs of 32; ``both`` has an int8 file that is quick."""
    folder = tmp_path_factory.mktemp("loaded")
    publish_tiny(folder / "models", "slow", slow_model())
    publish_tiny(folder / "models", "both", slow_model(), lower={"int8": LOWER_GAIN})
    publish_tiny(folder / "models", "quick", tiny_model())
    with running_server(
        folder / "models",
        folder,
        grpc_port=free_port(),
        threads=1,
        max_batch_size=32,
        max_wait_ms=MAX_WAIT_MS,
        max_request_rows=2000,
        brownout="int8",
    ) as server:
        yield server


def test_nobody_waits_longer_than_the_bound_and_one_run(loaded: RunningServer) -> None:
    """2,048 rows at once are 64 runs; who is let in has its answer a few runs later."""
    answers = flood(loaded, rows_of("slow", 8), 256, 0.5)
    good = [answer for answer in answers if answer.status == 200]
    refused = [answer for answer in answers if answer.status == 429]
    assert good and refused and len(good) + len(refused) == len(answers)
    run_ms = max(answer.timing("run") for answer in good)
    # Three times: runs beside other work on this machine are not all of the same length.
    assert max(answer.timing("total") for answer in good) < 3 * (MAX_WAIT_MS + run_ms)
    for answer in refused:
        assert re.search(r"\r\nretry-after: [1-9]\d?\r\n", answer.head)
        assert answer.body == REFUSED
    assert loaded.metric("foveal_refusals_total", model="slow", reason="wait") == len(refused)


def test_sixty_four_connections_of_sixty_four_rows_are_ordinary(server: RunningServer) -> None:
    answers = flood(server, rows_of("tiny", 64), 64, 0)
    assert [answer.status for answer in answers] == [200] * 64


class Busy:
    """Keeps a model busy for two seconds: a request of many runs that is out.

    Long enough for what is asked meanwhile, on a machine that does other things, too.
    """

    def __init__(self, server: RunningServer, name: str = "slow") -> None:
        self._wire = Wire(server, 60).send(rows_of(name, 2000))
        try:
            until(lambda: server.metric("foveal_queue_rows", model=name) > 200, "not busy", 30)
        except BaseException:
            self._wire.close()
            raise

    def __enter__(self) -> Wire:
        return self._wire

    def __exit__(self, *_: object) -> None:
        self._wire.answer()
        self._wire.close()


def test_a_refusal_is_few_bytes_and_keeps_the_connection(loaded: RunningServer) -> None:
    """Whatever the body is: it is not looked at."""
    with Wire(loaded) as wire:
        with Busy(loaded):
            wire.send(post("/models/slow/predict", b"no image"))
            refusal = b""
            while not refusal.endswith(b"}"):
                refusal += wire.socket.recv(4096)
            form = post(
                "/models/slow/predict", b"no form", "Content-Type: multipart/form-data; boundary=x"
            )
            for request in (form, rows_of("slow", 1), post("/v2/models/slow/infer", b"no JSON")):
                answer = wire.send(request).answer()
                assert (answer.status, answer.body) == (429, REFUSED)
        varying = re.sub(rb"date: [^\r]+", b"date: D", refusal)
        varying = re.sub(rb"x-request-id: [0-9a-f]+-[0-9a-f]+", b"x-request-id: I", varying)
        assert re.sub(rb"retry-after: [1-9]", b"retry-after: N", varying) == (
            b"HTTP/1.1 429 Too Many Requests\r\n"
            b"date: D\r\n"
            b"x-request-id: I\r\n"
            b"content-type: application/json\r\n"
            b"content-length: 103\r\n"
            b"retry-after: N\r\n"
            b"\r\n" + REFUSED
        )
        assert len(refusal) < 300
        answer = wire.send(post("/models/slow/predict", PNG)).answer()
        assert_own_result(answer.json()["results"][0], IMAGES[0])


def test_a_deadline_that_cannot_be_met_is_refused_at_once(loaded: RunningServer) -> None:
    refused = loaded.metric("foveal_refusals_total", model="slow", reason="deadline")
    with Wire(loaded) as wire, Wire(loaded) as hurried:
        for _ in range(5):  # who of the two is read first is not sure
            wire.send(rows_of("slow", 48))  # a run that is out, and half of one that waits
            hurried.send(post("/models/slow/predict", PNG, "X-Request-Timeout-Ms: 2"))
            answer = hurried.answer()
            assert wire.answer().status == 200
            if answer.status == 429:
                break
    assert_error(answer, 429, "^queue: expected to be done before the deadline")
    assert int(answer.headers["retry-after"]) == 1
    got = loaded.metric("foveal_refusals_total", model="slow", reason="deadline")
    assert got == refused + 1


def test_each_model_has_a_queue_and_a_rate_of_its_own(loaded: RunningServer) -> None:
    with Busy(loaded):
        answer = httpx.post(f"{loaded.url}/models/quick/predict", content=PNG)
        assert answer.status_code == 200
        assert httpx.post(f"{loaded.url}/models/slow/predict", content=PNG).status_code == 429


def assert_rows(logits_NK: Any, mark: str) -> None:
    """Each row is of one of the files; an answer is marked if one of its rows is of the int8 one.

    The rows of one request may be in two runs.
    """
    usual_NK, lower_NK = tiny_logits(IMAGES), tiny_logits(IMAGES, LOWER_GAIN)
    is_lower_N = (logits_NK == lower_NK).all(axis=1)
    assert ((logits_NK == usual_NK).all(axis=1) | is_lower_N).all()
    assert is_lower_N.any() == (mark == "int8")


def test_brownout_answers_marked_and_ends(loaded: RunningServer) -> None:
    """The int8 file has a gain of its own: who answered is seen in the numbers."""
    marks: list[str] = []
    is_over = threading.Event()

    def ask_grpc() -> None:
        with triton(loaded, "grpc") as client:
            while not is_over.is_set():
                try:
                    result = client.infer("both", [client.input(IMAGES)])
                except InferenceServerException as error:
                    assert error.status() == "StatusCode.RESOURCE_EXHAUSTED", error
                    continue
                mark = result.get_response().parameters["precision"].string_param
                assert_rows(result.as_numpy("logits"), mark)
                marks.append(mark)

    asking = threading.Thread(target=ask_grpc)
    asking.start()
    body = orjson.dumps(
        {
            "inputs": [
                {
                    "name": "images",
                    "datatype": "UINT8",
                    "shape": list(IMAGES.shape),
                    "data": IMAGES.ravel().tolist(),
                }
            ]
        }
    )
    answers = flood(loaded, post("/v2/models/both/infer", body), 128, 1.5)
    images = flood(loaded, post("/models/both/predict", PNG), 256, 1.5)
    is_over.set()
    asking.join()
    ended = time.monotonic()
    precisions = []
    for answer in answers:
        document = orjson.loads(answer.body)
        if answer.status == 200:
            precisions.append(document.get("parameters", {}).get("precision", ""))
            logits = next(x for x in document["outputs"] if x["name"] == "logits")["data"]
            assert_rows(np.array(logits).reshape(len(IMAGES), -1), precisions[-1])
    assert "int8" in precisions
    for answer in images:
        document = orjson.loads(answer.body)
        if answer.status == 200:
            assert document.get("precision", "int8") == "int8"
            assert_own_result(
                document["results"][0], IMAGES[0], LOWER_GAIN if "precision" in document else 1.0
            )
    assert marks[0] == "" and "int8" in marks
    while loaded.metric("foveal_brownout", model="both"):
        assert time.monotonic() < ended + 2
    document = httpx.post(f"{loaded.url}/models/both/predict", content=PNG).json()
    assert list(document) == ["model", "version", "results"]
    assert_own_result(document["results"][0], IMAGES[0])
    assert loaded.metric("foveal_brownout_rows_total", model="both") > 0
    assert "foveal_brownout{" in httpx.get(f"{loaded.url}/metrics").text
    assert loaded.metric("foveal_brownout_rows_total", model="slow") == 0
    assert "slow:1: expected an int8 file that passed its gate, got fp32" in loaded.log
