"""A full disk and one that cannot be written: our fault, so 507, and no half of a file stays."""

import contextlib
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil  # type: ignore[import-untyped]
import pytest

from models.image import encode_png
from models.repository import ModelRepository
from tests.faults.test_workers import wait_until
from tests.server import RunningServer, assert_error, running_server
from tests.shell import Shell
from tests.tiny import assert_own_result, publish_tiny, random_images

pytestmark = pytest.mark.e2e

IMAGE = random_images(1, seed=3)[0]
PNG = encode_png(IMAGE)
TOKEN = {"Authorization": "Bearer secret"}


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A small disk of its own, with two versions of a model."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("only root can mount a small disk")
    try:
        publish_tiny(folder / "models")
        publish_tiny(folder / "models", gain=2.0)
        ModelRepository(folder / "models").set_default("tiny", 1)
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def fill(folder: Path) -> None:
    """Leave no byte."""
    with contextlib.suppress(OSError), (folder / "ballast").open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))


def remount(folder: Path, how: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{how}", str(folder)], check=True)


def put_rollout(server: RunningServer) -> httpx.Response:
    return httpx.put(
        f"{server.url}/models/tiny/traffic",
        headers=TOKEN,
        json={"canary": {"version": 2, "fraction": 0.5}},
        timeout=10,
    )


@pytest.mark.parametrize(
    ("fault", "match"),
    [
        ("full", "No space left on device"),
        ("read-only", "Read-only file system; mount it writable"),
    ],
)
def test_rollout(disk: Path, tmp_path: Path, fault: str, match: str) -> None:
    root = disk / "models"
    with running_server(root, tmp_path, admin_token="secret") as server:
        if fault == "full":
            fill(disk)
        else:
            remount(disk, "ro")
        before = {path: path.read_bytes() for path in root.glob("*.json")}
        files = set(root.rglob("*"))
        answer = put_rollout(server)
        assert_error(answer, 507, match)
        assert str(disk) not in answer.text
        assert {path: path.read_bytes() for path in root.glob("*.json")} == before
        assert set(root.rglob("*")) == files, "a half-written file stays"
        said = httpx.post(f"{server.url}/predict", content=PNG).json()
        assert_own_result(said["results"][0], IMAGE)
        load = httpx.post(f"{server.url}/v2/repository/models/tiny/load", headers=TOKEN)
        assert load.status_code == 200, load.text
        remount(disk, "rw")
        (disk / "ballast").unlink(missing_ok=True)
        assert put_rollout(server).status_code == 200


@pytest.fixture
def mounted(disk: Path, tmp_path: Path) -> Iterator[Path]:
    """The same repository, as a container has it: mounted read-only."""
    folder = tmp_path / "mounted"
    folder.mkdir()
    subprocess.run(["mount", "--bind", str(disk), str(folder)], check=True)
    remount(folder, "ro,bind")
    yield folder / "models"
    subprocess.run(["umount", str(folder)], check=True)


def versions(server: RunningServer) -> set[int]:
    """Which versions answer 60 requests: with a share of 0.5 never one alone."""
    url = f"{server.url}/models/tiny/predict"
    with httpx.Client() as client:
        return {client.post(url, content=PNG).json()["version"] for _ in range(60)}


PROMOTE = ("models", "promote", "tiny", 2, "--p99-ms", 30_000, "--canary", 0.5, "--within", "1h")


def test_no_promotion_begins_where_nothing_can_be_written(
    disk: Path, mounted: Path, shell: Shell
) -> None:
    before = (disk / "models/repository.json").read_bytes()
    said = shell(*PROMOTE, models=mounted)
    assert said.code == 1 and not said.out
    assert said.error == (
        f"{mounted}: expected a repository that can be written, as each step of a promotion is, "
        "got: Read-only file system; mount it writable, for the service, too\n"
    )
    assert (disk / "models/repository.json").read_bytes() == before


def test_a_candidate_gets_nothing_of_a_service_that_cannot_decide(
    disk: Path, mounted: Path, tmp_path: Path, shell: Shell
) -> None:
    """It would else stay at its share: whoever began the promotion can write, the service not."""
    with running_server(mounted, tmp_path, workers=2, reload_s=0.2) as server:
        assert shell(*PROMOTE, models=disk / "models").code == 0
        why = (
            f"no promotion goes on: {mounted}: expected a repository that the service can write, "
            "got: Read-only file system; mount it writable"
        )
        wait_until(lambda: why in server.log, 30, "the reason")
        assert versions(server) == {1}
        time.sleep(1)
        assert server.log.count(why) == 1, "each look says it"
        shown = shell("models", "show", "tiny:2", models=disk / "models").out
        assert "no service takes part yet" in shown
        remount(mounted.parent, "rw,bind")
        wait_until(lambda: versions(server) == {1, 2}, 30, "its share")
        shown = shell("models", "show", "tiny:2", models=disk / "models").out
        assert "no service takes part yet" not in shown


def test_a_candidate_gets_nothing_of_a_service_that_follows_nothing(
    tmp_path: Path, shell: Shell
) -> None:
    root = tmp_path / "models"
    for gain in (1.0, 2.0):
        publish_tiny(root, gain=gain)
    ModelRepository(root).set_default("tiny", 1)
    assert shell(*PROMOTE, models=root).code == 0
    with running_server(root, tmp_path, reload_s=0) as server:
        why = "promotion of tiny:2: expected FOVEAL_RELOAD_S above 0, got 0; it does not go on"
        assert why in server.log
        assert versions(server) == {1}


@pytest.mark.thorough
def test_folder_of_metrics_is_full(disk: Path, tmp_path: Path) -> None:
    """Metrics are files in memory's guise: without room the kernel would end the process."""
    (disk / "home").mkdir()
    (tmp_path / "bentoml").symlink_to(disk / "home")
    for i in range(20):
        publish_tiny(tmp_path / "models", f"model-{i}")
    ModelRepository(tmp_path / "models").set_default("model-0")
    with running_server(tmp_path / "models", tmp_path) as server:
        (worker,) = psutil.Process(server.process.pid).children()
        fill(disk)
        for i in range(20):  # labels that are new
            url = f"{server.url}/models/model-{i}/predict"
            assert httpx.post(url, content=PNG).status_code == 200
            assert httpx.post(url, content=b"no image").status_code == 400
            httpx.get(f"{server.url}/metrics")
        time.sleep(1.5)
        assert worker.is_running(), server.log
        worker.kill()  # nor does the next worker end by it
        wait_until(lambda: server.log.count("ready after") == 2, 30, "a worker")
        assert httpx.post(f"{server.url}/predict", content=PNG, timeout=30).status_code == 200
        assert server.log.count("ended by") == 1, server.log
