"""The lane on raw sockets, against the real server: bodies, limits, and what is no HTTP."""

import random
import socket
import time

import pytest

from tests.server import RunningServer, Wire, assert_error, chunked, get, post
from tests.service.lane.lane_client import (
    MAX_BODY_BYTES,
    PNGS,
    PREDICT,
    assert_alive,
    assert_answers,
)

pytestmark = pytest.mark.e2e


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


@pytest.mark.parametrize("path", ["/predict", "/classify", "/nothing", "/livez"])
@pytest.mark.parametrize("is_chunked", [False, True], ids=["declared", "chunked"])
def test_body_over_the_limit(strict: RunningServer, path: str, is_chunked: bool) -> None:
    """The whole body is sent although nobody wants it; the answer must be readable all the same."""
    body = b"x" * (8 << 20)
    pieces = [body[i : i + 65536] for i in range(0, len(body), 65536)]
    request = chunked(path, *pieces) if is_chunked else post(path, body)
    with Wire(strict) as wire:
        wire.send(request)
        answer = wire.answer()
        if path == "/livez" and answer.status == 405:  # said before the body came
            assert_error(answer, 405, "method not allowed")
            return
        assert_error(answer, 413, f"expected at most {MAX_BODY_BYTES} bytes")
        assert answer.headers["connection"] == "close"
        wire.socket.shutdown(socket.SHUT_WR)
        assert wire.is_closed()
    assert_alive(strict)


@pytest.mark.parametrize("path", ["/predict", "/classify", "/livez"])
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


def head(*lines: bytes, start: bytes = b"POST /predict HTTP/1.1") -> bytes:
    return b"\r\n".join([start, *lines, b"", b""])


@pytest.mark.parametrize(
    "garbage",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500),  # a TLS hello
        b"hello\r\n\r\n",
        head(b"Host: test", b"Content-Length: -5"),
        head(b"Host: test", b"Content-Length: 5x") + b"hello",
        head(b"Host: test", b"Content-Length: 99999999999999999999999") + b"hello",
        head(b"Host: test", b"Content-Length: 5", b"Content-Length: 6") + b"hello!",
        head(b"Host: test", b"Content-Length: 5", b"Content-Length: 5") + b"hello",
        head(b"Host: test", b"Content-Length: 5, 5") + b"hello",
        head(b"Host: test", b"Content-Length: 5", b"Transfer-Encoding: chunked") + b"0\r\n\r\n",
        head(b"Host: test", b"Transfer-Encoding: chunked", b"Content-Length: 5") + b"0\r\n\r\n",
        head(b"Host: test", b"Transfer-Encoding: chunked") + b"zz\r\n\r\n",
        head(b"Host: test", b"Transfer-Encoding: chunked") + b"2\r\nabcd\r\n0\r\n\r\n",
        head(b"Host: test", b"Transfer-Encoding: chunked") + b"2\nab\n0\n\n",
        head(b"Host: test", b"no colon here"),
        head(b"Host: test", b"A: folded", b" line"),
        head(b"Host: test", b"A : space before the colon"),
        head(b"Host: test", b"A: bare\rreturn"),
        head(b"Host: test", b"A: nul\0"),
        b"POST /predict HTTP/1.1\nHost: test\n\n",
        head(b"Host: test", b"Content-Length: -5", start=b"POST /classify HTTP/1.1"),
        chunked("/classify", end=b"zz\r\n\r\n"),
    ],
    ids=[
        "tls",
        "text",
        "negative-length",
        "length-letters",
        "length-overflow",
        "two-lengths",
        "equal-lengths",
        "length-list",
        "length-and-chunked",
        "chunked-and-length",
        "chunk-size",
        "chunk-end",
        "chunk-line-feed",
        "header",
        "fold",
        "space-before-colon",
        "bare-return",
        "nul",
        "line-feeds",
        "bentoml-length",
        "bentoml-chunk-size",
    ],
)
def test_garbage(server: RunningServer, garbage: bytes) -> None:
    assert_refused(server, garbage, 400, "request: expected HTTP/1.1, got: ")


@pytest.mark.parametrize("route", [b"POST /predict", b"POST /livez", b"GET /nothing"])
@pytest.mark.parametrize(
    ("version", "lines", "status", "match"),
    [
        (b" HTTP/1.1", [], 400, "header Host: expected exactly one, got 0"),
        (b" HTTP/1.1", [b"Host: a", b"Host: a"], 400, "header Host: expected exactly one, got 2"),
        (b" HTTP/1.0", [b"Host: a", b"Host: b"], 400, "header Host: expected exactly one, got 2"),
        (b" HTTP/1.1", [b"Host: a, b"], 400, "expected a name and a port, got 'a, b'"),
        (b" HTTP/1.1", [b"Host: a/b"], 400, "expected a name and a port"),
        (b" HTTP/1.1", [b"Host: me@a"], 400, "expected a name and a port"),
        (b" HTTP/1.1", [b"Host: a:b:c"], 400, "expected a name and a port"),
        (b"", [], 400, "request line: expected HTTP/1.1, got no version"),
        (b" HTTP/0.9", [b"Host: a"], 400, "request line: expected HTTP/1.1, got no version"),
        (b" HTTP/1.2", [b"Host: a"], 505, "expected HTTP/1.1 or HTTP/1.0"),
        (b" HTTP/2.0", [b"Host: a"], 505, "expected HTTP/1.1 or HTTP/1.0, got HTTP/2.0"),
        (b" HTTP/9.9", [b"Host: a"], 505, "expected HTTP/1.1 or HTTP/1.0"),
        (b" HTTP/1.1", [b"Host: a", b"Transfer-Encoding: gzip"], 501, "expected chunked, got 'gz"),
        (b" HTTP/1.1", [b"Host: a", b"Transfer-Encoding: gzip, chunked"], 501, "got 'gzip, chu"),
        (b" HTTP/1.1", [b"Host: a", b"Transfer-Encoding: chunked, gzip"], 501, "expected chunked"),
        (b" HTTP/1.1", [b"Host: a", *[b"Transfer-Encoding: chunked"] * 2], 501, "expected chunked"),
        (b" HTTP/1.0", [b"Host: a", b"Transfer-Encoding: chunked"], 400, "none in HTTP/1.0"),
    ],
)
def test_what_the_parser_lets_pass(
    server: RunningServer, route: bytes, version: bytes, lines: list[bytes], status: int, match: str
) -> None:
    assert_refused(server, head(*lines, start=route + version) + b"0\r\n\r\n", status, match)


def test_preface_of_http2(server: RunningServer) -> None:
    assert_refused(server, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505, "expected HTTP/1.1")


@pytest.mark.parametrize("value", [b"", b"a", b"a.example:80", b"127.0.0.1:3000", b"[::1]:3000"])
def test_hosts(server: RunningServer, value: bytes) -> None:
    with Wire(server) as wire:
        assert (
            wire.send(head(b"Host: " + value, start=b"GET /predict HTTP/1.1")).answer().status
            == 405
        )


def test_http_1_0_needs_no_host(server: RunningServer) -> None:
    with Wire(server) as wire:
        wire.send(
            head(b"Content-Length: %d" % len(PNGS[2]), start=b"POST /predict HTTP/1.0"), PNGS[2]
        )
        assert_answers(wire.answer(), 2)


@pytest.mark.parametrize("path", [b"/predict", b"/livez", b"/nothing"])
@pytest.mark.parametrize("lines", [[b"Host: a"], [b"Host: a", b"Host: a"]], ids=["good", "bad"])
def test_no_body_follows_a_head(server: RunningServer, path: bytes, lines: list[bytes]) -> None:
    with Wire(server) as wire:
        wire.send(head(*lines, b"Connection: close", start=b"HEAD " + path + b" HTTP/1.1"))
        assert wire.answer("HEAD").status in (200, 400, 404, 405)
        wire.socket.shutdown(socket.SHUT_WR)
        assert wire.is_closed()


@pytest.mark.parametrize("path", ["/predict", "/livez"])
def test_many_tiny_headers_are_a_long_head(server: RunningServer, path: str) -> None:
    with Wire(server) as wire:
        wire.send(get(path, *(f"a{i % 10}: 1" for i in range(1500))))
        assert wire.answer().status == (405 if path == "/predict" else 200)
    request = get(path, *(f"a{i % 10}: 12" for i in range(10_000)))
    assert_refused(server, request, 431, "at most 65536 bytes, each header counted with 32 more")


def assert_refused(server: RunningServer, request: bytes, status: int, match: str) -> None:
    """Assert an error and a close that loses nothing of it."""
    with Wire(server) as wire:
        wire.send(request)
        answer = wire.answer()
        assert_error(answer, status, match)
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
