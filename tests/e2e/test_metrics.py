"""Numbers of a service are its own and whole: beside other services, over workers that die."""

import contextlib
import math
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil  # type: ignore[import-untyped]
import pytest
import yaml

from loadtest.serving import running_service
from models.image import encode_png
from models.repository import ModelRepository
from models.rollout import Rollout, Share
from tests.deploy.watched import configured, running_prometheus
from tests.e2e.triton import triton
from tests.guarded import until
from tests.server import (
    ROOT,
    START_S,
    RunningServer,
    Wire,
    free_port,
    post,
    running_server,
    sample,
)
from tests.tiny import model_without_black, publish_tiny, random_images

pytestmark = pytest.mark.e2e

WORKERS = 2
IMAGES = random_images(4, seed=41)
PNG = encode_png(IMAGES[0])
BLACK = encode_png(np.zeros((8, 8, 1), np.uint8))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    root = folder / "models"
    publish_tiny(root)
    publish_tiny(root, "black", model=model_without_black())
    publish_tiny(root, "black", model=model_without_black())
    repository = ModelRepository(root)
    repository.set_default("tiny")
    repository.set_default("black", 1)
    repository.set_rollout("black", Rollout(shadow=Share(2, 1.0)))
    return folder


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[RunningServer]:
    with running_server(
        folder / "models", folder, workers=WORKERS, grpc_port=free_port(), max_batch_size=8
    ) as running:
        line = "ready after"
        until(lambda: running.log.count(line) == WORKERS, line, START_S)
        yield running


def ask(server: RunningServer, count: int, path: str = "/predict", body: bytes = PNG) -> None:
    """Ask on connections that are open at once: every worker gets some."""
    with contextlib.ExitStack() as stack:
        wires = [stack.enter_context(Wire(server)) for _ in range(8)]
        for i in range(count):
            wires[i % 8].send(post(path, body))
        for i in range(count):
            assert wires[i % 8].answer().status in (200, 400, 500)


def answered(server: RunningServer, model: str = "tiny") -> float:
    return server.metric("foveal_requests_total", model=model, status="200")


def folders(server: RunningServer) -> list[Path]:
    return list((server.log_path.parent / "bentoml/foveal_metrics").iterdir())


@pytest.mark.thorough
def test_services_of_one_user_keep_their_numbers(
    server: RunningServer, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A real Prometheus sees no number fall when a second service starts, and ends."""
    ask(server, 40)
    until(lambda: answered(server) == 40, "not all requests are counted", 10)
    home = server.log_path.parent / "bentoml"
    foreign = home / "prometheus_multiproc_dir/counter_1.db"  # of another service of BentoML's
    foreign.parent.mkdir(exist_ok=True)
    foreign.write_bytes(b"")
    monkeypatch.setenv("BENTOML_HOME", str(home))
    config = configured(folder, f"127.0.0.1:{server.port}")
    with running_prometheus(config, folder) as prometheus:

        def query(expression: str) -> dict[str, float]:
            said = httpx.get(f"{prometheus}/api/v1/query", params={"query": expression}).json()
            result: list[dict[str, Any]] = said["data"]["result"]
            return {one["metric"].get("instance", ""): float(one["value"][1]) for one in result}

        first = f"127.0.0.1:{server.port}"
        total = 'sum by (instance) (foveal_requests_total{model="tiny",status="200"})'
        until(lambda: query(total) == {first: 40}, "Prometheus has not seen the first", 20)
        words = [sys.executable, str(ROOT / "foveal.py"), "serve", "--workers", "1"]
        words += ["--models", str(folder / "models")]
        with running_service(words, folder / "second.log") as url:
            assert foreign.exists()
            assert len(folders(server)) == 2
            second = url.removeprefix("http://")
            document = yaml.safe_load(config.read_text())
            [job] = document["scrape_configs"]
            job["static_configs"] = [{"targets": [first, second]}]
            config.write_text(yaml.safe_dump(document))
            [process] = [p for p in psutil.Process().children() if p.name() == "prometheus"]
            process.send_signal(signal.SIGHUP)
            for _ in range(5):
                assert httpx.post(f"{url}/predict", content=PNG).status_code == 200
            until(lambda: query(total) == {first: 40, second: 5}, "numbers are mixed", 20)
        assert len(folders(server)) == 1, "a service that ended leaves no folder"
        ask(server, 2)
        until(lambda: query(total).get(first) == 42, "numbers of the first are gone", 20)
        fallen = query('sum by (instance) (resets(foveal_requests_total{model="tiny"}[5m]))')
        assert set(fallen.values()) == {0}


def test_gauges_end_with_their_worker(server: RunningServer) -> None:
    """At once, not when its successor is there; what it counted stays."""
    before = answered(server) + 16
    ask(server, 16)
    until(lambda: answered(server) == before, "not all requests are counted", 10)
    [folder] = folders(server)
    victim, _ = psutil.Process(server.process.pid).children()
    assert list(folder.glob(f"gauge_live*_{victim.pid}.db"))
    victim.kill()
    line = f"worker {victim.pid} ended by SIGKILL"
    until(lambda: line in server.log, line, 10)
    assert not list(folder.glob(f"gauge_live*_{victim.pid}.db"))
    until(lambda: server.log.count("ready after") == WORKERS + 1, "no successor", START_S)
    until(lambda: answered(server) == before, "what a dead worker counted is gone", 10)


@pytest.mark.parametrize("wire", ["http-json", "grpc"])
def test_v2_counts_over_workers(server: RunningServer, wire: str) -> None:
    def counted() -> tuple[int, int, int]:
        """Ask on a connection of its own; each of a few must say the same."""
        said = set()
        for _ in range(6):
            with triton(server, wire) as client:
                options = {"as_json": True} if wire == "grpc" else {}
                found = client.get_inference_statistics("tiny", **options)["model_stats"]
            [model] = found
            runs = sum(int(b["compute_infer"]["count"]) for b in model["batch_stats"])
            assert runs == int(model["execution_count"])
            assert int(model["last_inference"]) > 0
            stats = model["inference_stats"]
            failed = int(stats["fail"].get("count", 0))
            said.add((int(model["inference_count"]), int(stats["success"]["count"]), failed))
        [only] = said
        return only

    total = server.metric("foveal_requests_total", model="tiny") + 2
    ask(server, 2)
    until(
        lambda: server.metric("foveal_requests_total", model="tiny") == total,
        "not all requests are counted",
        10,
    )
    rows, good, failed = counted()
    assert good + failed == total
    ask(server, 32)
    ask(server, 8, body=b"no image")
    until(
        lambda: server.metric("foveal_requests_total", model="tiny") == total + 40,
        "not all requests are counted",
        10,
    )
    assert counted() == (rows + 32, good + 32, failed + 8)
    victim, _ = psutil.Process(server.process.pid).children()
    starts = server.log.count("ready after")
    victim.kill()
    until(lambda: server.log.count("ready after") == starts + 1, "no successor", START_S)
    assert counted() == (rows + 32, good + 32, failed + 8)


def test_no_counter_is_ever_no_number(server: RunningServer) -> None:
    ask(server, 16, "/models/black/predict", BLACK)
    ask(server, 8, "/models/black/predict")
    until(
        lambda: server.metric("foveal_shadow_rows_total", model="black", outcome="agreed") > 0,
        "nothing is compared",
        10,
    )
    text = httpx.get(f"{server.url}/metrics").text
    assert sample(text, "foveal_not_finite_rows_total", model="black") == 16
    values = [float(line.rpartition(" ")[2]) for line in text.splitlines() if line[0] != "#"]
    assert values and all(map(math.isfinite, values))
