"""The bare server that `foveal bench stages` compares the lane with, compiled and asked."""

import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from loadtest.bench.bare import BareServer, bare_server, compile_bare_server
from loadtest.bench.stages import table
from loadtest.errors import LoadTestError

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"
HEAD = b"POST /predict HTTP/1.1\r\nHost: a\r\ncontent-length: 6\r\n\r\n"


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("cc") is None:
        pytest.skip("needs a C compiler")
    return compile_bare_server(tmp_path_factory.mktemp("bare"))


@pytest.fixture
def bare(program: Path) -> Iterator[BareServer]:
    with bare_server(program, ANSWER, 4) as running:
        yield running


def connect(bare: BareServer) -> socket.socket:
    client = socket.create_connection(("127.0.0.1", bare.port), timeout=20)
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return client


def test_each_whole_request_gets_the_answer(bare: BareServer) -> None:
    with connect(bare) as one, connect(bare) as other:
        one.sendall(HEAD + b"abc")  # half a body: no answer yet
        for _ in range(3):
            other.sendall(HEAD + b"abcdef")
            assert other.recv(999) == ANSWER
        other.sendall(b"GET / HTTP/1.1\r\n\r\n")
        assert other.recv(999) == ANSWER
        one.setblocking(False)
        with pytest.raises(BlockingIOError):
            one.recv(999)
        one.settimeout(20)
        one.sendall(b"def")
        assert one.recv(999) == ANSWER


@pytest.mark.parametrize("sent", [b"POST / HT", HEAD + b"abcdef more"])
def test_what_it_cannot_read_is_closed(bare: BareServer, sent: bytes) -> None:
    with connect(bare) as client:
        client.sendall(sent)
        assert client.recv(999) == b""
    with connect(bare) as client:  # and the next one is not disturbed
        client.sendall(HEAD + b"abcdef")
        assert client.recv(999) == ANSWER


def test_its_processor_time_is_read(bare: BareServer) -> None:
    before_s = bare.cpu_s()
    with connect(bare) as client:
        for _ in range(200):
            client.sendall(HEAD + b"abcdef")
            assert client.recv(999) == ANSWER
    assert 0 < bare.cpu_s() - before_s < 1


def test_a_missing_compiler_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(
        LoadTestError, match="expected the C compiler `cc` for the bare server, found none"
    ):
        compile_bare_server(tmp_path)


def test_both_limits_stand_in_the_table() -> None:
    figure = {"requests_per_s": 40_000.0, "p50_ms": 1.0, "p99_ms": 2.0, "failed": 0}
    results = {
        "model": "m:1",
        "connections": 64,
        "stages_us": {"decode": 8.0},
        "cpu_us": 25.0,
        "clocked_cpu_us": 30.0,
        "unwatched_cpu_us": 24.0,
        "plain": figure,
        "limit_us": {"decode": 8.0, "run": 8.0, "bare": 4.0},
    }
    lines = table(results).splitlines()
    (alone,) = [line for line in lines if line.startswith("Limit of the work alone")]
    (honest,) = [line for line in lines if line.startswith("Honest limit")]
    assert "62,500 requests/s; the lane answers 0.64 of it" in alone
    assert "4.00 bare server in C" in honest
    assert "50,000 requests/s; the lane answers 0.80 of it" in honest
