"""A real Prometheus, with the rules as shipped, that scrapes a real service under load.

The load has everything that a panel or an alert looks at: two versions, a shadow and a canary, a
version that is refused, every protocol, mistakes of clients, full queues, passed deadlines.
"""

import contextlib
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import yaml

from models.artifact import ModelArtifact
from models.evidence import Metrics, Statistics
from models.image import encode_png
from models.promote import begin
from models.promotion import Limits, new_promotion
from models.repository import ModelRepository
from models.rollout import Rollout, Share
from tests.deploy.programs import program
from tests.e2e.triton import triton
from tests.overloaded import slow_model
from tests.server import ROOT, RunningServer, free_port, running_server, sample
from tests.tiny import LABELS, build_tiny, publish_tiny, random_images, tiny_model

PROMETHEUS = ROOT / "deploy" / "prometheus"
[GROUP] = yaml.safe_load((PROMETHEUS / "alerts.yaml").read_text())["groups"]
RULES: list[dict[str, Any]] = GROUP["rules"]
SCRAPE_S = 0.5
# Of a rate; the load goes on for as long before it is looked at, and for LOAD_S then.
WINDOW_S, LOAD_S, MAX_LOAD_S = 5.0, 8.0, 90.0
IMAGES = random_images(16, seed=5)
PNGS = [encode_png(image) for image in IMAGES]
STATISTICS = Statistics(1000, 90.0, 60.0, (0.7, 0.1, 0.1, 0.1), 0.5)
METRICS = Metrics("test", 1000, 0.99, (0.99,) * len(LABELS), 0.02)
MAX_WAIT_MS = 1


@dataclass(frozen=True, slots=True)
class Watched:
    """A service and the Prometheus that watched it; the load is over, both are still there."""

    server: RunningServer
    url: str
    start_s: float
    end_s: float

    def ask(self, path: str, **parameters: str) -> Any:
        """Ask Prometheus' API and return the data."""
        said = httpx.get(f"{self.url}/api/v1/{path}", params=parameters, timeout=30).json()
        assert said["status"] == "success", said
        return said["data"]

    def during_load(self, expression: str) -> list[tuple[dict[str, str], list[float]]]:
        """Return each series of an expression, as labels and values, while there was load."""
        result = self.ask(
            "query_range",
            query=expression,
            start=f"{self.start_s:.3f}",
            end=f"{self.end_s:.3f}",
            step="1",
        )["result"]
        return [(s["metric"], [float(value) for _, value in s["values"]]) for s in result]


def build_repository(root: Path) -> None:
    """Two versions of ``tiny``, the first pinned, one refused; one of ``slow``, one of ``dim``.

    Version 2 of ``rising`` is being promoted.
    """

    def build(gain: float) -> Callable[[Path, int], ModelArtifact]:
        def made(folder: Path, version: int) -> ModelArtifact:
            artifact = build_tiny(folder, "tiny", version, tiny_model(gain=gain), gain)
            return replace(artifact, statistics=STATISTICS, metrics=METRICS)

        return made

    repository = ModelRepository(root)
    for gain in (1.0, -1.0, 3.0):
        repository.publish("tiny", build(gain))
    (root / "tiny/3/model.onnx").write_bytes(b"not a model")
    publish_tiny(root, "slow", tiny_model(is_slow=True))
    publish_tiny(root, "dim", slow_model(), lower={"int8": 3.0})
    repository.set_default("tiny")
    repository.set_default("tiny", 1)
    repository.set_rollout("tiny", Rollout(shadow=Share(2, 0.5), canary=Share(2, 0.3)))
    for gain in (1.0, 2.0):
        publish_tiny(root, "rising", gain=gain)
    promotion = new_promotion(
        2,
        1,
        Limits(max_flips=0.01, p99_ms=1000),
        first_share=0.2,
        shadow=0.5,
        within_s=3600,
        step_s=None,
        now_s=time.time(),
    )
    repository.set_default("rising", 1)
    begin(repository, "rising", promotion)


def configured(folder: Path, target: str) -> Path:
    """Copy the configuration, with another target and a shorter interval, and return it."""
    shutil.copy(PROMETHEUS / "alerts.yaml", folder)
    config = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text())
    config["global"] = {"scrape_interval": "500ms", "evaluation_interval": "500ms"}
    [job] = config["scrape_configs"]
    job["static_configs"] = [{"targets": [target]}]
    path = folder / "prometheus.yml"
    path.write_text(yaml.safe_dump(config))
    return path


@contextlib.contextmanager
def running_prometheus(config: Path, folder: Path) -> Iterator[str]:
    """Start Prometheus and give its address."""
    port = free_port()
    log_path = folder / "prometheus.log"
    with log_path.open("wb") as log:
        process = subprocess.Popen(
            [
                program("prometheus"),
                f"--config.file={config}",
                f"--storage.tsdb.path={folder / 'data'}",
                f"--web.listen-address=127.0.0.1:{port}",
            ],
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd=folder,
        )
    try:
        url = f"http://127.0.0.1:{port}"
        deadline = time.monotonic() + 30
        while True:
            assert process.poll() is None and time.monotonic() < deadline, log_path.read_text()
            with contextlib.suppress(httpx.TransportError):
                if httpx.get(f"{url}/-/ready").status_code == 200:
                    break
            time.sleep(0.1)
        yield url
    finally:
        process.terminate()
        process.wait(20)


def is_enough(server: RunningServer) -> bool:
    """Whether what depends on the machine's speed has been counted often enough."""
    text = httpx.get(f"{server.url}/metrics").text
    return (
        sample(text, "foveal_drift_rows_total", model="tiny", version="1") > 600
        and sample(text, "foveal_drift_rows_total", model="rising", version="2") > 20
        and sample(text, "foveal_requests_total", model="slow", status="429") > 20
        and sample(text, "foveal_requests_total", model="slow", status="504") > 5
        and sample(text, "foveal_refusals_total", model="slow", reason="wait") > 5
        and sample(text, "foveal_shadow_rows_total", outcome="differed") > 20
        and sample(text, "foveal_feedback_pairs_total", outcome="worse") > 0
    )


def send_load(server: RunningServer) -> float:
    """Send everything that is watched, from a few clients side by side.

    Returns:
        The time from which on every rate is of counters that were there in all of its window: one
        that begins within it is extrapolated otherwise, and a share of two such may be above 1.
    """
    start = time.monotonic()
    is_over = threading.Event()
    failures: list[BaseException] = []

    def repeat(what: Callable[[httpx.Client], None], pause_s: float) -> None:
        try:
            with httpx.Client(base_url=server.url, timeout=30) as client:
                while not is_over.is_set():
                    what(client)
                    time.sleep(pause_s)
        except BaseException as error:
            failures.append(error)

    jobs = [(_singles, 0.05), (_many, 0.03), (_mistakes, 0.1), (_photographs, 0.1), (_truths, 0.1)]
    jobs += [(_floods, 0.02)] * 4
    threads = [threading.Thread(target=repeat, args=job) for job in jobs]
    for thread in threads:
        thread.start()
    with triton(server, "grpc") as client:
        while not is_enough(server):
            client.infer("tiny", [client.input(IMAGES[:4])])
            time.sleep(0.05)
            assert time.monotonic() < start + MAX_LOAD_S, httpx.get(f"{server.url}/metrics").text
        watched_s = time.time() + SCRAPE_S + WINDOW_S
        while time.time() < watched_s + LOAD_S:
            client.infer("tiny", [client.input(IMAGES[:4])])
            time.sleep(0.05)
    is_over.set()
    for thread in threads:
        thread.join()
    assert not failures, failures
    return watched_s


def _singles(client: httpx.Client) -> None:
    for png in PNGS[:4]:
        for path in ("/predict", "/models/rising/predict"):
            assert client.post(path, content=png).status_code == 200
    files = {f"image{i}": png for i, png in enumerate(PNGS)}
    assert client.post("/predict", files=files).status_code == 200


def _many(client: httpx.Client) -> None:
    """A tensor of many rows: what drift is told by."""
    answer = client.post(
        "/v2/models/tiny/versions/1/infer",
        content=IMAGES.tobytes(),
        headers={"Inference-Header-Content-Length": "0"},
    )
    assert answer.status_code == 200, answer.text


def _mistakes(client: httpx.Client) -> None:
    assert client.post("/predict", content=b"no image").status_code == 400
    assert client.post("/models/none/predict", content=PNGS[0]).status_code == 404


def _truths(client: httpx.Client) -> None:
    """Say that every image is of the second label, some time after their answers."""
    ids = [client.post("/predict", content=png).headers["x-request-id"] for png in PNGS]
    time.sleep(0.05)  # the shadow's answers come a little later
    truths = [{"id": name, "index": 1} for name in (*ids, "never-answered")]
    answer = client.post("/models/tiny/feedback", json=truths)
    assert answer.status_code == 200 and len(answer.json()["refused"]) == 1, answer.text


def _photographs(client: httpx.Client) -> None:
    """Images large enough to be decoded on a thread."""
    noise = np.random.default_rng(0).integers(0, 256, (600, 800, 3), dtype=np.uint8)
    assert client.post("/predict", content=encode_png(noise)).status_code == 200


def _floods(client: httpx.Client) -> None:
    """More rows than the queue takes, some of them with no time to wait."""
    shape = (100, *IMAGES.shape[1:])
    for name in ("slow", "dim"):
        answer = client.post(
            f"/v2/models/{name}/infer",
            content=bytes(int(np.prod(shape))),
            headers={"Inference-Header-Content-Length": "0"},
        )
        assert answer.status_code in (200, 429), answer.text
    assert client.post("/models/dim/predict", content=PNGS[0]).status_code in (200, 429)
    files = {f"image{i}": PNGS[0] for i in range(8)}
    hurried = client.post(
        "/models/slow/predict", files=files, headers={"X-Request-Timeout-Ms": "1"}
    )
    assert hurried.status_code in (200, 429, 504), hurried.text


@contextlib.contextmanager
def watched_service(folder: Path) -> Iterator[Watched]:
    """Serve, watch, load; give both when the load is over."""
    build_repository(folder / "models")
    with running_server(
        folder / "models",
        folder,
        workers=2,
        grpc_port=free_port(),
        max_wait_ms=MAX_WAIT_MS,
        brownout="int8",
        feedback_rows=100_000,
        loaded_versions=3,
        buckets="1,16,64",
        record=1,
        record_folder=folder / "recording",
    ) as server:
        config = configured(folder, f"127.0.0.1:{server.port}")
        with running_prometheus(config, folder) as url:
            time.sleep(2 * SCRAPE_S)  # what is there at the start is scraped before it counts
            watched_s = send_load(server)
            time.sleep(2 * SCRAPE_S)
            yield Watched(server, url, watched_s, time.time())


assert len(LABELS) == len(STATISTICS.class_shares)
