"""A real ``bentoml serve`` in a process of its own, and a raw connection to it.

``places`` decides where it runs, ``forkserver`` saves it the time of its imports.
"""

import contextlib
import re
import signal
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx
import orjson
import psutil  # type: ignore[import-untyped]

from loadtest.serving import free_port
from tests.forkserver import Forked
from tests.places import ROOT, Start, chosen, nginx

__all__ = ["ROOT", "free_port"]  # for the tests, beside what is defined here

START_S = 60.0
STOP_S = 40.0


@dataclass
class RunningServer:
    """One server and where it is; ``stop`` is safe to call twice."""

    port: int
    process: subprocess.Popen[bytes] | Forked
    log_path: Path
    grpc_port: int = 0
    certificate: str = ""  # PEM file; empty: no TLS
    url: str = field(init=False)

    def __post_init__(self) -> None:
        self.url = f"{'https' if self.certificate else 'http'}://127.0.0.1:{self.port}"

    def get(self, path: str, **options: Any) -> httpx.Response:
        """GET over a connection of its own, which trusts the server's certificate alone."""
        trusted = ssl.create_default_context(cafile=self.certificate or None)
        return httpx.get(f"{self.url}{path}", timeout=5, verify=trusted, **options)

    @property
    def log(self) -> str:
        return self.log_path.read_text(errors="replace")

    @property
    def grpc_address(self) -> str:
        """Where V2 over gRPC is; only of a server that was started with ``grpc_port``."""
        assert self.grpc_port, "start it with grpc_port=free_port()"
        return f"127.0.0.1:{self.grpc_port}"

    def metric(self, name: str, **labels: str) -> float:
        """Sum all samples of a metric whose labels include those given."""
        return sample(httpx.get(f"{self.url}/metrics").text, name, **labels)

    def client_ports(self) -> set[int]:
        """Return the remote ports of the connections that the server's processes hold."""
        main = psutil.Process(self.process.pid)
        return {
            connection.raddr.port
            for process in (main, *main.children(recursive=True))
            for connection in process.net_connections("tcp")
            if connection.raddr
        }

    def workers(self) -> list[psutil.Process]:
        """Return the processes below the supervisor."""
        return list(psutil.Process(self.process.pid).children(recursive=True))

    def rss_mib(self) -> float:
        """Return the resident memory of the workers, MiB."""
        return float(sum(process.memory_info().rss for process in self.workers()) / 2**20)

    def wait_ready(self, workers: int = 1) -> None:
        """Wait until it has loaded its models, or refused them.

        Args:
            workers: Which of several answers is chance, so all ten answers in a row must say that
                it is ready.
        """
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise AssertionError(f"server ended with {self.process.returncode}:\n{self.log}")
            with contextlib.suppress(httpx.TransportError):
                asked = range(1 if workers == 1 else 10)
                if all("not ready: loading" not in self.get("/readyz").text for _ in asked):
                    return
            time.sleep(0.05)
        raise AssertionError(f"server not ready after {START_S} s:\n{self.log}")

    def signal_stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)

    def stop(self) -> None:
        """Stop by SIGTERM and check that nothing listens on the port."""
        if self.process.poll() is None:
            self.signal_stop()
        try:
            self.process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise AssertionError(f"server did not stop in {STOP_S} s:\n{self.log}") from None
        with socket.socket() as probe:
            assert probe.connect_ex(("127.0.0.1", self.port)) != 0, "the port is still served"


def sample(text: str, name: str, **labels: str) -> float:
    """Sum all samples of a metric in Prometheus' text whose labels include those given."""
    total = 0.0
    for found in re.finditer(rf"^{name}(?:{{(.*)}})? (\S+)$", text, re.MULTILINE):
        got = dict(re.findall(r'(\w+)="([^"]*)"', found[1] or ""))
        if labels.items() <= got.items():
            total += float(found[2])
    return total


@contextlib.contextmanager
def running_server(
    repository: Path,
    folder: Path,
    *,
    is_ready: bool = True,
    bentoml_config: Path | None = None,
    port: int = 0,
    **settings: object,
) -> Iterator[RunningServer]:
    """Start the service with ``FOVEAL_<SETTING>`` for each setting; stop it at the end.

    Args:
        repository: The model repository.
        folder: Where its log and BentoML's home go.
        is_ready: Whether /readyz is expected to be 200.
        bentoml_config: BentoML's own configuration file.
        port: For HTTP; 0: a free one.
        settings: Names in lower case, without the prefix.
    """
    port = port or free_port()
    log_path = folder / f"server-{port}.log"
    asked = int(str(settings.get("grpc_port", 0)))
    start = Start(
        repository,
        folder,
        port,
        asked,
        {f"FOVEAL_{name.upper()}": str(value) for name, value in settings.items()},
        bentoml_config,
    )
    process = start.fork(log_path)
    server = RunningServer(port, process, log_path, asked, str(settings.get("tls_cert", "")))
    try:
        server.wait_ready(int(str(settings.get("workers", 1))))
        readiness = server.get("/readyz").status_code
        assert readiness == (200 if is_ready else 503), server.log
        with contextlib.ExitStack() as stack:
            if chosen()[0] == "nginx":
                front = stack.enter_context(nginx(port, asked, folder))
                yield RunningServer(front.port, process, log_path, asked and front.grpc_port)
            else:
                yield server
    finally:
        server.stop()
    # BentoML logs tracebacks of its own for bad input; these are never anyone's input.
    for sign in ("this is a bug", "in ASGI application", "in callback", "never retrieved"):
        assert sign not in server.log, server.log


@dataclass(frozen=True)
class Answer:
    """One response off the wire; headers in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return orjson.loads(self.body)


class Wire:
    """One raw connection, to send what no client library would.

    Args:
        server: Server to connect to.
        timeout_s: For every read; a server that never answers fails the test.
    """

    def __init__(self, server: RunningServer, timeout_s: float = 15) -> None:
        self.socket = socket.create_connection(("127.0.0.1", server.port), timeout=timeout_s)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._file = self.socket.makefile("rb")

    def __enter__(self) -> "Wire":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        self._file.close()
        self.socket.close()

    def send(self, *parts: bytes) -> "Wire":
        self.socket.sendall(b"".join(parts))
        return self

    def answer(self, method: str = "POST") -> Answer:
        """Read one response, framed by its own headers."""
        line = self._file.readline()
        assert line.startswith(b"HTTP/1.1 "), f"expected a status line, got {line!r}"
        status = int(line.split()[1])
        headers: dict[str, str] = {}
        while (line := self._file.readline()) != b"\r\n":
            assert line.endswith(b"\r\n"), f"expected a header, got {line!r}"
            name, _, value = line.decode("latin-1").rstrip("\r\n").partition(":")
            assert name.lower() not in headers or name.lower() == "set-cookie", f"{name} twice"
            headers[name.lower()] = value.strip()
        body = b""
        if method == "HEAD" or status in (100, 204, 304):
            pass
        elif headers.get("transfer-encoding") == "chunked":
            while size := int(self._file.readline(), 16):
                body += self._file.read(size)
                assert self._file.readline() == b"\r\n"
            assert self._file.readline() == b"\r\n"
        else:
            size = int(headers["content-length"])
            body = self._file.read(size)
            assert len(body) == size, f"expected {size} bytes, got {body!r}"
        return Answer(status, headers, body)

    def is_closed(self) -> bool:
        """Wait for the server's end of the connection: whether it closed without further bytes."""
        return self._file.read() == b""


def post(path: str, body: bytes, *headers: str, version: str = "1.1") -> bytes:
    """Write the bytes of a POST with its length."""
    lines = [f"POST {path} HTTP/{version}", "Host: test", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body


def get(path: str, *headers: str, method: str = "GET") -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "Host: test", *headers]
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n"


def chunked(
    path: str, *chunks: bytes, end: bytes = b"0\r\n\r\n", headers: tuple[str, ...] = ()
) -> bytes:
    """Write the bytes of a chunked POST."""
    head = post(path, b"", "Transfer-Encoding: chunked", *headers)
    head = head.replace(b"Content-Length: 0\r\n", b"")
    return head + b"".join(b"%x\r\n%s\r\n" % (len(c), c) for c in chunks) + end


def assert_error(answer: "Answer | httpx.Response", status: int, match: str) -> None:
    """Assert the one error shape: ``{"error": "<message>"}`` and nothing else."""
    body = answer.body if isinstance(answer, Answer) else answer.content
    code = answer.status if isinstance(answer, Answer) else answer.status_code
    assert code == status, f"expected {status}, got {code}: {body!r}"
    assert answer.headers["content-type"] == "application/json"
    document = orjson.loads(body)
    assert list(document) == ["error"] and isinstance(document["error"], str), document
    assert re.search(match, document["error"]), f"expected {match!r}, got {document['error']!r}"
    assert "Traceback" not in document["error"] and "/site-packages/" not in document["error"]
