"""The lane on raw sockets, against the real server: connections, pipelines, methods."""

import random
import socket
import time

import pytest

from tests.server import RunningServer, Wire, assert_error, chunked, get, post
from tests.service.lane.lane_client import (
    PNGS,
    PREDICT,
    assert_alive,
    assert_answers,
)

pytestmark = pytest.mark.e2e


# Connections


def test_a_connection_is_kept_for_further_requests(server: RunningServer) -> None:
    with Wire(server) as wire:
        for i in range(5):
            answer = wire.send(post("/predict", PNGS[i])).answer()
            assert_answers(answer, i)
            assert "connection" not in answer.headers


@pytest.mark.parametrize(
    "request_bytes",
    [post("/predict", PNGS[0], "Connection: close"), post("/predict", PNGS[0], version="1.0")],
    ids=["close", "http1.0"],
)
def test_the_last_request_of_a_connection_closes_it(
    server: RunningServer, request_bytes: bytes
) -> None:
    with Wire(server) as wire:
        answer = wire.send(request_bytes).answer()
        assert_answers(answer, 0)
        assert answer.headers["connection"] == "close"
        assert wire.is_closed()


def test_what_follows_the_last_request_is_not_answered(slow: RunningServer) -> None:
    with Wire(slow) as wire:
        wire.send(post("/predict", PNGS[0], "Connection: close"), post("/predict", PNGS[1]))
        assert_answers(wire.answer(), 0)
        assert wire.is_closed()


def test_idle_connection_is_closed_after_keep_alive(strict: RunningServer) -> None:
    with Wire(strict) as silent, Wire(strict) as used, Wire(strict) as foreign:
        assert_answers(used.send(PREDICT).answer(), 0)
        assert foreign.send(get("/livez")).answer().status == 200
        assert used.is_closed()
        assert silent.is_closed()
        assert foreign.is_closed()


def test_connection_in_use_outlives_keep_alive(strict: RunningServer) -> None:
    with Wire(strict) as wire:
        for i in range(12):
            time.sleep(0.25)
            assert_answers(wire.send(post("/predict", PNGS[i])).answer(), i)


# Pipelining


def mixed_requests() -> list[tuple[bytes, int, str]]:
    """50 requests: bytes, expected status, and a word of the expected body."""
    requests = []
    for i in range(50):
        match i % 5:
            case 0 | 1:
                requests.append((post("/predict", PNGS[i]), 200, "tiny"))
            case 2:
                requests.append((get("/livez"), 200, ""))
            case 3:
                requests.append((post("/predict", b"no image %d" % i), 400, "error"))
            case _:
                requests.append((get(f"/nothing/{i}"), 404, f"/nothing/{i}"))
    return requests


def assert_mixed_answers(wire: Wire) -> None:
    for i, (_, status, word) in enumerate(mixed_requests()):
        answer = wire.answer()
        assert answer.status == status, (i, answer)
        if i % 5 in (0, 1):
            assert_answers(answer, i)
        assert word in answer.body.decode()


def test_pipelined_requests_are_answered_in_order(server: RunningServer) -> None:
    with Wire(server) as wire:
        wire.send(*(request for request, _, _ in mixed_requests()))
        assert_mixed_answers(wire)


def test_pipelined_requests_in_any_pieces(server: RunningServer) -> None:
    stream = b"".join(request for request, _, _ in mixed_requests())
    cuts = sorted(random.Random(7).sample(range(1, len(stream)), 300))
    with Wire(server) as wire:
        for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
            wire.send(stream[start:end])
        assert_mixed_answers(wire)


def test_a_long_pipeline_is_no_long_head(server: RunningServer) -> None:
    with Wire(server) as wire:
        wire.send(get("/predict") * 3000, get("/predict")[:-2])
        for _ in range(3000):
            assert wire.answer().status == 405
        wire.send(b"\r\n")
        assert wire.answer().status == 405


def test_pipelined_requests_byte_by_byte(server: RunningServer) -> None:
    stream = post("/predict", PNGS[0]) + get("/livez") + post("/predict", PNGS[1])
    with Wire(server) as wire:
        for i in range(len(stream)):
            wire.send(stream[i : i + 1])
        assert_answers(wire.answer(), 0)
        assert wire.answer().status == 200
        assert_answers(wire.answer(), 1)


def test_waiting_requests_keep_their_place(slow: RunningServer) -> None:
    """Answers that are there at once wait for the one before them that is not."""
    with Wire(slow) as wire:
        wire.send(
            post("/predict", PNGS[0]),
            get("/livez"),
            get("/predict"),
            post("/predict", b"no image"),
            post("/predict", PNGS[1]),
        )
        assert_answers(wire.answer(), 0)
        assert wire.answer().status == 200
        assert wire.answer().status == 405
        assert wire.answer().status == 400
        assert_answers(wire.answer(), 1)


@pytest.mark.parametrize(
    ("refused", "status"),
    [
        (b"garbage\r\n\r\n", 400),
        (b"POST /predict HTTP/1.1\r\nHost: test\r\nContent-Length: 99999999\r\n\r\n", 413),
        (b"POST /classify HTTP/1.1\r\nHost: test\r\nContent-Length: 99999999\r\n\r\n", 413),
        (b"GET /livez HTTP/1.1\r\n" + b"A: b\r\n" * 40_000 + b"\r\n", 431),
    ],
    ids=["garbage", "body-lane", "body-bentoml", "headers"],
)
def test_a_refusal_waits_for_the_answers_before_it(
    slow: RunningServer, refused: bytes, status: int
) -> None:
    with Wire(slow) as wire:
        wire.send(post("/predict", PNGS[0]), get("/livez"), refused)
        assert_answers(wire.answer(), 0)
        assert wire.answer().status == 200
        assert_error(wire.answer(), status, "expected|Invalid")
        wire.socket.shutdown(socket.SHUT_WR)
        assert wire.is_closed()


def test_upgrade_behind_a_waiting_request_does_not_answer_it_twice(slow: RunningServer) -> None:
    """The parser ends an upgrade's message without a cycle of its own."""
    with Wire(slow) as wire:
        wire.send(
            post("/predict", PNGS[0]),
            get(
                "/socket",
                "Connection: Upgrade",
                "Upgrade: websocket",
                "Sec-WebSocket-Version: 13",
                "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
            ),
        )
        assert_answers(wire.answer(), 0)
    assert_alive(slow)


# Methods and upgrades


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE", "OPTIONS", "PATCH"])
@pytest.mark.parametrize("path", ["/predict", "/models/tiny/predict"])
def test_other_methods_are_refused(server: RunningServer, method: str, path: str) -> None:
    with Wire(server) as wire:
        answer = wire.send(get(path, method=method)).answer(method)
        assert answer.headers["allow"] == "POST"
        if method == "HEAD":
            assert answer.status == 405
            assert int(answer.headers["content-length"]) > 0
        else:
            assert_error(answer, 405, f"{method}: expected POST")
        assert_answers(wire.send(PREDICT).answer(), 0)


@pytest.mark.parametrize("chunks", [0, 1, 10])
@pytest.mark.parametrize("upgrade", ["h2c", "foo/2"])
def test_upgrade_to_another_protocol_is_passed_over(
    server: RunningServer, upgrade: str, chunks: int
) -> None:
    """`curl --http2` asks for h2c on its first request; the answer is HTTP/1.1."""
    headers = (
        "Connection: Upgrade, HTTP2-Settings",
        f"Upgrade: {upgrade}",
        "HTTP2-Settings: AAMAAABkAAQAAP__",
    )
    request = post("/predict", PNGS[4], *headers)
    if chunks:
        size = -(-len(PNGS[4]) // chunks)
        pieces = [PNGS[4][i : i + size] for i in range(0, len(PNGS[4]), size)]
        request = chunked("/predict", *pieces, headers=headers)
    with Wire(server) as wire:
        assert_answers(wire.send(request).answer(), 4)
        assert_answers(wire.send(post("/predict", PNGS[5])).answer(), 5)
    with Wire(server) as wire:
        for i in range(len(request)):
            wire.send(request[i : i + 1])
        assert_answers(wire.answer(), 4)
        assert_answers(wire.send(post("/predict", PNGS[5])).answer(), 5)


def test_requests_behind_a_passed_over_upgrade_are_not_lost(server: RunningServer) -> None:
    headers = ("Connection: Upgrade", "Upgrade: h2c")
    with Wire(server) as wire:
        wire.send(
            post("/predict", PNGS[4], *headers),
            post("/predict", PNGS[5]),
            get("/livez", *headers),
            chunked("/predict", PNGS[7][:9], PNGS[7][9:], headers=headers),
            post("/predict", PNGS[6]),
        )
        assert_answers(wire.answer(), 4)
        assert_answers(wire.answer(), 5)
        assert wire.answer().status == 200
        assert_answers(wire.answer(), 7)
        assert_answers(wire.answer(), 6)


def test_websocket_request_for_a_lane_route_is_refused(server: RunningServer) -> None:
    with Wire(server) as wire:
        wire.send(
            get(
                "/predict",
                "Connection: Upgrade",
                "Upgrade: websocket",
                "Sec-WebSocket-Version: 13",
                "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
            )
        )
        assert wire.answer("HEAD").status == 405
    assert_alive(server)


def test_target_in_absolute_form(server: RunningServer) -> None:
    """RFC 9112, 3.2.2: a server must accept the form that clients send to proxies."""
    with Wire(server) as wire:
        assert_answers(wire.send(post("http://test/predict", PNGS[1])).answer(), 1)
