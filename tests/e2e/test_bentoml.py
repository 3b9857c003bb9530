"""What of BentoML a client can reach: a few routes that only read, and nothing behind them."""

import json
import os
import pickle
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil  # type: ignore[import-untyped]
import pytest

from models.image import encode_png
from tests.places import ROOT
from tests.server import RunningServer, Wire, assert_error, chunked, get, post, running_server
from tests.tiny import random_images

pytestmark = pytest.mark.e2e

PNG = encode_png(random_images(1)[0])
READ = {"/docs.json", "/schema.json", "/livez", "/readyz", "/healthz", "/metrics"}
PICKLES = (
    "application/vnd.bentoml+pickle",
    "application/vnd.bentoml.pickled",
    "application/vnd.bentoml.multiple_outputs",
    "application/x-pickle",
)


# Run in a process of its own: an application is made once.
SHOW = """
import json
from service.app import Foveal
from service.lane.asgi import BENTOML_PATHS
app = Foveal.to_asgi()
while not hasattr(app, "routes"):
    app = app.app
routes = {
    route.path: [type(route).__name__, *sorted(getattr(route, "methods", None) or [])]
    for route in app.routes
}
timers = [m.cls.__name__ for m in app.user_middleware]
from bentoml._internal.utils.analytics.usage_stats import do_not_track
print(json.dumps([routes, sorted(BENTOML_PATHS), timers, do_not_track()]))
"""


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Any:
    environment = {"PATH": "/usr/bin:/bin", "BENTOML_HOME": str(tmp_path_factory.mktemp("shown"))}
    shown = subprocess.run(
        [sys.executable, "-c", SHOW], cwd=ROOT, env=environment, check=True, capture_output=True
    )
    return json.loads(shown.stdout)


def test_nothing_phones_home(shown: Any) -> None:
    assert shown[3] is True


def test_every_route_that_bentoml_mounts_is_known(shown: Any) -> None:
    """A new BentoML may bring a new one: decide here whether clients may reach it."""
    mounted, passed, middleware, _ = shown
    reads = {path: ["Route", "GET", "HEAD"] for path in READ}
    ours = {"/": ["Route", "GET", "HEAD"], "/classify": ["Route", "POST"]}
    assert mounted == reads | ours | {"/static_content": ["Mount"]}
    assert set(passed) == READ
    # TimeoutMiddleware would leave a timer of each request for the whole time-out.
    assert middleware == [
        "RunnerTrafficMetricsMiddleware",
        "OpenTelemetryMiddleware",
        "ContextMiddleware",
    ]


@pytest.mark.parametrize("path", sorted(READ))
def test_what_reads_is_answered(server: RunningServer, path: str) -> None:
    with Wire(server) as wire:
        answer = wire.send(get(path)).answer()
        assert (answer.status, bool(answer.body)) == (200, True)
        head = wire.send(get(path, method="HEAD")).answer("HEAD")
        assert (head.status, head.body) == (200, b"")


@pytest.mark.parametrize("path", sorted(READ))
def test_what_reads_takes_no_body_and_no_other_method(server: RunningServer, path: str) -> None:
    with Wire(server) as wire:
        wire.send(get(path, "Content-Length: 4"), b"body", get(path, "Content-Length: 0"))
        assert_error(wire.answer(), 400, f"GET {path}: expected no body")
        assert wire.answer().status == 200
        wire.send(chunked(path, b"body").replace(b"POST", b"GET", 1))
        assert_error(wire.answer(), 400, f"GET {path}: expected no body")
        for method in ("POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"):
            answer = wire.send(get(path, method=method)).answer()
            assert_error(answer, 405, f"{method} {path}: method not allowed")
            assert answer.headers["allow"] == "GET, HEAD"
        wire.send(post(path, b"x" * 10_000), get("/livez"))
        assert_error(wire.answer(), 405, f"POST {path}: method not allowed")
        assert wire.answer().status == 200


@pytest.mark.parametrize(
    "path",
    [
        "/static_content/index.css",
        "/static_content/swagger-initializer.js",
        "/static_content/../../../../../../etc/passwd",
        "/static_content/..%2f..%2f..%2f..%2fetc%2fpasswd",
        "/static_content/%2e%2e/%2e%2e/app.py",
        "/static_content//etc/passwd",
        "/static_content/",
        "/static_content/nothing.css",
        "/static_content/index.css/",
        "/static_content/index.css%00",
        "/assets/index.js",
        "/metrics/",
        "//metrics",
        "/%6detrics",
        "/classify/",
        "/classify/submit",
        "/classify/status?task_id=1",
        "/classify/get?task_id=1",
        "/classify/retry?task_id=1",
        "/classify/cancel?task_id=1",
        "/ui",
        "/__call__",
        "/is_ready",
        "/livez/..",
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST", "PUT"])
def test_no_other_path_reaches_bentoml(server: RunningServer, method: str, path: str) -> None:
    with Wire(server) as wire:
        answer = wire.send(get(path, "Content-Length: 0", method=method)).answer()
        assert_error(answer, 404, "no such route")
        assert "server" not in answer.headers


# The forms of the published advisories that come over HTTP. None is read, so none is answered by
# what they were about; each is a client's error.


class Bomb:
    """Leaves a file where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("content_type", PICKLES)
@pytest.mark.parametrize("path", ["/classify", "/", "/predict", "/schema.json", "/v2", "/run"])
def test_nothing_is_unpickled(
    client: httpx.Client, tmp_path: Path, path: str, content_type: str
) -> None:
    """GHSA-hvj5-mvw9-93j3, GHSA-33xw-247w-6hmc: a pickle by its content type."""
    mark = tmp_path / "unpickled"
    body = pickle.dumps(Bomb(mark))
    headers = {"content-type": content_type, "buffer-lengths": str(len(body))}
    answer = client.post(path, content=body, headers=headers)
    assert answer.status_code in (404, 405, 415), answer.text
    files = {"image": ("i", body, content_type), "top": ("t", body, content_type)}
    answer = client.post(path, files=files)
    assert answer.status_code in (400, 404, 405), answer.text
    assert not mark.exists()


@pytest.mark.parametrize("container", ["NdarrayContainer", "PandasDataFrameContainer", "Default"])
@pytest.mark.parametrize("path", ["/", "/classify", "/predict"])
def test_no_route_is_a_runners(
    client: httpx.Client, tmp_path: Path, path: str, container: str
) -> None:
    """GHSA-7v4r-c989-xh26: a runner's payload, named by headers."""
    mark = tmp_path / "unpickled"
    headers = {
        "args-number": "1",
        "content-type": "application/vnd.bentoml.pickled",
        "payload-container": container,
        "payload-meta": '{"format": "default", "with_buffer": false, "pickle_bytes_str": ""}',
        "batch-size": "-1",
        "bento-name": "x",
        "runner-name": "foveal",
    }
    answer = client.post(path, content=pickle.dumps(Bomb(mark)), headers=headers)
    assert answer.status_code in (405, 415), answer.text
    assert not mark.exists()


def test_characters_behind_a_boundary(client: httpx.Client) -> None:
    """GHSA-hw8j-hw49-752c: dashes behind the boundary kept its parser busy for minutes."""
    body = (
        b'--bound\r\nContent-Disposition: form-data; name="image"; filename="i.png"\r\n\r\n'
        + PNG
        + b"\r\n--bound--\r\n"
        + b"-" * (8 << 20)
    )
    headers = {"content-type": "multipart/form-data; boundary=bound"}
    started = time.monotonic()
    assert client.post("/classify", content=body, headers=headers).status_code == 200
    headers = {"content-type": "multipart/form-data; boundary=bound" + "-" * 30_000}
    assert_error(client.post("/classify", content=body, headers=headers), 400, "content-type")
    assert time.monotonic() - started < 5


def test_a_context_is_no_field(client: httpx.Client) -> None:
    """GHSA-68f9-9v8g-6f74: the method's context was taken from the request."""
    context = {"ctx": '{"response": {"status_code": 299}}'}
    answer = client.post("/classify", data=context, files={"image": ("i.png", PNG)})
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/json")


# Metrics


@pytest.fixture(scope="module")
def own(tiny_repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A service whose requests and processes are these tests' alone."""
    with running_server(tiny_repository, tmp_path_factory.mktemp("own")) as running:
        yield running


def test_metrics_are_labelled_by_route(own: RunningServer) -> None:
    """Paths that clients make up add nothing to /metrics, nor to the files that it is read from."""
    with Wire(own, 60) as wire:
        ask_all(wire, "warm", 2, 100)
        before, asked = measured(own), count(own, protocol="none", status="404")
        ask_all(wire, "first", 300, 100)
        ask_all(wire, "long", 5, 60_000)
        assert measured(own) == before
        assert count(own, protocol="none", status="404") == asked + 5 * (300 + 5)


def count(server: RunningServer, **labels: str) -> float:
    return server.metric("foveal_requests_total", **labels)


def metrics_files(server: RunningServer) -> Path:
    [folder] = (server.log_path.parent / "bentoml/foveal_metrics").iterdir()
    return folder


def ask_all(wire: Wire, word: str, count: int, length: int) -> None:
    """Send requests to paths of which each is asked for once, on every route that takes a name."""
    for i in range(count):
        name = f"{word}-{i}-".ljust(length, "x")
        requests = [
            *(get(f"/{name}", method=method) for method in ("GET", "DELETE", "PROPFIND")),
            get(f"/static_content/{name}"),
            get(f"/metrics/{name}"),
            post(f"/models/{name}/predict", PNG),
            post(f"/v2/models/{name}/versions/{i}/infer", b"{}"),
            get(f"/v2/models/{name}"),
            get(f"/v2/{name}"),
            get(f"/livez?{name}"),
        ]
        wire.send(*requests)
        statuses = [wire.answer().status for _ in requests]
        assert statuses == [404] * 9 + [200]


def measured(server: RunningServer) -> tuple[set[str], int]:
    """Return the samples of /metrics without their values, and the bytes of the files behind it."""
    lines = httpx.get(f"{server.url}/metrics").text.splitlines()
    files = [f.stat() for f in metrics_files(server).glob("*.db")]
    return {line.rpartition(" ")[0] for line in lines}, sum(f.st_blocks * 512 for f in files)


def test_a_worker_that_is_killed_leaves_no_files_behind(own: RunningServer) -> None:
    def kinds() -> list[str]:
        return sorted(path.name.rpartition("_")[0] for path in metrics_files(own).iterdir())

    def answered() -> float:
        assert httpx.post(f"{own.url}/predict", content=PNG).status_code == 200
        return count(own, status="200")

    before, files = answered(), kinds()
    (worker,) = psutil.Process(own.process.pid).children()
    worker.kill()
    own.wait_ready()
    assert answered() == before + 1
    assert kinds() == files
