"""nginx in front of the real service, with the configuration that is shipped.

That the end-to-end suite passes through it, too, is in ``test_bento``.
"""

import contextlib
import re
import socket
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from loadtest.serving import free_port
from models.image import encode_png
from service.settings import MOST_BODY_BYTES, Settings
from tests.overloaded import rows_of, slow_model
from tests.places import NGINX_CONF, Front, has_nginx, nginx
from tests.server import RunningServer, Wire, assert_error, post, running_server
from tests.tiny import assert_own_result, publish_tiny, random_images

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(not has_nginx(), reason="needs Debian's nginx"),
]
CONF = NGINX_CONF.read_text()
IMAGE = random_images(1, seed=5)[0]
PNG = encode_png(IMAGE)
LIMIT = MOST_BODY_BYTES


@pytest.fixture(scope="module")
def front(server: RunningServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Front]:
    with nginx(server.port, 0, tmp_path_factory.mktemp("nginx")) as front:
        yield front


@pytest.fixture
def client(front: Front) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=f"http://127.0.0.1:{front.port}", timeout=30) as client:
        yield client


def given(directive: str) -> list[float]:
    """Every value of a directive, bytes or seconds."""
    units = {"": 1, "s": 1, "m": 1 << 20, "h": 3600}
    found = re.findall(rf"^\s+{directive} (\d+)([smh]?);", CONF, re.MULTILINE)
    return [float(number) * units[unit] for number, unit in found]


def test_its_limits_follow_the_service_s() -> None:
    default = {name: field.default for name, field in Settings.model_fields.items()}
    assert given("client_max_body_size") == [MOST_BODY_BYTES, 0]
    proxied, _health = given("proxy_read_timeout")
    assert proxied > max(default["request_timeout_s"], default["drain_timeout_s"])
    upstreams, behind = given("keepalive_timeout")[:2], given("keepalive_timeout")[2:]
    assert max(upstreams) < default["keep_alive_s"]
    assert behind == [default["keep_alive_s"]]
    assert given("client_body_timeout")[0] == default["receive_timeout_s"]


@pytest.mark.thorough
def test_connections_to_the_service_are_used_again(server: RunningServer, front: Front) -> None:
    """Clients that connect anew for every request; the service sees the same few connections."""
    before = server.client_ports()
    seen: set[int] = set()
    for _ in range(50):
        with Wire(RunningServer(front.port, server.process, server.log_path)) as wire:
            answer = wire.send(post("/predict", PNG)).answer()
            assert_own_result(answer.json()["results"][0], IMAGE)
        seen |= server.client_ports() - before
    assert 1 <= len(seen) <= 2, seen


def test_a_body_above_the_limit_is_refused_by_its_length(front: Front) -> None:
    """Before any of it was sent."""
    with socket.create_connection(("127.0.0.1", front.port), timeout=15) as connection:
        head = f"POST /predict HTTP/1.1\r\nHost: a\r\nContent-Length: {LIMIT + 1}\r\n\r\n"
        connection.sendall(head.encode())
        answer = connection.recv(65536)
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b"content-type: application/json" in answer.lower()
    assert answer.endswith(
        b'{"error":"body: expected at most %d bytes, got more; send a smaller image"}' % LIMIT
    )


@pytest.mark.parametrize("is_chunked", [False, True])
def test_a_body_of_the_limit_gets_to_the_service(client: httpx.Client, is_chunked: bool) -> None:
    body = bytes(LIMIT)
    content = (body[i : i + (1 << 20)] for i in range(0, LIMIT, 1 << 20)) if is_chunked else body
    assert_error(client.post("/predict", content=content), 400, "expected JPEG, PNG, WebP, GIF")


def test_a_chunked_body_above_the_limit_is_refused(client: httpx.Client) -> None:
    content = (bytes(1 << 20) for _ in range(33))
    with contextlib.suppress(httpx.WriteError):  # it may hang up on who goes on sending
        assert_error(client.post("/predict", content=content), 413, f"at most {LIMIT} bytes")


def test_refusals_and_not_ready_are_passed_on(tmp_path: Path) -> None:
    root = tmp_path / "models"
    publish_tiny(root, "whole", slow_model())
    publish_tiny(root, "broken")
    (root / "broken/1/model.onnx").write_bytes(b"")
    with (
        running_server(
            root,
            tmp_path,
            is_ready=False,
            default_model="whole",
            threads=1,
            max_batch_size=1,
            max_wait_ms=1,
        ) as narrow,
        nginx(narrow.port, 0, tmp_path) as front,
        httpx.Client(base_url=f"http://127.0.0.1:{front.port}") as client,
        Wire(RunningServer(front.port, narrow.process, narrow.log_path)) as first,
        Wire(RunningServer(front.port, narrow.process, narrow.log_path)) as second,
    ):
        first.send(rows_of("whole", 500))  # as many runs
        while narrow.metric("foveal_queue_rows") < 1:
            pass
        full = second.send(post("/predict", PNG)).answer()
        assert_error(full, 429, "^queue: expected a wait of at most 1 ms")
        assert int(full.headers["retry-after"]) >= 1
        assert first.answer().status == 200
        second.send(post("/predict", PNG))
        assert_own_result(second.answer().json()["results"][0], IMAGE)
        assert client.get("/readyz").status_code == 503
        assert client.get("/livez").status_code == 200


def test_a_service_that_is_gone_is_said_in_the_one_shape(tmp_path: Path) -> None:
    with nginx(free_port(), 0, tmp_path) as front:
        gone = httpx.post(f"http://127.0.0.1:{front.port}/predict", content=PNG)
        assert_error(gone, 502, "service: expected an answer, got none")


def test_a_restarted_service_fails_no_request(tiny_repository: Path, tmp_path: Path) -> None:
    """nginx holds connections that the old service has closed; a POST on one is sent once more."""
    port = free_port()
    with nginx(port, 0, tmp_path) as front:
        url = f"http://127.0.0.1:{front.port}/predict"
        for turn in ("first", "second"):
            folder = tmp_path / turn
            folder.mkdir()
            with running_server(tiny_repository, folder, port=port):
                for _ in range(20):
                    answer = httpx.post(url, content=PNG)
                    assert_own_result(answer.json()["results"][0], IMAGE)


def test_metrics_are_for_this_machine(client: httpx.Client) -> None:
    assert "foveal_requests_total" in client.get("/metrics").text
    assert re.search(r"location = /metrics \{[^}]*deny all;", CONF)
