"""Probes before there are workers: each connection gets one whole answer, here or from a worker."""

import re
import socket
import threading
from collections.abc import Iterator

import pytest
from circus.sockets import CircusSocket  # type: ignore[import-untyped]

from service.workers.early import LOADING_PAGE, EarlyAnswers, answer
from tests.server import free_port


@pytest.fixture
def port() -> int:
    return free_port()


@pytest.fixture
def early(port: int) -> Iterator[EarlyAnswers]:
    answers = EarlyAnswers("127.0.0.1", port)
    yield answers
    with CircusSocket(host="127.0.0.1", port=port) as listener:
        if not answers._is_over:
            answers.hand_over(listener)


def ask(port: int, *parts: bytes) -> bytes:
    """Send one request and read until the other side closes."""
    with socket.create_connection(("127.0.0.1", port), timeout=15) as client:
        for part in parts:
            client.sendall(part)
        return b"".join(iter(lambda: client.recv(1 << 16), b""))


@pytest.mark.usefixtures("early")
@pytest.mark.parametrize("path", ["/livez", "/healthz", "/v2/health/live", "/livez?probe=1"])
def test_it_is_live(port: int, path: str) -> None:
    lines = b" HTTP/1.1\r\nHost: x\r\nX-Request-Id: mine \r\n\r\n"
    got = ask(port, b"GET " + path.encode() + lines)
    assert got.startswith(b"HTTP/1.1 200 OK\r\nx-request-id: mine\r\n")
    assert got.endswith(b"content-length: 1\r\nconnection: close\r\n\r\n\n")
    head = ask(port, b"HEAD " + path.encode() + lines)
    assert head == got[:-1]


@pytest.mark.usefixtures("early")
@pytest.mark.parametrize(
    "request_line", ["GET /readyz", "GET /metrics", "GET /", "POST /livez", "GET /livez/", "x"]
)
def test_all_else_is_503(port: int, request_line: str) -> None:
    got = ask(port, f"{request_line} HTTP/1.1\r\nhost: x\r\n\r\n".encode())
    head, _, body = got.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 503 Service Unavailable\r\n")
    assert b"\r\nretry-after: 1\r\n" in head
    assert re.search(rb"\r\nx-request-id: [0-9a-f]{12}-[0-9a-f]+\r\n", head)
    assert b"content-length: %d\r\n" % len(body) in head
    assert body == b'{"error":"not ready: loading the service; retry"}'


def test_a_browser_gets_a_page_that_asks_again() -> None:
    accept = b"host: x\r\nAccept: text/html,application/xhtml+xml;q=0.9\r\n\r\n"
    head, _, body = answer(b"GET / HTTP/1.1\r\n" + accept).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 503 Service Unavailable\r\n")
    assert b"\r\ncontent-type: text/html; charset=utf-8\r\n" in head
    assert b"\r\nretry-after: 1\r\n" in head
    assert b"content-length: %d\r\n" % len(body) in head
    assert body == LOADING_PAGE and b'<meta http-equiv="refresh" content="1">' in body
    for line in (b"GET /predict HTTP/1.1\r\n", b"POST /predict HTTP/1.1\r\n"):
        assert b"content-type: application/json\r\n" in answer(line + accept)


@pytest.mark.usefixtures("early")
def test_an_answer_is_not_lost_with_a_body(port: int) -> None:
    """What the client still sends is not answered with a reset."""
    body = bytes(1 << 17)
    head = b"POST /predict HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % len(body)
    assert ask(port, head, body).startswith(b"HTTP/1.1 503 ")


def test_an_answer_outlives_the_hand_over(port: int, early: EarlyAnswers) -> None:
    body = bytes(1 << 17)
    head = b"POST /predict HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % len(body)
    with socket.create_connection(("127.0.0.1", port), timeout=15) as client:
        client.sendall(head)
        client.recv(1, socket.MSG_PEEK)
        with CircusSocket(host="127.0.0.1", port=port) as listener:
            early.hand_over(listener)
            client.sendall(body)
            got = b"".join(iter(lambda: client.recv(1 << 16), b""))
    assert got.startswith(b"HTTP/1.1 503 ")
    assert got.endswith(b'retry"}')


def test_silent_clients_keep_nobody_waiting(port: int, early: EarlyAnswers) -> None:
    with socket.create_connection(("127.0.0.1", port)) as silent:
        for _ in range(3):
            assert ask(port, b"GET /livez HTTP/1.1\r\n\r\n").startswith(b"HTTP/1.1 200 ")
        with CircusSocket(host="127.0.0.1", port=port) as listener:
            early.hand_over(listener)
            listener.settimeout(15)
            silent.sendall(b"GET /late HTTP/1.1\r\n\r\n")
            connection, _ = listener.accept()
            with connection:
                assert connection.recv(100).startswith(b"GET /late ")


def test_each_connection_is_answered_once_while_the_socket_changes_hands(
    port: int, early: EarlyAnswers
) -> None:
    got: list[bytes] = []

    def client() -> None:
        got.extend(ask(port, b"GET /livez HTTP/1.1\r\n\r\n") for _ in range(100))

    clients = [threading.Thread(target=client) for _ in range(4)]
    with CircusSocket(host="127.0.0.1", port=port, blocking=True) as listener:
        for each in clients:
            each.start()
        while len(got) < 40:
            pass
        descriptor = listener.fileno()
        early.hand_over(listener)
        assert listener.fileno() == descriptor
        listener.bind_and_listen()  # circus calls it: it is bound already
        assert listener.getsockname() == ("127.0.0.1", port)
        listener.settimeout(0.05)
        worker = 0
        while any(each.is_alive() for each in clients):
            try:
                connection, _ = listener.accept()
            except TimeoutError:
                continue
            with connection:
                connection.settimeout(15)
                connection.sendall(answer(connection.recv(1 << 16)))
                worker += 1
    assert len(got) == 400
    assert all(each.startswith(b"HTTP/1.1 200 ") and each.endswith(b"\n\n") for each in got)
    assert 0 < worker < 400


def test_a_port_in_use_is_an_error(port: int) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", port))
        taken.listen()
        with pytest.raises(OSError, match="in use"):
            EarlyAnswers("127.0.0.1", port)
