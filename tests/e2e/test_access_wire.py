"""Cross-origin rules and TLS, on the real service."""

import json
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from tritonclient.grpc import service_pb2, service_pb2_grpc

from tests.certificates import make_certificate
from tests.guarded import IMAGE, PAGE, PREFLIGHT, Guarded, until
from tests.places import inherited
from tests.server import ROOT, RunningServer, post, running_server


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("POST", "/predict", 200),
        ("POST", "/models/none/predict", 404),
        ("GET", "/v2/health/ready", 200),
        ("GET", "/schema.json", 200),
        ("GET", "/nothing", 404),
        ("GET", "/", 200),
        ("DELETE", "/predict", 405),
        ("HEAD", "/readyz", 200),
    ],
)
def test_every_answer_follows_the_cross_origin_rules(
    guarded: Guarded, method: str, path: str, status: int
) -> None:
    body = {"content": IMAGE} if method == "POST" else {}
    for origin in (PAGE, "http://localhost:5173"):
        answer = guarded.request(method, path, guarded.free, headers={"Origin": origin}, **body)
        assert answer.status_code in (status, 405 if method == "HEAD" else status)
        assert answer.headers["access-control-allow-origin"] == origin
        assert answer.headers["vary"] == "origin"
        assert "access-control-allow-credentials" not in answer.headers
    for headers in ({"Origin": "https://other.example"}, {"Origin": "null"}, {}):
        answer = guarded.request(method, path, guarded.free, headers=headers, **body)
        assert "access-control-allow-origin" not in answer.headers
        assert answer.headers["vary"] == "origin"


def test_refusals_follow_the_cross_origin_rules(guarded: Guarded) -> None:
    headers = {"Origin": PAGE}
    for answer in (
        guarded.predict(headers=headers),
        guarded.request("GET", "/schema.json", headers=headers),
        guarded.request("POST", "/predict", guarded.free, headers=headers, content=bytes(1 << 26)),
    ):
        assert answer.status_code in (401, 413)
        assert answer.headers["access-control-allow-origin"] == PAGE


@pytest.mark.parametrize("path", ["/predict", "/schema.json", "/metrics", "/nothing", "/"])
def test_preflight_needs_no_key(guarded: Guarded, path: str) -> None:
    answer = guarded.request("OPTIONS", path, headers=PREFLIGHT)
    assert answer.status_code == 200 and not answer.content
    assert answer.headers["access-control-allow-origin"] == PAGE
    assert "POST" in answer.headers["access-control-allow-methods"]
    assert "authorization" in answer.headers["access-control-allow-headers"]
    other = guarded.request("OPTIONS", path, headers=PREFLIGHT | {"Origin": "https://other"})
    assert "access-control-allow-origin" not in other.headers


def test_plain_http_is_not_answered(guarded: Guarded) -> None:
    for port in (guarded.server.port, guarded.metrics_port):
        with pytest.raises(httpx.TransportError):
            httpx.get(f"http://127.0.0.1:{port}/readyz", timeout=5)


def test_certificate_is_read_again(guarded: Guarded) -> None:
    server = guarded.server
    ports = (server.port, server.grpc_port, guarded.metrics_port)
    assert {guarded.served_name(server.port) for _ in range(6)} == {"first"}
    trusted = ssl.create_default_context(cafile=server.certificate)
    headers = {"Authorization": f"Bearer {guarded.free}"}
    with httpx.Client(base_url=server.url, verify=trusted, headers=headers) as client:
        assert client.post("/predict", content=IMAGE).status_code == 200
        _, key = make_certificate(guarded.folder, "second")
        until(lambda: server.log.count("key.pem: read again") == 2, "both workers")
        assert {guarded.served_name(port) for port in ports for _ in range(4)} == {"second"}
        with guarded.channel() as channel:
            stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
            assert stub.ServerReady(service_pb2.ServerReadyRequest(), timeout=10).ready
        assert client.post("/predict", content=IMAGE).status_code == 200  # the old connection
    good = key.read_bytes()
    key.write_bytes(b"no key")
    until(lambda: server.log.count("key without a password") == 2, "a line in the log")
    assert {guarded.served_name(port) for port in ports for _ in range(4)} == {"second"}
    key.write_bytes(good)


def test_old_tls_is_refused(guarded: Guarded) -> None:
    words = ["openssl", "s_client", "-connect", f"127.0.0.1:{guarded.server.port}", "-brief"]
    for version, is_served in (("-tls1_1", False), ("-tls1_2", True), ("-tls1_3", True)):
        security = ["-cipher", "DEFAULT:@SECLEVEL=0"]
        done = subprocess.run(
            [*words, version, *security], input=b"", capture_output=True, check=False
        )
        assert (done.returncode == 0) is is_served, (version, done.stderr)


@pytest.mark.parametrize(
    ("engine", "kind"),
    [
        ("sender", "raw"),
        pytest.param("locust", "v2-binary", marks=pytest.mark.thorough),
        pytest.param("locust", "grpc", marks=pytest.mark.thorough),
    ],
)
def test_load_over_tls_with_a_key(
    guarded: Guarded, tiny_repository: Path, tmp_path: Path, engine: str, kind: str
) -> None:
    server = guarded.server
    words = ["loadtest", server.url.replace("127.0.0.1", "localhost"), "--json"]
    words += ["--models", str(tiny_repository), "--model", "tiny:1", "--kind", kind]
    words += ["--engine", engine, "--users", "2", "--duration-s", "0.5", "--out", str(tmp_path)]
    words += ["--grpc", f"localhost:{server.grpc_port}"]

    def run(**variables: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "foveal.py", *words],
            cwd=ROOT,
            env=inherited() | variables,
            capture_output=True,
            text=True,
            check=False,
        )

    done = run(SSL_CERT_FILE=server.certificate, FOVEAL_API_KEY=guarded.free)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["figures"]["errors"] == 0
    kept = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    assert kept and not any(guarded.free.encode() in text for text in kept)
    if engine == "sender":  # the command refuses it before it starts either of them
        unknown = run(FOVEAL_API_KEY=guarded.free)
        assert unknown.returncode == 1 and "certificate" in unknown.stderr


@pytest.fixture
def hasty(tiny_repository: Path, tmp_path: Path) -> Iterator[RunningServer]:
    """A service over TLS whose patience is short."""
    certificate, key = make_certificate(tmp_path, "hasty")
    with running_server(
        tiny_repository,
        tmp_path,
        tls_cert=certificate,
        tls_key=key,
        keep_alive_s=1,
        receive_timeout_s=1,
        drain_timeout_s=5,
    ) as server:
        yield server


def wrapped(server: RunningServer) -> ssl.SSLSocket:
    context = ssl.create_default_context(cafile=server.certificate)
    plain = socket.create_connection(("127.0.0.1", server.port), 10)
    plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    return context.wrap_socket(plain, server_hostname="localhost")


@pytest.mark.thorough
def test_limits_of_a_connection_and_the_drain_hold_over_tls(hasty: RunningServer) -> None:
    with wrapped(hasty) as idle, wrapped(hasty) as late, wrapped(hasty) as deaf:
        idle.sendall(post("/predict", IMAGE))
        assert idle.recv(65536).startswith(b"HTTP/1.1 200 ")
        late.sendall(b"POST /predict HTTP/1.1\r\nHost: t\r\nContent-Length: 9\r\n\r\n1")
        assert late.recv(65536).startswith(b"HTTP/1.1 408 ")
        assert idle.recv(1) == b""  # closed, with an end that TLS knows
        form = b"".join(
            b'--x\r\nContent-Disposition: form-data; filename="%d"\r\n\r\n%b\r\n' % (i, IMAGE)
            for i in range(512)
        )
        media = "Content-Type: multipart/form-data; boundary=x"
        request = post("/predict?top=4", form + b"--x--", media)
        deaf.settimeout(1)
        try:  # asks for megabytes and reads none of them
            for _ in range(300):
                deaf.sendall(request)
        except OSError:
            pass
        until(lambda: deaf.getsockname()[1] not in hasty.client_ports(), "a reset")
    assert hasty.get("/readyz").status_code == 200
    assert_drain_waits_for_nobody_who_is_silent(hasty)


def assert_drain_waits_for_nobody_who_is_silent(hasty: RunningServer) -> None:
    with (
        socket.create_connection(("127.0.0.1", hasty.port), 5),  # no handshake yet
        wrapped(hasty) as idle,
        wrapped(hasty) as begun,
    ):
        idle.sendall(post("/predict", IMAGE))
        idle.recv(65536)
        started = time.monotonic()
        begun.sendall(post("/predict", IMAGE)[:-10])
        time.sleep(0.1)
        hasty.signal_stop()
        time.sleep(0.1)
        begun.sendall(IMAGE[-10:])
        assert begun.recv(65536).startswith(b"HTTP/1.1 200 ")
        hasty.process.wait(20)
        assert time.monotonic() - started < 8
