"""Live, ready, stop: what an operator sees."""

import json
import re
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import psutil  # type: ignore[import-untyped]
import pytest

from models.image import encode_png
from tests.places import Start
from tests.server import (
    ROOT,
    START_S,
    RunningServer,
    Wire,
    assert_error,
    free_port,
    post,
    running_server,
    sample,
)
from tests.tiny import assert_own_result, publish_tiny, random_images

pytestmark = pytest.mark.e2e

IMAGES = random_images(16, seed=4)
PNGS = [encode_png(image) for image in IMAGES]


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/healthz"])
def test_health(client: httpx.Client, path: str) -> None:
    assert client.get(path).status_code == 200


def test_openapi_names_what_is_answered(client: httpx.Client) -> None:
    """Every path that it names is answered, and every name in braces is a declared parameter."""
    paths = client.get("/docs.json").json()["paths"]
    assert {"/classify", "/predict", "/v2", "/v2/models/{name}/infer"} <= set(paths)
    for path, methods in paths.items():
        if not path.startswith(("/v2", "/predict", "/pixels", "/models")):
            continue
        for method, operation in methods.items():
            declared = {p["name"] for p in operation["parameters"] if p["in"] == "path"}
            assert declared == set(re.findall(r"{(\w+)}", path)), path
            response = client.request(method, path.format(name="tiny", version="1", number="0"))
            assert response.status_code in (200, 400, 403), path


def test_metrics_names(client: httpx.Client) -> None:
    client.post("/predict", content=PNGS[0])
    client.post("/predict", content=b"no image")
    client.post("/models/large/predict", content=PNGS[0])
    text = client.get("/metrics").text
    for name in (
        'foveal_requests_total{model="tiny",protocol="predict",status="200",version="1"}',
        'foveal_requests_total{model="tiny",protocol="predict",status="400",version="1"}',
        'foveal_requests_total{model="",protocol="predict",status="404",version=""}',
        'foveal_request_seconds_count{model="tiny",version="1"}',
        'foveal_decode_seconds_count{model="tiny",version="1"}',
        'foveal_queue_seconds_count{model="tiny",version="1"}',
        'foveal_run_seconds_count{model="tiny",version="1"}',
        'foveal_run_seconds_bucket{le="0.001",model="tiny",version="1"}',
        'foveal_batch_rows_bucket{le="64.0",model="tiny",version="1"}',
        'foveal_queue_rows{model="tiny",version="1"}',
        'foveal_dropped_rows_total{model="tiny",version="1"}',
        'foveal_model_info{device="cpu",model="tiny",precision="fp32"',
    ):
        assert f"\n{name}" in text, name


def test_metrics_count_each_stage_once(client: httpx.Client) -> None:
    names = {
        "foveal_requests_total": 1,
        "foveal_request_seconds_count": 1,
        "foveal_decode_seconds_count": 1,
        "foveal_queue_seconds_count": 1,
        "foveal_run_seconds_count": 1,
        "foveal_batch_rows_sum": 1,
    }
    before = client.get("/metrics").text
    client.post("/models/tiny/versions/2/predict", content=PNGS[0])
    after = client.get("/metrics").text
    counted = {
        name: sample(after, name, version="2") - sample(before, name, version="2") for name in names
    }
    assert counted == names


@pytest.mark.skipif(sys.platform != "linux", reason="workers are forked on Linux alone")
def test_a_forked_worker_holds_the_listening_socket_and_nothing_else(
    server: RunningServer,
) -> None:
    [worker] = server.workers()
    supervisor = psutil.Process(server.process.pid)
    assert worker.cmdline() == supervisor.cmdline(), "it is not forked"
    held = [
        {str(path.readlink()) for path in Path(f"/proc/{process.pid}/fd").iterdir()}
        for process in (supervisor, worker)
    ]
    shared = [name for name in held[0] & held[1] if name.startswith(("socket:", "pipe:"))]
    assert len(shared) == 1
    [listener] = (c for c in worker.net_connections("tcp") if c.status == "LISTEN")
    assert str(Path(f"/proc/{worker.pid}/fd/{listener.fd}").readlink()) == shared[0]


def test_one_corrupt_model(tmp_path: Path) -> None:
    """Not ready, and says which and why; the models that are whole answer."""
    root = tmp_path / "repository"
    publish_tiny(root, "whole")
    publish_tiny(root, "broken")
    publish_tiny(root, "half")
    publish_tiny(root, "half")
    for version in (root / "broken/1", root / "half/2"):
        model = version / "model.onnx"
        model.write_bytes(model.read_bytes()[:-1])
    with running_server(root, tmp_path, is_ready=False, default_model="whole") as server:
        readiness = httpx.get(f"{server.url}/readyz")
        assert_error(readiness, 503, ".")
        assert httpx.get(f"{server.url}/livez").status_code == 200
        for path in ("/predict", "/models/whole/predict", "/models/half/predict"):
            said = httpx.post(server.url + path, content=PNGS[0]).json()
            assert said["version"] == 1
            assert_own_result(said["results"][0], IMAGES[0])
        answer = httpx.post(f"{server.url}/models/broken/predict", content=PNGS[0])
        assert_error(answer, 503, 'model "broken": no version could be loaded; see the log')
        assert server.metric("foveal_model_refused", model="broken", version="1") == 1
        assert server.metric("foveal_model_refused", model="half", version="2") == 1
        assert "broken:1 refused" in server.log
        assert 'not ready: model "broken": no version could be loaded' in server.log
        assert "ready after" not in server.log
        assert "expected the sha256" in server.log


def test_stop_under_load_answers_every_request(tiny_repository: Path, tmp_path: Path) -> None:
    """16 clients in a closed loop: whoever sent a request gets its answer."""
    clients = 16
    answered = [0] * clients
    failures: list[str] = []
    is_warm = threading.Barrier(clients + 1)

    def ask(i: int) -> None:
        request = post("/predict", PNGS[i])
        try:
            with Wire(server) as wire:
                while True:
                    answer = wire.send(request).answer()
                    if answer.status != 200:
                        failures.append(f"client {i}: {answer}")
                        return
                    assert_own_result(answer.json()["results"][0], IMAGES[i])
                    answered[i] += 1
                    if answered[i] == 20:
                        is_warm.wait(30)
                    if answer.headers.get("connection") == "close":
                        if not wire.is_closed():
                            failures.append(f"client {i}: more than the last answer")
                        return
        except BaseException as error:
            failures.append(f"client {i} after {answered[i]} answers: {error!r}")

    with running_server(tiny_repository, tmp_path) as server:
        threads = [threading.Thread(target=ask, args=(i,)) for i in range(clients)]
        for thread in threads:
            thread.start()
        is_warm.wait(30)
        time.sleep(0.2)
        server.signal_stop()
        for thread in threads:
            thread.join(30)
        assert server.process.wait(30) == 0, server.log
    assert not failures, failures
    assert min(answered) > 20
    assert "drain time-out" not in server.log


def test_stop_answers_what_waits_and_refuses_what_is_new(
    tiny_repository: Path, tmp_path: Path
) -> None:
    """Rows held back by the queue delay, pipelines and half a request, all at the stop."""
    with running_server(tiny_repository, tmp_path, max_queue_delay_ms=400) as server:
        with Wire(server) as one, Wire(server) as many, Wire(server) as late, Wire(server) as idle:
            one.send(post("/predict", PNGS[0]))
            many.send(*(post("/predict", png) for png in PNGS[1:5]))
            request = post("/predict", PNGS[5])
            late.send(request[:50])
            time.sleep(0.1)
            server.signal_stop()
            late.send(request[50:])
            assert_own_result(one.answer().json()["results"][0], IMAGES[0])
            assert one.is_closed()
            for i in range(1, 5):
                answer = many.answer()
                assert_own_result(answer.json()["results"][0], IMAGES[i])
                assert (answer.headers.get("connection") == "close") == (i == 4)
            assert many.is_closed()
            answer = late.answer()
            assert_own_result(answer.json()["results"][0], IMAGES[5])
            assert answer.headers["connection"] == "close"
            assert late.is_closed()
            assert idle.is_closed()
        assert server.process.wait(30) == 0, server.log


def test_stop_cuts_who_never_finishes(tiny_repository: Path, tmp_path: Path) -> None:
    with (
        running_server(tiny_repository, tmp_path, drain_timeout_s=1) as server,
        Wire(server) as wire,
    ):
        wire.send(post("/predict", PNGS[0])[:-5])
        time.sleep(0.1)
        server.signal_stop()
        assert server.process.wait(15) == 0, server.log
    assert "1 connections cut: drain time-out" in server.log


def test_two_workers_give_the_same_bytes(server: RunningServer, two_workers: RunningServer) -> None:
    def count() -> float:
        time.sleep(0.5)  # the other worker's tallies are that old
        return two_workers.metric("foveal_requests_total", model="tiny", status="200")

    with Wire(server) as wire:
        expected = [wire.send(post("/predict", png)).answer().body for png in PNGS]
    before = count()
    for _ in range(10):
        for i, png in enumerate(PNGS):
            with Wire(two_workers) as wire:
                assert wire.send(post("/predict", png)).answer().body == expected[i]
    assert count() == before + 160
    assert two_workers.log.count("ready after") == 2


def test_a_start_without_its_model_ends_at_once(tiny_repository: Path, tmp_path: Path) -> None:
    """In the supervisor, also of plain ``bentoml serve``: workers would be replaced for ever."""
    for variables, said in (
        ({"FOVEAL_DEFAULT_MODEL": "tinny"}, "FOVEAL_DEFAULT_MODEL: expected one of tiny, got 't"),
        ({}, f"{tmp_path}/gone: expected a folder"),
    ):
        repository = tiny_repository if variables else tmp_path / "gone"
        log = tmp_path / "log"
        process = Start(repository, tmp_path, free_port(), variables=variables).fork(log)
        assert process.wait(START_S) == 1
        assert said in log.read_text().splitlines()[-1]
        assert "Traceback" not in log.read_text() and "another one starts" not in log.read_text()


# Imports what takes long once, then starts the service in a fork of its own for each line.
START = """
import asyncio, json, os, sys
import bentoml, _bentoml_impl.server.app, service.session.session
async def start():
    from service.app import Foveal
    Foveal.inner()
for line in sys.stdin:
    child = os.fork()
    if not child:
        os.environ.update(json.loads(line))
        asyncio.run(start())
        sys.exit()
    print("ended with", os.waitpid(child, 0)[1], file=sys.stderr, flush=True)
"""


def test_wrong_settings_are_named(tiny_repository: Path, tmp_path: Path) -> None:
    cases = [
        ({"FOVEAL_MAX_BATCH_SIZE": "0"}, "FOVEAL_MAX_BATCH_SIZE"),
        ({"FOVEAL_MODELS": "/nowhere"}, "/nowhere"),
        ({"FOVEAL_DEFAULT_MODEL": "large"}, "FOVEAL_DEFAULT_MODEL: expected one of tiny"),
    ]
    done = subprocess.run(
        [sys.executable, "-c", START],
        cwd=ROOT,
        env={
            "PATH": "/usr/bin:/bin",
            "BENTOML_HOME": str(tmp_path),
            "FOVEAL_MODELS": str(tiny_repository),
        },
        input="\n".join(json.dumps(variables) for variables, _ in cases),
        capture_output=True,
        text=True,
        check=True,
    )
    said = re.findall(r"^(.*)\nended with (\d+)$", done.stderr, re.MULTILINE)
    assert len(said) == len(cases), done.stderr
    for (last_line, status), (_, match) in zip(said, cases, strict=True):
        assert match in last_line and status != "0", done.stderr


def test_nothing_phones_home(
    tiny_repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """BentoML sends usage data over HTTPS, at the start and at the end: a proxy would be asked."""
    for name in ("no_proxy", "NO_PROXY", "BENTOML_DO_NOT_TRACK"):
        monkeypatch.delenv(name, raising=False)
    with socket.create_server(("127.0.0.1", 0)) as proxy:
        proxy.setblocking(False)
        monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{proxy.getsockname()[1]}")
        with running_server(tiny_repository, tmp_path):
            pass
        with pytest.raises(BlockingIOError):
            proxy.accept()


@pytest.mark.parametrize("module", ["service.session.session", "foveal"])
def test_onnxruntime_keeps_no_telemetry(tmp_path: Path, module: str) -> None:
    """With its telemetry on, onnxruntime's import starts a thread and a database below HOME."""
    program = (
        f"import os, {module}\n"
        "before = len(os.listdir('/proc/self/task'))\n"
        "import onnxruntime\n"
        "options = onnxruntime.SessionOptions()\n"
        "options.intra_op_num_threads = options.inter_op_num_threads = 1\n"
        "onnxruntime.InferenceSession('models/fashion-fcnn/2/model.onnx', options)\n"
        "assert len(os.listdir('/proc/self/task')) == before, os.listdir('/proc/self/task')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env={"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "OPENBLAS_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert not list(tmp_path.rglob("*onnxruntime*")), "a database of events"
