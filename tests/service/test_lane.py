"""The lane on raw sockets, against the real server: what no HTTP library would send."""

import random
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from models.image import encode_png
from tests.server import (
    Answer,
    RunningServer,
    Wire,
    assert_error,
    chunked,
    get,
    post,
    running_server,
)
from tests.tiny import assert_own_result, random_images

pytestmark = pytest.mark.e2e

IMAGES = random_images(64, seed=1)
PNGS = [encode_png(image) for image in IMAGES]
PREDICT = post("/predict", PNGS[0])
# Of the two servers below; small, so that tests are short.
MAX_BODY_BYTES = 50_000
QUEUE_DELAY_MS = 300


@pytest.fixture(scope="module")
def strict(
    tiny_repository: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningServer]:
    """A server with a short patience and a small limit on bodies."""
    with running_server(
        tiny_repository,
        tmp_path_factory.mktemp("strict"),
        receive_timeout_s=1,
        keep_alive_s=1,
        max_body_bytes=MAX_BODY_BYTES,
    ) as running:
        yield running


@pytest.fixture(scope="module")
def slow(
    tiny_repository: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningServer]:
    """A server that holds every row back for a while, so that requests can be met waiting."""
    with running_server(
        tiny_repository,
        tmp_path_factory.mktemp("slow"),
        max_queue_delay_ms=QUEUE_DELAY_MS,
        max_body_bytes=MAX_BODY_BYTES,
    ) as running:
        yield running


def assert_answers(answer: Answer, i: int) -> None:
    assert answer.status == 200, answer.body
    (result,) = answer.json()["results"]
    assert_own_result(result, IMAGES[i])


def assert_alive(server: RunningServer) -> None:
    with Wire(server) as wire:
        assert_answers(wire.send(PREDICT).answer(), 0)


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
        (b"POST /predict HTTP/1.1\r\nContent-Length: 99999999\r\n\r\n", 413),
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
                "/socket", "Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13",
                "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
            ),
        )  # fmt: skip
        assert_answers(wire.answer(), 0)
    assert_alive(slow)


# Bodies


@pytest.mark.parametrize("size", [1, 7, 10_000])
def test_chunked_body(server: RunningServer, size: int) -> None:
    pieces = [PNGS[3][i : i + size] for i in range(0, len(PNGS[3]), size)]
    with Wire(server) as wire:
        assert_answers(wire.send(chunked("/predict", *pieces)).answer(), 3)
        assert_answers(wire.send(PREDICT).answer(), 0)


def test_chunks_that_come_one_at_a_time_with_trailers(server: RunningServer) -> None:
    with Wire(server) as wire:
        wire.send(chunked("/predict", end=b""))
        for i in range(0, len(PNGS[3]), 10):
            piece = PNGS[3][i : i + 10]
            wire.send(b"%X;note=1\r\n" % len(piece), piece, b"\r\n")
        # A trailer is no header: this deadline is long past and must not count.
        wire.send(b"0\r\nX-Request-Timeout-Ms: 0\r\n\r\n")
        assert_answers(wire.answer(), 3)
        assert_answers(wire.send(PREDICT).answer(), 0)


@pytest.mark.parametrize("framing", ["Content-Length: 0", "Transfer-Encoding: chunked"])
def test_empty_body(server: RunningServer, framing: str) -> None:
    end = b"0\r\n\r\n" if "chunked" in framing else b""
    with Wire(server) as wire:
        wire.send(f"POST /predict HTTP/1.1\r\nHost: test\r\n{framing}\r\n\r\n".encode(), end)
        assert_error(wire.answer(), 400, "empty body")
        assert_answers(wire.send(PREDICT).answer(), 0)


def expecting(body: bytes, path: str = "/predict") -> tuple[bytes, bytes]:
    request = post(path, body, "Expect: 100-continue")
    return request[: len(request) - len(body)], body


def test_expect_continue(server: RunningServer) -> None:
    head, body = expecting(PNGS[2])
    with Wire(server) as wire:
        assert wire.send(head).answer().status == 100
        assert_answers(wire.send(body).answer(), 2)


def test_expect_continue_behind_a_waiting_request(slow: RunningServer) -> None:
    head, body = expecting(PNGS[2])
    with Wire(slow) as wire:
        wire.send(PREDICT, head)
        assert_answers(wire.answer(), 0)
        assert wire.answer().status == 100
        assert_answers(wire.send(body).answer(), 2)


def test_expect_continue_when_the_body_came_along(server: RunningServer) -> None:
    with Wire(server) as wire:
        wire.send(*expecting(PNGS[2]))
        answer = wire.answer()
        if answer.status == 100:
            answer = wire.answer()
        assert_answers(answer, 2)


def test_expect_continue_is_refused_for_a_body_over_the_limit(strict: RunningServer) -> None:
    head, _ = expecting(b"x" * (MAX_BODY_BYTES + 1))
    with Wire(strict) as wire:
        assert_error(wire.send(head).answer(), 413, "FOVEAL_MAX_BODY_BYTES")
        wire.socket.shutdown(socket.SHUT_WR)
        assert wire.is_closed()


# Limits


@pytest.mark.parametrize("path", ["/predict", "/models/tiny/predict", "/classify", "/nothing"])
@pytest.mark.parametrize("is_chunked", [False, True], ids=["declared", "chunked"])
def test_body_over_the_limit(strict: RunningServer, path: str, is_chunked: bool) -> None:
    """The whole body is sent although nobody wants it; the answer must be readable all the same."""
    body = b"x" * (8 << 20)
    pieces = [body[i : i + 65536] for i in range(0, len(body), 65536)]
    request = chunked(path, *pieces) if is_chunked else post(path, body)
    with Wire(strict) as wire:
        wire.send(request)
        answer = wire.answer()
        if path == "/nothing" and answer.status == 404:  # said before the body came
            assert_error(answer, 404, "no such route")
            return
        assert_error(answer, 413, f"expected at most {MAX_BODY_BYTES} bytes")
        assert answer.headers["connection"] == "close"
        wire.socket.shutdown(socket.SHUT_WR)
        assert wire.is_closed()
    assert_alive(strict)


@pytest.mark.parametrize("path", ["/predict", "/classify"])
def test_endless_chunked_body_is_cut(strict: RunningServer, path: str) -> None:
    piece = b"10000\r\n" + b"x" * 65536 + b"\r\n"
    with Wire(strict) as wire:
        wire.send(chunked(path, end=b""))
        with pytest.raises((ConnectionError, TimeoutError)):
            for _ in range(100_000):
                wire.send(piece)
                time.sleep(0.001)
    assert_alive(strict)


def test_body_of_exactly_the_limit_is_read(strict: RunningServer) -> None:
    with Wire(strict) as wire:
        wire.send(post("/predict", b"x" * MAX_BODY_BYTES))
        assert_error(wire.answer(), 400, "got 50000 bytes")
        assert_answers(wire.send(PREDICT).answer(), 0)


@pytest.mark.parametrize(
    "request_bytes",
    [
        post("/predict", b"", *(f"X-{i}: {'v' * 1000}" for i in range(70))),
        post("/predict", b"", f"Cookie: {'v' * 70_000}"),
        post("/predict?" + "q" * 70_000, b""),
        get("/livez?" + "q" * 70_000),
        get("/livez", *(f"X-{i}: {'v' * 1000}" for i in range(70))),
        get("/livez", *("a:" for i in range(70_000))),
    ],
    ids=["many", "one", "target", "bentoml-target", "bentoml-many", "tiny-many"],
)
def test_head_over_64_kib(server: RunningServer, request_bytes: bytes) -> None:
    with Wire(server) as wire:
        wire.send(request_bytes)
        assert_error(wire.answer(), 431, "at most 65536 bytes")
        wire.socket.shutdown(socket.SHUT_WR)
        assert wire.is_closed()
    assert_alive(server)


def test_endless_header_is_refused_before_it_ends(server: RunningServer) -> None:
    """The parser keeps a header's value to itself until it is whole."""
    with Wire(server) as wire:
        wire.send(b"POST /predict HTTP/1.1\r\nCookie: ", b"v" * 200_000)
        assert_error(wire.answer(), 431, "at most 65536 bytes")


@pytest.mark.parametrize("path", ["/predict", "/livez"])
def test_60_kib_of_headers_are_read(server: RunningServer, path: str) -> None:
    with Wire(server) as wire:
        wire.send(get(path, *(f"X-{i}: {'v' * 1000}" for i in range(59))))
        assert wire.answer().status == (405 if path == "/predict" else 200)


# What is no HTTP


@pytest.mark.parametrize(
    "garbage",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500),  # a TLS hello
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"hello\r\n\r\n",
        b"POST /predict HTTP/1.1\r\nContent-Length: -5\r\n\r\n",
        b"POST /predict HTTP/1.1\r\nContent-Length: 5x\r\n\r\nhello",
        b"POST /predict HTTP/1.1\r\nContent-Length: 99999999999999999999999\r\n\r\nhello",
        b"POST /predict HTTP/1.1\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello!",
        b"POST /predict HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST /predict HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n\r\n",
        b"POST /predict HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nabcd\r\n0\r\n\r\n",
        b"POST /predict HTTP/1.1\r\nno colon here\r\n\r\n",
        b"POST /classify HTTP/1.1\r\nContent-Length: -5\r\n\r\n",
        b"POST /classify HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n\r\n",
        b"GET /livez HTTP/9.9\r\n\r\n",
    ],
    ids=[
        "tls", "http2", "text", "negative-length", "length-letters", "length-overflow", "two-lengths",
        "length-and-chunked", "chunk-size", "chunk-end", "header", "bentoml-length",
        "bentoml-chunk-size", "version",
    ],
)  # fmt: skip
def test_garbage(server: RunningServer, garbage: bytes) -> None:
    with Wire(server) as wire:
        wire.send(garbage)
        answer = wire.answer()
        assert_error(answer, 400, "request: ")
        assert answer.headers["connection"] == "close"
        wire.socket.shutdown(socket.SHUT_WR)
        assert wire.is_closed()
    assert_alive(server)


def test_random_bytes_never_stop_the_server(server: RunningServer) -> None:
    chance = random.Random(3)
    for _ in range(40):
        stream = bytearray(post("/predict", PNGS[0]) + get("/livez"))
        for _ in range(chance.randrange(1, 8)):
            stream[chance.randrange(len(stream))] = chance.randrange(256)
        with Wire(server) as wire:
            wire.send(bytes(stream))
            wire.socket.shutdown(socket.SHUT_WR)
            wire.socket.recv(1 << 16)
    assert_alive(server)


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


@pytest.mark.parametrize("upgrade", ["h2c", "foo/2"])
def test_upgrade_to_another_protocol_is_passed_over(server: RunningServer, upgrade: str) -> None:
    """`curl --http2` asks for h2c on its first request; the answer is HTTP/1.1."""
    headers = (
        "Connection: Upgrade, HTTP2-Settings", f"Upgrade: {upgrade}",
        "HTTP2-Settings: AAMAAABkAAQAAP__",
    )  # fmt: skip
    with Wire(server) as wire:
        assert_answers(wire.send(post("/predict", PNGS[4], *headers)).answer(), 4)
        assert_answers(wire.send(post("/predict", PNGS[5])).answer(), 5)


def test_requests_behind_a_passed_over_upgrade_are_not_lost(server: RunningServer) -> None:
    headers = ("Connection: Upgrade", "Upgrade: h2c")
    with Wire(server) as wire:
        wire.send(
            post("/predict", PNGS[4], *headers),
            post("/predict", PNGS[5]),
            get("/livez", *headers),
            post("/predict", PNGS[6]),
        )
        assert_answers(wire.answer(), 4)
        assert_answers(wire.answer(), 5)
        assert wire.answer().status == 200
        assert_answers(wire.answer(), 6)


def test_websocket_request_for_a_lane_route_is_refused(server: RunningServer) -> None:
    with Wire(server) as wire:
        wire.send(
            get(
                "/predict", "Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13",
                "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
            )
        )  # fmt: skip
        assert wire.answer("HEAD").status in range(400, 500)
    assert_alive(server)


def test_target_in_absolute_form(server: RunningServer) -> None:
    """RFC 9112, 3.2.2: a server must accept the form that clients send to proxies."""
    with Wire(server) as wire:
        assert_answers(wire.send(post("http://test/predict", PNGS[1])).answer(), 1)


# Time


@pytest.mark.parametrize(
    "start",
    [
        b"POST /pre",
        b"POST /predict HTTP/1.1\r\nHost: te",
        b"POST /predict HTTP/1.1\r\nHost: test\r\nContent-Length: 100\r\n\r\nhalf",
        b"POST /predict HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n",
        b"POST /classify HTTP/1.1\r\nHost: test\r\nContent-Length: 100\r\n\r\nhalf",
    ],
    ids=["target", "headers", "body", "chunked", "bentoml"],
)
def test_slow_request_is_cut(strict: RunningServer, start: bytes) -> None:
    with Wire(strict) as wire:
        wire.send(PREDICT, start)
        assert_answers(wire.answer(), 0)
        answer = wire.answer()
        assert_error(answer, 408, "within 1")
        assert answer.headers["connection"] == "close"
        assert wire.is_closed()


def test_trickling_body_is_cut(strict: RunningServer) -> None:
    """Each byte is on time; the request is not."""
    with Wire(strict) as wire:
        wire.send(b"POST /predict HTTP/1.1\r\nHost: test\r\nContent-Length: 100\r\n\r\n")
        for _ in range(22):
            time.sleep(0.1)
            wire.send(b"x")
        assert_error(wire.answer(), 408, "within 1")


# Clients that leave


def test_half_sent_request_leaves_no_trace(server: RunningServer) -> None:
    before = server.metric("foveal_requests_total")
    for path in ("/predict", "/classify"):
        request = post(path, PNGS[0])
        for size in (10, 60, len(request) - 1):
            with Wire(server) as wire:
                wire.send(request[:size])
    assert_alive(server)
    assert server.metric("foveal_requests_total") == before + 1
    assert server.metric("foveal_queue_rows") == 0


def test_client_that_leaves_mid_queue_is_not_run(slow: RunningServer) -> None:
    dropped = slow.metric("foveal_dropped_rows_total")
    rows = slow.metric("foveal_batch_rows_sum")
    with Wire(slow) as stays:
        with Wire(slow) as leaves:
            leaves.send(PREDICT)
            assert_eventually_waiting(slow, 1)
        stays.send(post("/predict", PNGS[1]))
        assert_answers(stays.answer(), 1)
    assert slow.metric("foveal_dropped_rows_total") == dropped + 1
    assert slow.metric("foveal_batch_rows_sum") == rows + 1
    assert slow.metric("foveal_queue_rows") == 0


def assert_eventually_waiting(server: RunningServer, rows: int) -> None:
    deadline = time.monotonic() + QUEUE_DELAY_MS / 1000
    while time.monotonic() < deadline:
        if server.metric("foveal_queue_rows") == rows:
            return
    raise AssertionError(f"never saw {rows} rows wait")


def test_client_that_leaves_mid_pipeline_is_not_run(slow: RunningServer) -> None:
    """The request being answered is neither the connection's last nor in its pipeline."""
    dropped = slow.metric("foveal_dropped_rows_total")
    rows = slow.metric("foveal_batch_rows_sum")
    with Wire(slow) as wire:
        wire.send(*(post("/predict", png) for png in PNGS[:10]), *(get("/livez"),) * 10)
        assert_eventually_waiting(slow, 1)
    assert_alive(slow)
    assert slow.metric("foveal_dropped_rows_total") == dropped + 1
    assert slow.metric("foveal_batch_rows_sum") == rows + 1


def test_client_that_never_reads_blocks_nobody(strict: RunningServer) -> None:
    """500 requests are sent again and again until the server stops reading them."""
    flood = b"".join(post("/predict?top=4", png) for png in PNGS[:50]) * 10
    with Wire(strict) as wire:
        wire.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        wire.socket.settimeout(0.5)
        is_flooding = threading.Event()
        failures: list[str] = []

        def serve_others() -> None:
            is_flooding.wait(10)
            for i in range(20):
                with Wire(strict) as other:
                    answer = other.send(post("/predict", PNGS[i])).answer()
                    if answer.status != 200:
                        failures.append(str(answer))

        other = threading.Thread(target=serve_others)
        other.start()
        sent = 0
        try:
            while sent < 1000:
                wire.send(flood)
                sent += 1
                is_flooding.set()
        except (TimeoutError, ConnectionError):
            pass
        finally:
            is_flooding.set()
            other.join()
        assert sent < 1000, "the server read on although nobody read its answers"
        assert not failures, failures


@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="asks Linux for the connection")
def test_client_that_never_reads_is_cut(strict: RunningServer) -> None:
    """The service lets go of the connection; what its kernel still holds is the kernel's."""
    flood = b"".join(post("/predict?top=4", png) for png in PNGS[:50]) * 10
    with Wire(strict, timeout_s=2) as wire:
        wire.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        port = wire.socket.getsockname()[1]
        with pytest.raises((ConnectionError, TimeoutError)):
            for _ in range(1000):
                wire.send(flood)
        deadline = time.monotonic() + 10
        while port in strict.client_ports():
            assert time.monotonic() < deadline, "still held after 10 s"
            time.sleep(0.1)


def test_500_pipelined_requests_of_a_client_that_reads_late(server: RunningServer) -> None:
    with Wire(server) as wire:
        wire.send(*(post("/predict", PNGS[i % 64]) for i in range(500)))
        time.sleep(0.3)
        for i in range(500):
            assert_answers(wire.answer(), i % 64)


def test_order_is_kept_while_a_slow_reader_stops_and_starts_the_writing(
    server: RunningServer,
) -> None:
    """Large answers of BentoML's fill all buffers between small ones of the lane's."""
    count = 1200
    requests = (
        lambda i: post("/predict", PNGS[i % 64]),
        lambda _i: get("/docs.json"),
        lambda i: post("/predict", b"no image %d" % i),
        lambda i: get(f"/nothing/{i}"),
    )
    stream = b"".join(requests[i % 4](i) for i in range(count))
    with Wire(server) as wire:
        wire.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
        sender = threading.Thread(target=wire.send, args=(stream,))
        sender.start()
        try:
            for i in range(count):
                if i % 100 == 0:
                    time.sleep(0.2)
                answer = wire.answer()
                match i % 4:
                    case 0:
                        assert_answers(answer, i % 64)
                    case 1:
                        assert answer.status == 200
                        assert "openapi" in answer.json()
                    case 2:
                        assert_error(answer, 400, "expected JPEG")
                    case _:
                        assert_error(answer, 404, f"/nothing/{i}:")
        finally:
            wire.socket.shutdown(socket.SHUT_RDWR)
            sender.join()
