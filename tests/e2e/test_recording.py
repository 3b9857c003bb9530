"""Two workers record what they answer; the recording is looked at, erased, and asked again."""

import contextlib
import io
import itertools
import json
import os
import random
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from models.image import encode_png
from models.repository import ModelRepository
from models.rollout import Rollout, Share
from service.record.reading import Entry, is_recording, read
from service.record.shards import find_shards, make_folder
from service.record.truths import add_truths, read_truths
from tests.faults.test_disks import disk, fill
from tests.server import ROOT, RunningServer, free_port, running_server
from tests.tiny import LABELS, publish_tiny, random_images, tiny_logits, tiny_probabilities

__all__ = ["disk"]  # a fixture

pytestmark = pytest.mark.e2e

IMAGES = random_images(40, seed=77)
PNGS = [encode_png(image) for image in IMAGES]
BEST_N = tiny_logits(IMAGES).argmax(axis=1).tolist()
WAIT_S = 60.0


def wait_for(is_so: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + WAIT_S
    while not (found := is_so()):
        assert time.monotonic() < deadline, "expected something that never came"
        time.sleep(0.05)
    return found


def entries(folder: Path, prefix: str) -> list[Entry]:
    if not is_recording(folder):
        return []
    return [entry for entry in read(folder) if entry.sample.id.startswith(prefix)]


def recorded(folder: Path, prefix: str, count: int) -> list[Entry]:
    """Wait until so many rows of ids that begin so are recorded."""
    wait_for(lambda: len(entries(folder, prefix)) >= count)
    return entries(folder, prefix)


def ask(server: RunningServer, id_: str, body: bytes = PNGS[0], path: str = "/predict") -> int:
    headers = {"X-Request-Id": id_, "Content-Type": "application/octet-stream"}
    return httpx.post(f"{server.url}{path}", content=body, headers=headers, timeout=30).status_code


def has_compared(server: RunningServer, rows: int) -> bool:
    """Whether a shadow has seen more rows than these."""
    return server.metric("foveal_shadow_rows_total") > rows


def foveal(*words: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "foveal.py"), *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=250)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("recorded") / "models"
    publish_tiny(root)
    return root


@pytest.fixture(scope="module")
def folder(root: Path) -> Path:
    return root.parent / "recording"


@pytest.fixture(scope="module")
def server(root: Path, folder: Path) -> Iterator[RunningServer]:
    with running_server(
        root,
        root.parent,
        workers=2,
        record=1,
        record_folder=folder,
        reload_s=0.1,
        grpc_port=free_port(),
    ) as running:
        yield running


def test_every_protocol_is_recorded(server: RunningServer, folder: Path) -> None:
    assert ask(server, "p-raw") == 200
    files = [
        ("images", ("0.png", PNGS[1])),
        ("images", ("1.png", b"junk")),
        ("i", ("2.png", PNGS[2])),
    ]
    headers = {"X-Request-Id": "p-form"}
    httpx.post(f"{server.url}/predict", files=files, headers=headers).raise_for_status()
    headers = {"X-Request-Id": "p-classify"}
    file = {"image": ("0.png", PNGS[3], "image/png")}
    httpx.post(f"{server.url}/classify", files=file, headers=headers).raise_for_status()
    pixels = {"name": "images", "datatype": "UINT8", "shape": [2, 8, 8, 1]}
    asked = {"inputs": [pixels | {"data": IMAGES[4:6].ravel().tolist()}]}
    headers = {"X-Request-Id": "p-v2"}
    infer = f"{server.url}/v2/models/tiny/infer"
    httpx.post(infer, json=asked, headers=headers).raise_for_status()
    found = recorded(folder, "p-", 7)
    by_key = {(e.sample.id, e.sample.row): e.sample for e in found}
    expected = {
        ("p-raw", 0): 0,
        ("p-form", 0): 1,
        ("p-form", 2): 2,
        ("p-classify", 0): 3,
        ("p-v2", 0): 4,
        ("p-v2", 1): 5,
    }
    for key, image in expected.items():
        document = by_key[key].document
        probabilities_NK = tiny_probabilities(IMAGES[image : image + 1])
        np.testing.assert_allclose(document["probabilities"], probabilities_NK[0], atol=1e-6)
        assert document["index"] == BEST_N[image] and document["label"] == LABELS[BEST_N[image]]
        assert document["status"] == 200 and document["run_ms"] > 0
        if key[0] != "p-v2":
            assert by_key[key].content == PNGS[image]
        else:
            pixels_HWC = np.load(io.BytesIO(by_key[key].content))
            np.testing.assert_array_equal(pixels_HWC, IMAGES[image])
    assert by_key["p-form", 1].document["error"].startswith("image: expected")
    assert not by_key["p-form", 1].content
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o600}
    assert wait_for(lambda: server.metric("foveal_record_rows_total", outcome="written") >= 7)


def test_grpc_is_recorded(server: RunningServer, folder: Path) -> None:
    from tritonclient import grpc

    tensor = grpc.InferInput("images", [1, 8, 8, 1], "UINT8")
    tensor.set_data_from_numpy(IMAGES[6:7])
    with grpc.InferenceServerClient(server.grpc_address) as client:
        client.infer("tiny", [tensor], headers={"x-request-id": "g-1"})
    (entry,) = recorded(folder, "g-", 1)
    assert entry.sample.document["protocol"] == "v2_grpc"
    assert entry.sample.document["index"] == BEST_N[6]


def test_an_answer_names_what_is_recorded(server: RunningServer, folder: Path) -> None:
    id_ = httpx.post(f"{server.url}/predict", content=PNGS[0]).headers["x-request-id"]
    (entry,) = recorded(folder, id_, 1)
    assert entry.sample.key == id_


def test_refusals_are_recorded_without_a_picture(server: RunningServer, folder: Path) -> None:
    assert ask(server, "r-1", b"no image") == 400
    (entry,) = recorded(folder, "r-", 1)
    assert entry.sample.document["status"] == 400 and not entry.sample.ending
    assert entry.sample.document["error"].startswith("image: expected JPEG")


def test_place_and_comment_are_left_out(server: RunningServer, folder: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x010E] = "secret place"
    file = io.BytesIO()
    Image.fromarray(IMAGES[0][..., 0]).save(file, "JPEG", exif=exif, comment=b"secret words")
    assert ask(server, "exif-1", file.getvalue()) == 200
    (entry,) = recorded(folder, "exif-", 1)
    assert b"secret" not in entry.sample.content
    assert entry.sample.document["orientation"] == 6


def test_erased_while_it_runs(server: RunningServer, folder: Path) -> None:
    for number in range(6):
        assert ask(server, f"e-{number}") == 200
    recorded(folder, "e-", 6)
    where = "--recording", folder
    done = foveal("record", "erase", "--id", "e-1", "--id", "e-4", *where)
    assert (done.returncode, done.stdout) == (0, "2 rows erased\n"), done.stderr
    assert ask(server, "e-6") == 200
    ids = {entry.sample.id for entry in recorded(folder, "e-", 5)}
    assert ids == {"e-0", "e-2", "e-3", "e-5", "e-6"}
    assert foveal("record", "show", "e-1", *where).returncode == 1


@pytest.mark.thorough
def test_a_model_has_its_own_share(server: RunningServer, folder: Path, root: Path) -> None:
    def are_recorded(is_wanted: bool) -> bool:
        """Ask until what was asked is recorded, or is not; all workers have polled then."""
        mark = f"s-{time.monotonic_ns()}"
        for number in range(8):
            with httpx.Client() as client:
                headers = {"X-Request-Id": f"{mark}-{number}"}
                client.post(f"{server.url}/predict", content=PNGS[0], headers=headers)
        time.sleep(0.3)
        return len(entries(folder, mark)) == (8 if is_wanted else 0)

    assert foveal("models", "record", "tiny", 0, "--models", root).returncode == 0
    try:
        wait_for(lambda: are_recorded(False))
    finally:
        assert foveal("models", "record", "tiny", "--models", root).returncode == 0
    wait_for(lambda: are_recorded(True))


@pytest.mark.thorough
def test_replayed_here_and_there(server: RunningServer, folder: Path, root: Path) -> None:
    for number, png in enumerate(PNGS):
        assert ask(server, f"replay-{number}", png) == 200
    recorded(folder, "replay-", len(PNGS))
    add_truths(folder, [{"id": f"replay-{i}", "index": best} for i, best in enumerate(BEST_N)])
    words = "replay", folder, "--candidate", "tiny:1", "--models", root, "--json"
    for more in ((), ("--url", server.url, "--speed", 50)):
        done = foveal(*words, *more)
        assert done.returncode == 0, done.stderr
        document = json.loads(done.stdout)
        assert document["bit_equal"] == document["rows"] >= len(PNGS), document
        assert document["flipped"] == 0 and not document["errors"]
        assert document["after"]["known"] == len(PNGS) and document["after"]["accuracy"] == 1


@pytest.mark.thorough
def test_loaded_again(server: RunningServer, folder: Path, root: Path, tmp_path: Path) -> None:
    for number in range(10):
        assert ask(server, f"load-{number}", PNGS[number]) == 200
    recorded(folder, "load-", 10)
    answered = len([e for e in entries(folder, "") if e.sample.is_answered])
    words = "--from", folder, "--speed", 20, "--models", root, "--out", tmp_path / "load", "--json"
    done = foveal("loadtest", server.url, *words)
    assert done.returncode == 0, done.stderr + done.stdout
    figures = json.loads(done.stdout)["figures"]
    assert figures["errors"] == 0 and 10 <= figures["requests"] <= answered


def test_a_killed_worker_leaves_whole_rows(server: RunningServer, folder: Path) -> None:
    for number in range(20):
        assert ask(server, f"k-{number}") == 200
    recorded(folder, "k-", 20)
    before = {each.path for each in find_shards(folder)}
    workers = [p for p in server.workers() if any("tar" in f.path for f in p.open_files())]
    assert workers
    for worker in workers:
        os.kill(worker.pid, signal.SIGKILL)
    assert {entry.sample.id for entry in entries(folder, "k-")} == {f"k-{i}" for i in range(20)}

    def goes_on() -> bool:
        try:
            return ask(server, "after-1") == 200
        except httpx.TransportError:
            return False

    wait_for(goes_on)
    recorded(folder, "after-", 1)
    assert {each.path for each in find_shards(folder)} > before


@pytest.mark.thorough
def test_workers_killed_while_they_write_leave_whole_rows(tmp_path: Path) -> None:
    root, folder = tmp_path / "models", tmp_path / "recording"
    publish_tiny(root)
    is_over = threading.Event()

    def load(server: RunningServer, name: str) -> None:
        for number in itertools.count():
            if is_over.is_set():
                return
            with contextlib.suppress(httpx.TransportError):
                ask(server, f"{name}-{number}", PNGS[number % len(PNGS)])

    with (
        running_server(root, tmp_path, workers=2, record=1, record_folder=folder) as server,
        ThreadPoolExecutor(2) as threads,
    ):
        for name in ("a", "b"):
            threads.submit(load, server, name)
        try:
            for kills in range(1, 5):
                recorded(folder, "", 20 * kills)
                victim = random.Random(kills).choice(server.workers())
                victim.kill()
                wait_for(lambda: server.log.count("ready after") >= 2 + kills)  # noqa: B023
        finally:
            is_over.set()
    found = entries(folder, "")
    # A worker that is killed within a second of its first row leaves no shard.
    assert len(find_shards(folder)) >= 2 and len(found) >= 80
    for entry in found:
        number = int(entry.sample.id.partition("-")[2])
        assert entry.sample.content == PNGS[number % len(PNGS)]
        assert entry.sample.document["index"] == BEST_N[number % len(PNGS)]


@pytest.mark.thorough
def test_a_full_disk_stops_recording_not_answers(disk: Path, tmp_path: Path) -> None:
    folder = disk / "recording"
    settings: dict[str, Any] = {"record": 1, "record_folder": folder, "feedback_rows": 64}
    with running_server(disk / "models", tmp_path, **settings) as server:
        make_folder(folder)
        add_truths(folder, [{"id": "before", "index": 0}])
        fill(disk)
        for number in range(5):
            assert ask(server, f"full-{number}") == 200
        wait_for(lambda: server.metric("foveal_record_stopped") == 1)
        wait_for(lambda: server.metric("foveal_record_rows_total", outcome="failed") >= 5)
        assert server.log.count("recording stopped") == 1
        assert ask(server, "later") == 200
        feedback = f"{server.url}/models/tiny/feedback"
        for number in range(200):  # more than the file has room for
            assert ask(server, f"told-{number}") == 200
            truth = {"id": f"told-{number}", "index": BEST_N[0]}
            assert httpx.post(feedback, json=truth).json()["outcome"] == "right"
        assert server.log.count("truths are missing in the recording: No space left") == 1
        assert ("before", 0) in read_truths(folder)


def test_only_uncertain_rows(tmp_path: Path) -> None:
    root, folder = tmp_path / "models", tmp_path / "recording"
    # With this gain half of the answers are surer than 0.8; version 2 always says another label.
    for gain in (8.0, -8.0):
        publish_tiny(root, gain=gain)
    publish_tiny(root, "alone", gain=8.0)
    repository = ModelRepository(root)
    repository.set_default("tiny", 1)
    repository.set_rollout("tiny", Rollout(shadow=Share(2, 1.0)))
    confidence_N = tiny_probabilities(IMAGES, 8.0).max(axis=1)
    unsure = {i for i, confidence in enumerate(confidence_N) if confidence < 0.8}
    sure = sorted(set(range(len(IMAGES))) - unsure)
    asked = [*sure[:3], *sorted(unsure)[:2]]
    assert len(asked) == 5
    with running_server(
        root, tmp_path, record=1, record_folder=folder, record_keep="uncertain", record_below=0.8
    ) as server:
        for number, png in enumerate(PNGS):
            assert ask(server, f"alone-{number}", png, "/models/alone/predict") == 200
        for compared, number in enumerate(asked):  # one by one: the shadow is not busy
            assert ask(server, f"shadow-{number}", PNGS[number], "/models/tiny/predict") == 200
            wait_for(partial(has_compared, server, compared))
        assert ask(server, "bad", b"x", "/models/alone/predict") == 400
        recorded(folder, "alone-", len(unsure))
        shadowed = recorded(folder, "shadow-", 5)
    assert {entry.sample.id for entry in entries(folder, "alone-")} == {
        f"alone-{i}" for i in unsure
    }
    assert not entries(folder, "bad")
    by_id = {entry.sample.id: entry.sample.document for entry in shadowed}
    for number in sure[:3]:
        assert by_id[f"shadow-{number}"]["shadow"] == {"version": 2, "differs": True}
