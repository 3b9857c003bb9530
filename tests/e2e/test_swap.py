"""Versions come, go and are refused while requests go on; every answer says which version gave it.

A version's gain is its number, so an answer that another version gave would show.
"""

import contextlib
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import onnx
import pytest

from models.image import encode_png
from models.repository import ModelRepository
from tests.guarded import ADMIN
from tests.server import RunningServer, Wire, assert_error, post, running_server
from tests.tiny import build_tiny, publish_tiny, random_images, tiny_model, tiny_probabilities

pytestmark = pytest.mark.e2e

WORKERS = 2
SWAPS = 20
THREADS, CONNECTIONS = 4, 8  # 32 connections
# Each version carries 4 MiB; a worker may keep five of 14 (a leak of sessions kept
# 125 MiB each, allocators and metrics' labels keep about 9)
BALLAST_BYTES = 4 << 20
MEMORY_BYTES = 5 * BALLAST_BYTES
IMAGES = random_images(THREADS * CONNECTIONS, seed=21)
PNGS = [encode_png(image) for image in IMAGES]


def wait_for(is_true: Callable[[], bool], server: RunningServer, what: str) -> None:
    deadline = time.monotonic() + 30
    while not is_true():
        assert time.monotonic() < deadline, f"{what}:\n{server.log}"
        time.sleep(0.02)


def heavy_model(gain: float) -> onnx.ModelProto:
    """A tiny model that holds a large tensor of zeros, and adds one of them to each logit."""
    model = tiny_model(gain=gain)
    zeros = np.zeros(BALLAST_BYTES // 4, np.float32)
    model.graph.initializer.append(onnx.numpy_helper.from_array(zeros, "ballast"))
    score = next(node for node in model.graph.node if node.output[0] == "logits")
    score.output[0] = "scores"
    where = list(model.graph.node).index(score) + 1
    for node in (
        onnx.helper.make_node("Add", ["scores", "nothing"], ["logits"]),
        onnx.helper.make_node("Gather", ["ballast", "first"], ["nothing"]),
        onnx.helper.make_node("ArgMax", ["scores"], ["first"], axis=1),
    ):
        model.graph.node.insert(where, node)
    onnx.checker.check_model(model)
    return model


def publish(root: Path) -> int:
    """Publish a good version whose gain is its number."""
    version = (ModelRepository(root).versions("tiny") or [0])[-1] + 1
    model = heavy_model(float(version))
    assert publish_tiny(root, model=model, gain=float(version)).version == version
    return version


def truncate(version: Path) -> None:
    content = (version / "model.onnx").read_bytes()
    (version / "model.onnx").write_bytes(content[:-7])


def fail_its_self_test(version: Path) -> None:
    """Everything fits together, but the golden answers are not this graph's."""
    shutil.rmtree(version / "golden")
    number = int(version.name)
    artifact = build_tiny(version, "tiny", number, tiny_model(gain=number / 2), gain=float(number))
    (version / "model.json").write_text(artifact.to_json())


def rename(version: Path) -> None:
    text = (version / "model.json").read_text()
    (version / "model.json").write_text(text.replace('"version": ', '"version": 1'))


SPOILS: dict[str, Callable[[Path], None]] = {
    "expected the sha256": truncate,
    "expected a file": lambda version: (version / "model.json").unlink(),  # half copied
    "golden/5.png: expected a file": lambda version: (version / "golden/5.png").unlink(),
    "versions are not copied or renamed": rename,
    "golden image": fail_its_self_test,
}


def publish_spoilt(root: Path, spoil: Callable[[Path], None], name: str = "tiny") -> int:
    """Put a version there in one step that cannot be served."""
    version = (ModelRepository(root).versions(name) or [0])[-1] + 1
    staging = root / ".staging" / str(version)
    staging.mkdir(parents=True)
    gain = float(version)
    artifact = build_tiny(staging, name, version, tiny_model(gain=gain), gain)
    (staging / "model.json").write_text(artifact.to_json())
    spoil(staging)
    (root / name).mkdir(exist_ok=True)
    staging.rename(root / name / str(version))
    return version


class Load:
    """Many connections that ask all the time, and check each answer.

    Attributes:
        floor: The newest version that all workers are known to serve.
        ceiling: The newest good version that is published.
        bad: Versions that may never answer.
    """

    def __init__(self, server: RunningServer) -> None:
        self.server = server
        self.floor = self.ceiling = 1
        self.bad: set[int] = set()
        self.answers = 0
        self.failures: list[str] = []
        self._expected = {
            version: tiny_probabilities(IMAGES, float(version)).max(axis=1)
            for version in range(1, SWAPS + 3)
        }
        self._stop = threading.Event()

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        threads = [threading.Thread(target=self._ask, args=(i,)) for i in range(THREADS)]
        threads.append(threading.Thread(target=self._watch_readiness))
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self._stop.set()
            for thread in threads:
                thread.join(30)

    def _ask(self, thread: int) -> None:
        mine = range(thread * CONNECTIONS, (thread + 1) * CONNECTIONS)
        try:
            with contextlib.ExitStack() as stack:
                wires = {i: stack.enter_context(Wire(self.server)) for i in mine}
                while not self._stop.is_set():
                    floor = self.floor
                    for i, wire in wires.items():
                        wire.send(post("/predict", PNGS[i]))
                    for i, wire in wires.items():
                        answer = wire.answer()
                        assert answer.status == 200, answer
                        self._check(i, answer.json(), floor)
                    time.sleep(0.02)  # the swaps need the processor, too
        except BaseException as error:
            self.failures.append(f"thread {thread}: {error!r}")

    def _check(self, i: int, said: dict[str, Any], floor: int) -> None:
        version = said["version"]
        assert isinstance(version, int)
        assert floor <= version <= self.ceiling, (floor, version, self.ceiling)
        assert version not in self.bad, version
        (result,) = said["results"]
        probability = result["predictions"][0]["probability"]
        np.testing.assert_allclose(probability, self._expected[version][i], rtol=0, atol=1e-6)
        self.answers += 1

    def _watch_readiness(self) -> None:
        with httpx.Client(base_url=self.server.url, timeout=15) as client:
            while not self._stop.wait(0.05):
                status = client.get("/readyz").status_code
                if status != 200:
                    self.failures.append(f"/readyz was {status}")


def wait_for_workers(server: RunningServer) -> None:
    """Whoever answered /readyz was one of them."""
    line = "ready after"
    wait_for(lambda: server.log.count(line) == WORKERS, server, line)


def memory_bytes(server: RunningServer) -> int:
    return sum(worker.memory_info().rss for worker in server.workers())


@pytest.mark.thorough
def test_twenty_swaps_under_load_fail_no_request(tmp_path: Path) -> None:
    root = tmp_path / "models"
    publish(root)
    spoils = dict(zip(range(3, SWAPS, 4), SPOILS.items(), strict=True))
    with running_server(root, tmp_path, workers=WORKERS, reload_s=0.1, loaded_versions=1) as server:
        wait_for_workers(server)
        load = Load(server)
        with load.running():
            before = 0
            for swap in range(SWAPS):
                answered = load.answers
                if swap in spoils:
                    reason, spoil = spoils[swap]
                    load.bad.add(max(ModelRepository(root).versions("tiny")) + 1)
                    version = publish_spoilt(root, spoil)
                    line = f"tiny:{version} refused"
                else:
                    load.ceiling = load.ceiling + 1 + (swap - 1 in spoils)
                    version = publish(root)
                    assert version == load.ceiling
                    line = f"tiny:{version} answers"
                wait_for(lambda line=line: server.log.count(line) == WORKERS, server, line)  # type: ignore[misc]
                if swap in spoils:
                    assert reason in server.log.split(line)[1].splitlines()[0]
                else:
                    load.floor = version
                wait_for(lambda n=answered: load.answers > n + 64, server, "answers stopped")  # type: ignore[misc]
                assert not load.failures, load.failures
                before = before or memory_bytes(server)
            after = memory_bytes(server)
        assert not load.failures, load.failures
        print(f"{load.answers} answers; {before >> 20} MiB, then {after >> 20} MiB")
        assert after - before < WORKERS * MEMORY_BYTES
        assert sorted(load.bad) == [version + 2 for version in spoils]
        for version in load.bad:
            is_newest = version > load.floor
            assert server.metric("foveal_model_refused", version=str(version)) == is_newest
            assert server.log.count(f"tiny:{version} refused") == WORKERS, "tried again"
        newest = server.metric("foveal_model_info", model="tiny", version=str(load.floor))
        assert newest == 1 == server.metric("foveal_model_info", model="tiny")
        states = httpx.post(f"{server.url}/v2/repository/index").json()
        assert [m["version"] for m in states if m["state"] == "READY"] == [str(load.floor)]
        reasons = {int(m["version"]): m["reason"] for m in states}
        for version, (reason, _) in zip(sorted(load.bad), SPOILS.items(), strict=True):
            told = reasons[version]
            # Once a newer version is good, an older one that is bad is of no interest.
            assert reason in told if version > load.floor else told == "not loaded"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    publish(tmp_path / "models")
    return tmp_path / "models"


def version_of(server: RunningServer, path: str = "/predict") -> int:
    said = httpx.post(server.url + path, content=PNGS[0]).raise_for_status().json()
    assert isinstance(said["version"], int)
    return said["version"]


@pytest.fixture(scope="module")
def polled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    folder = tmp_path_factory.mktemp("polled")
    publish(folder / "models")
    with running_server(folder / "models", folder, reload_s=0.1) as server:
        yield server


def test_half_a_copy_is_refused_and_serves_once_it_is_whole(
    polled: RunningServer, tmp_path: Path
) -> None:
    for gain in (1.0, 2.0):
        publish_tiny(tmp_path, "copied", gain=gain)
    target, path = polled.log_path.parent / "models/copied", "/models/copied/predict"
    shutil.copytree(tmp_path / "copied/1", target / "1")
    wait_for(lambda: "copied:1 answers" in polled.log, polled, "1 is not served")
    files = sorted((tmp_path / "copied/2").rglob("*.*"))
    for i, file in enumerate(files):  # golden images first, as `cp -r` might
        copy = target / file.relative_to(tmp_path / "copied")
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, copy)
        if i == 4:
            wait_for(lambda: "copied:2 refused" in polled.log, polled, "not refused")
            states = httpx.post(f"{polled.url}/v2/repository/index").json()
            state = next(m for m in states if (m["name"], m["version"]) == ("copied", "2"))
            assert state["state"] == "UNAVAILABLE" and "expected a file" in state["reason"]
            assert polled.metric("foveal_model_refused", model="copied", version="2") == 1
            assert version_of(polled, path) == 1
    wait_for(lambda: version_of(polled, path) == 2, polled, "not served")
    assert polled.metric("foveal_model_refused", model="copied", version="2") == 0
    assert httpx.get(f"{polled.url}/readyz").status_code == 200


def test_pins_and_the_default_model_are_followed(polled: RunningServer) -> None:
    root = polled.log_path.parent / "models"
    repository = ModelRepository(root)
    publish(root)
    wait_for(lambda: version_of(polled) == 2, polled, "2 does not answer")
    assert repository.rollback("tiny") == 1
    wait_for(lambda: version_of(polled) == 1, polled, "1 does not answer")
    repository.set_default("tiny", 2)
    wait_for(lambda: version_of(polled) == 2, polled, "2 does not answer again")
    publish_tiny(root, "other")
    wait_for(lambda: "other:1 answers" in polled.log, polled, "other is not served")
    assert version_of(polled) == 2, "/predict stays where it was"
    repository.set_default("other")
    wait_for(lambda: version_of(polled) == 1, polled, "/predict is not other's")
    assert version_of(polled, "/models/tiny/predict") == 2


def test_what_breaks_or_goes_later_is_served_all_the_same(root: Path, tmp_path: Path) -> None:
    """Broken settings, a broken newcomer, a broken and then a lost model: ready throughout."""
    with running_server(root, tmp_path, reload_s=0.1) as server:

        def is_served(line: str) -> None:
            wait_for(lambda: line in server.log, server, line)
            assert version_of(server) == 1
            assert httpx.get(f"{server.url}/readyz").status_code == 200

        (root / "repository.json").write_text("{")
        is_served("tiny is served as it was loaded: ")
        (root / "repository.json").unlink()
        publish_spoilt(root, truncate, "other")
        is_served("other:1 refused: ")
        answer = httpx.post(f"{server.url}/models/other/predict", content=PNGS[0])
        assert_error(answer, 503, 'model "other": no version could be loaded')
        truncate(root / "tiny/1")
        is_served("tiny:1 refused: ")
        shutil.rmtree(root / "tiny")
        is_served("tiny is gone; it is served until it is unloaded")
        root.rename(tmp_path / "elsewhere")
        is_served("models are served as they were loaded: ")


def test_a_signal_means_now(root: Path, tmp_path: Path) -> None:
    with running_server(root, tmp_path, reload_s=0) as server:
        publish(root)
        (worker,) = server.workers()
        time.sleep(0.5)
        assert version_of(server) == 1
        os.kill(worker.pid, signal.SIGHUP)
        wait_for(lambda: version_of(server) == 2, server, "2 does not answer")


def test_load_reaches_all_workers(two_workers: RunningServer) -> None:
    server, root = two_workers, two_workers.log_path.parent / "models"
    bearer = {"Authorization": f"Bearer {ADMIN}"}
    publish_tiny(root, "loaded")
    wait_for(lambda: server.log.count("loaded:1 answers") == WORKERS, server, "1 is not served")
    publish_tiny(root, "loaded")
    path, line = f"{server.url}/v2/repository/models/loaded", "loaded:2 answers"
    assert httpx.post(f"{path}/load", headers=bearer).status_code == 200
    assert line in server.log
    wait_for(lambda: server.log.count(line) == WORKERS, server, "workers differ")
    answer = httpx.post(f"{path}/unload", headers=bearer)
    assert_error(answer, 403, "unload: expected one worker, got 2")
