"""The lane on raw sockets, against the real server: clients that are slow, leave, or never read."""

import contextlib
import socket
import threading
import time
from pathlib import Path

import pytest

from tests.server import RunningServer, Wire, assert_error, get, post
from tests.service.lane.lane_client import (
    PNGS,
    PREDICT,
    QUEUE_DELAY_MS,
    assert_alive,
    assert_answers,
)

pytestmark = pytest.mark.e2e


# Time


def test_slow_requests_are_cut(strict: RunningServer) -> None:
    """Each in its turn, wherever it stopped: target, headers, or body."""
    starts = [
        b"POST /pre",
        b"POST /predict HTTP/1.1\r\nHost: te",
        b"POST /predict HTTP/1.1\r\nHost: test\r\nContent-Length: 100\r\n\r\nhalf",
        b"POST /predict HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n",
        b"POST /classify HTTP/1.1\r\nHost: test\r\nContent-Length: 100\r\n\r\nhalf",
    ]
    with contextlib.ExitStack() as stack:
        wires = [stack.enter_context(Wire(strict)) for _ in starts]
        for wire, start in zip(wires, starts, strict=True):
            wire.send(PREDICT, start)
        for wire in wires:
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
        deadline = time.monotonic() + 30
        while port in strict.client_ports():
            assert time.monotonic() < deadline, "still held after 30 s"
            time.sleep(0.1)


def test_500_pipelined_requests_of_a_client_that_reads_late(server: RunningServer) -> None:
    with Wire(server) as wire:
        wire.send(*(post("/predict", PNGS[i % 64]) for i in range(500)))
        time.sleep(0.3)
        for i in range(500):
            assert_answers(wire.answer(), i % 64)


@pytest.mark.thorough
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
