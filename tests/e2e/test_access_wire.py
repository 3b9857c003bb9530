"""Cross-origin rules and TLS, on the real service."""

import ssl
import subprocess

import httpx
import pytest
from tritonclient.grpc import service_pb2, service_pb2_grpc

from tests.certificates import make_certificate
from tests.guarded import IMAGE, PAGE, PREFLIGHT, Guarded, until


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
