"""Keys and the metrics' own port, on the real service."""

import json
import re
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import httpx
import psutil  # type: ignore[import-untyped]
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2_grpc
from tritonclient.grpc import service_pb2, service_pb2_grpc

from docs.foveal_client import Client, FovealError
from models.files import write_atomically
from service.access.keys import add_key
from tests.guarded import ADMIN, IMAGE, PREFLIGHT, Guarded, until
from tests.server import ROOT, RunningServer, assert_error, sample


@pytest.mark.parametrize(
    "path",
    [
        "/livez",
        "/readyz",
        "/healthz",
        "/v2/health/live",
        "/v2/health/ready",
        "/",
        "/docs",
        "/page/app.js",
    ],
)
def test_probes_and_the_page_need_no_key(guarded: Guarded, path: str) -> None:
    assert guarded.request("GET", path).status_code == 200


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/predict"),
        ("POST", "/models/tiny/predict"),
        ("POST", "/classify"),
        ("GET", "/v2"),
        ("GET", "/v2/models/tiny"),
        ("GET", "/v2/models/tiny/ready"),
        ("POST", "/v2/models/tiny/infer"),
        ("POST", "/v2/repository/index"),
        ("GET", "/metrics"),
        ("GET", "/schema.json"),
        ("GET", "/docs.json"),
        ("GET", "/nothing"),
        ("GET", "//livez"),
        ("GET", "/livez/"),
        ("GET", "/livez%00"),
        ("GET", "/%6detrics"),
        ("GET", "/static_content/index.css"),
        ("GET", "/pages/app.js"),
        ("GET", "/models"),
        ("GET", "/models/tiny/versions/1/golden/0"),
        ("POST", "/pixels"),
        ("OPTIONS", "/predict"),
    ],
)
def test_everything_else_needs_a_key(guarded: Guarded, method: str, path: str) -> None:
    for key in ("", "foveal_wrong", ADMIN):
        answer = guarded.request(method, path, key)
        assert_error(answer, 401, "^authorization: expected Bearer and a key")
        assert answer.headers["www-authenticate"] == "Bearer"
    assert guarded.request(method, path, guarded.free).status_code != 401


def test_head_without_a_key_is_refused_without_a_body(guarded: Guarded) -> None:
    answer = guarded.request("HEAD", "/schema.json")
    assert answer.status_code == 401 and not answer.content


def test_key_answers_and_a_known_head_is_asked_again(guarded: Guarded) -> None:
    trusted = ssl.create_default_context(cafile=guarded.server.certificate)
    headers = {"Authorization": f"Bearer {guarded.slow}"}
    with httpx.Client(base_url=guarded.server.url, verify=trusted, headers=headers) as client:
        time.sleep(2.1)  # the key's burst is whole again
        answers = [client.post("/predict", content=IMAGE) for _ in range(12)]
    limited = [answer for answer in answers if answer.status_code == 429]
    assert [answer.status_code for answer in answers[:4]] == [200] * 4
    assert len(limited) >= 6
    assert_error(limited[0], 429, "^key 'slow': expected at most 2 requests/s and 4 at once")
    assert limited[0].headers["retry-after"] == "1"
    assert guarded.predict(guarded.free).status_code == 200


def test_rate_is_one_for_all_workers(guarded: Guarded) -> None:
    time.sleep(2.1)
    started = time.monotonic()
    statuses = [guarded.predict(guarded.slow).status_code for _ in range(20)]
    took_s = time.monotonic() - started
    assert set(statuses) == {200, 429}
    assert statuses.count(200) <= 4 + 2 * took_s + 1


def test_two_credentials_are_none(guarded: Guarded) -> None:
    lines = "".join(f"Authorization: Bearer {key}\r\n" for key in (guarded.free, guarded.slow))
    context = ssl.create_default_context(cafile=guarded.server.certificate)
    with (
        socket.create_connection(("127.0.0.1", guarded.server.port), 5) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as wire,
    ):
        wire.sendall(f"GET /v2 HTTP/1.1\r\nHost: t\r\n{lines}\r\n".encode())
        assert wire.recv(65536).startswith(b"HTTP/1.1 401 ")


def test_request_behind_another_needs_its_own_key(guarded: Guarded) -> None:
    context = ssl.create_default_context(cafile=guarded.server.certificate)
    good = f"GET /v2 HTTP/1.1\r\nHost: t\r\nAuthorization: Bearer {guarded.free}\r\n\r\n"
    with (
        socket.create_connection(("127.0.0.1", guarded.server.port), 5) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as wire,
    ):
        wire.sendall(f"{good}{good}GET /v2 HTTP/1.1\r\nHost: t\r\n\r\n{good}".encode())
        answers = b""
        while answers.count(b"HTTP/1.1 ") < 3 or not answers.endswith(b"}"):
            answers += wire.recv(65536)
    assert re.findall(rb"HTTP/1.1 (\d+) ", answers) == [b"200", b"200", b"401"]


def test_body_without_a_key_is_not_waited_for(guarded: Guarded) -> None:
    context = ssl.create_default_context(cafile=guarded.server.certificate)
    with (
        socket.create_connection(("127.0.0.1", guarded.server.port), 5) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as wire,
    ):
        wire.sendall(
            b"POST /predict HTTP/1.1\r\nHost: t\r\nContent-Length: 30000000\r\n"
            b"Expect: 100-continue\r\n\r\n"
        )
        head = wire.recv(65536)
    assert head.startswith(b"HTTP/1.1 401 ") and b"connection: close" in head


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/models/tiny/traffic"),
        ("PUT", "/models/tiny/traffic"),
        ("POST", "/v2/repository/models/tiny/load"),
        ("POST", "/v2/repository/models/tiny/unload"),
    ],
)
def test_admin_routes_take_the_admin_token_alone(guarded: Guarded, method: str, path: str) -> None:
    assert_error(guarded.request(method, path, guarded.free), 403, "^key 'free': expected the tok")
    assert_error(guarded.request(method, path), 401, "FOVEAL_ADMIN_TOKEN")
    assert_error(guarded.request(method, path, "wrong"), 401, "FOVEAL_ADMIN_TOKEN")


def test_admin_token_opens_its_routes(guarded: Guarded) -> None:
    models = guarded.request("POST", "/v2/repository/index", guarded.free).json()
    path = f"/models/{models[0]['name']}/traffic"
    assert guarded.request("GET", path, ADMIN).status_code == 200


def test_grpc_needs_the_same_keys(guarded: Guarded) -> None:
    def code(call: Callable[..., Any], message: Any, key: str = "") -> Any:
        try:
            metadata = (("authorization", f"Bearer {key}"),) if key else ()
            answer = call(message, timeout=10, metadata=metadata)
            if hasattr(answer, "__next__"):
                list(answer)
        except grpc.RpcError as error:
            assert not key or key not in error.details()
            return error.code()
        return grpc.StatusCode.OK

    status = grpc.StatusCode
    with guarded.channel() as channel:
        v2 = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        health = health_pb2_grpc.HealthStub(channel)
        assert code(health.Check, health_pb2.HealthCheckRequest()) is status.OK
        assert code(v2.ServerLive, service_pb2.ServerLiveRequest()) is status.OK
        assert code(v2.ServerReady, service_pb2.ServerReadyRequest()) is status.OK
        for call, message in (
            (v2.ServerMetadata, service_pb2.ServerMetadataRequest()),
            (v2.ModelInfer, service_pb2.ModelInferRequest(model_name="none")),
            (v2.RepositoryIndex, service_pb2.RepositoryIndexRequest()),
            (v2.ModelStreamInfer, iter(())),
            (reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo, iter(())),
        ):
            assert code(call, message) is status.UNAUTHENTICATED
            assert code(call, message, ADMIN) is status.UNAUTHENTICATED
            assert code(call, message, guarded.free) in (status.OK, status.NOT_FOUND)
        load = service_pb2.RepositoryModelLoadRequest(model_name="none")
        assert code(v2.RepositoryModelLoad, load) is status.UNAUTHENTICATED
        assert code(v2.RepositoryModelLoad, load, guarded.free) is status.PERMISSION_DENIED
        assert code(v2.RepositoryModelLoad, load, ADMIN) is status.NOT_FOUND
        time.sleep(2.1)
        codes = [
            code(v2.ServerMetadata, service_pb2.ServerMetadataRequest(), guarded.slow)
            for _ in range(8)
        ]
        assert codes[:4] == [status.OK] * 4 and status.RESOURCE_EXHAUSTED in codes


def test_grpc_stream_goes_at_the_rate_of_its_key(guarded: Guarded) -> None:
    time.sleep(2.1)
    messages = [service_pb2.ModelInferRequest(model_name="none", id=str(i)) for i in range(7)]
    metadata = (("authorization", f"Bearer {guarded.slow}"),)
    started = time.monotonic()
    with guarded.channel() as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        answers = list(stub.ModelStreamInfer(iter(messages), metadata=metadata, timeout=20))
    assert [answer.infer_response.id for answer in answers] == [str(i) for i in range(7)]
    assert time.monotonic() - started > 1.4  # the last three wait for 0.5 s each


def test_metrics_are_on_their_own_port_alone(guarded: Guarded) -> None:
    assert guarded.predict(guarded.free).status_code == 200
    until(lambda: "foveal_requests_total{" in guarded.metrics().text, "requests in the metrics")
    assert guarded.free not in guarded.metrics().text
    assert_error(guarded.request("GET", "/metrics", guarded.free), 404, "FOVEAL_METRICS_PORT")
    assert_error(guarded.request("GET", "/metrics"), 401, "authorization")


def test_requests_are_counted_by_the_name_of_their_key(guarded: Guarded) -> None:
    def counted(key: str, outcome: str) -> float:
        return sample(guarded.metrics().text, "foveal_key_requests_total", key=key, outcome=outcome)

    before = counted("free", "admitted"), counted("", "refused")
    for _ in range(3):
        assert guarded.predict(guarded.free).status_code == 200
        assert guarded.predict("foveal_wrong").status_code == 401
    until(lambda: counted("free", "admitted") >= before[0] + 3, "three more")
    until(lambda: counted("", "refused") >= before[1] + 3, "three more")
    assert "foveal_wrong" not in guarded.metrics().text


def test_key_that_leaves_the_file_is_refused_and_a_new_one_is_known(guarded: Guarded) -> None:
    """Each worker reads the file by itself, so both are waited for."""
    keys = guarded.folder / "keys.toml"
    said = guarded.server.log.count(f"{keys}: read again")

    def wait_read(times: int) -> None:
        lines = f"{keys}: read again"
        until(lambda: guarded.server.log.count(lines) == said + 2 * times, "both workers", 30)

    new = add_key(keys, "new")
    wait_read(1)
    assert guarded.predict(new).status_code == 200
    write_atomically(keys, keys.read_text() + "[broken")
    until(lambda: guarded.server.log.count("stays in use") == 2, "both workers", 30)
    assert guarded.predict(new).status_code == 200
    write_atomically(keys, keys.read_text().partition("[new]")[0])
    wait_read(2)
    assert guarded.predict(new).status_code == 401
    assert guarded.predict(guarded.free).status_code == 200


def test_own_clients_send_their_key(guarded: Guarded, tmp_path: Path) -> None:
    image = tmp_path / "image.png"
    image.write_bytes(IMAGE)
    trust = {"SSL_CERT_FILE": guarded.server.certificate}

    def run(key: str) -> subprocess.CompletedProcess[str]:
        words = ["predict", str(image), "--url", guarded.server.url, "--json"]
        return subprocess.run(
            [sys.executable, "foveal.py", *words],
            cwd=ROOT,
            env={"PATH": "/usr/bin:/bin", **trust, **({"FOVEAL_API_KEY": key} if key else {})},
            capture_output=True,
            text=True,
            check=False,
        )

    done = run(guarded.free)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["results"][0]["predictions"]
    refused = run("")
    assert refused.returncode == 1 and "FOVEAL_API_KEY" in refused.stderr


def test_without_settings_nothing_is_restricted(server: RunningServer) -> None:
    answer = httpx.post(f"{server.url}/predict", content=IMAGE, headers=PREFLIGHT)
    assert answer.status_code == 200
    assert not [name for name in answer.headers if name.startswith("access-control")]
    assert httpx.options(f"{server.url}/predict", headers=PREFLIGHT).status_code == 405
    assert server.get("/metrics").status_code == 200


def test_python_client_sends_its_key_and_keeps_to_its_rate(guarded: Guarded) -> None:
    trusted = ssl.create_default_context(cafile=guarded.server.certificate)
    with (
        Client(guarded.server.url, verify=trusted) as without,
        pytest.raises(FovealError, match="authorization") as caught,
    ):
        without.predict(IMAGE)
    assert caught.value.status == 401
    with Client(guarded.server.url, guarded.slow, verify=trusted, retries=20) as client:
        results = list(client.predict_many([IMAGE] * 8, batch=1))  # 2 a second, 4 at once
    assert len(results) == 8 and all(result.label for result in results)


def test_metrics_port_outlives_a_worker(guarded: Guarded) -> None:
    main = psutil.Process(guarded.server.process.pid)
    workers = [child for child in main.children(recursive=True) if _listens(child)]
    assert len(workers) == 2
    workers[0].kill()

    def is_answered() -> bool:
        try:
            return "foveal_requests_total{" in guarded.metrics().text
        except httpx.TransportError:  # reset: it was queued at the killed worker
            return False

    until(is_answered, "metrics after a kill", 5)
    until(lambda: sum(map(_listens, main.children(recursive=True))) == 2, "two workers", 60)
    assert guarded.predict(guarded.free).status_code == 200


def _listens(process: Any) -> bool:
    try:
        return len([c for c in process.net_connections("tcp") if c.status == "LISTEN"]) >= 3
    except psutil.Error:
        return False
