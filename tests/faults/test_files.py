"""What is no file where a model's file should be: refused with a line, never waited for."""

import os
import shutil
import time
from pathlib import Path

import httpx
import pytest

from models.image import encode_png
from models.repository import ModelRepository
from tests.models.test_files import make
from tests.server import assert_error, running_server
from tests.shell import Shell
from tests.tiny import assert_own_result, publish_tiny, random_images

pytestmark = pytest.mark.e2e

IMAGE = random_images(1, seed=3)[0]
PNG = encode_png(IMAGE)
TOKEN = {"Authorization": "Bearer secret"}
# Of a model: what is in the place of which file, and a word of the line that says so.
FAULTS = {
    "fifo-json": ("a FIFO", "model.json", "a FIFO"),
    "fifo-onnx": ("a FIFO", "model.onnx", "a FIFO"),
    "fifo-golden": ("a FIFO", "golden/0.png", "a FIFO"),
    "device-json": ("a device", "model.json", "a device"),
    "device-onnx": ("a device", "model.onnx", "a device"),
    "folder-json": ("a folder", "model.json", "a folder"),
    "socket-onnx": ("socket", "model.onnx", "No such device or address|a socket"),
    "loop-golden": ("loop", "golden/0.png", "Too many levels"),
    "gone-onnx": ("nothing", "model.onnx", "No such file"),
}


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    root = tmp_path / "repository"
    publish_tiny(root, "whole")
    ModelRepository(root).set_default("whole")
    return root


def test_start(repository: Path, tmp_path: Path) -> None:
    """Not ready, a line for each; the whole model answers, and the index lists them all."""
    for name, (kind, file, _) in FAULTS.items():
        publish_tiny(repository, name)
        make(kind, repository / name / "1" / file)
    with running_server(repository, tmp_path, is_ready=False, admin_token="secret") as server:
        said = httpx.post(f"{server.url}/predict", content=PNG).json()
        assert_own_result(said["results"][0], IMAGE)
        index = httpx.post(f"{server.url}/v2/repository/index", timeout=5).json()
        reasons = {entry["name"]: entry.get("reason", "") for entry in index}
        for name, (_, file, match) in FAULTS.items():
            assert_error(httpx.post(f"{server.url}/models/{name}/predict", content=PNG), 503, name)
            assert reasons[name].startswith(f"{name}/1/{file}: expected a file, got ")
            answer = httpx.post(
                f"{server.url}/v2/repository/models/{name}/load", headers=TOKEN, timeout=5
            )
            assert_error(answer, 400, match)
            assert str(repository) not in answer.text


def test_while_it_serves(repository: Path, tmp_path: Path) -> None:
    """Files that go or change their kind: the loaded version answers on."""
    with running_server(repository, tmp_path, admin_token="secret", reload_s=0.1) as server:
        for kind in ("a FIFO", "nothing", "a device"):
            make(kind, repository / "whole/1/model.onnx")
            time.sleep(0.3)
            said = httpx.post(f"{server.url}/predict", content=PNG).json()
            assert_own_result(said["results"][0], IMAGE)
        shutil.rmtree(repository / "whole")
        time.sleep(0.3)
        assert httpx.post(f"{server.url}/predict", content=PNG).status_code == 200
        make("a FIFO", repository / "repository.json")
        time.sleep(0.3)
        shutil.rmtree(repository)
        time.sleep(0.3)
        assert httpx.post(f"{server.url}/predict", content=PNG).status_code == 200
        answer = httpx.post(f"{server.url}/v2/repository/models/whole/load", headers=TOKEN)
        assert answer.status_code in (400, 404, 507), answer.text
        assert str(repository) + "/" not in answer.text
        assert "whole is gone; it is served until it is unloaded" in server.log
        assert httpx.post(f"{server.url}/v2/repository/index", timeout=5).status_code == 200


@pytest.mark.parametrize("kind", ["a FIFO", "a folder"])
def test_settings_of_the_repository(repository: Path, tmp_path: Path, kind: str) -> None:
    """Not ready, and says why; ready at the next poll after it was mended."""
    make(kind, repository / "repository.json")
    with running_server(repository, tmp_path, is_ready=False, reload_s=0.1) as server:
        assert f"repository.json: expected a file, got {kind}" in server.log
        path = repository / "repository.json"
        path.rmdir() if path.is_dir() else path.unlink()
        deadline = time.monotonic() + 10
        while httpx.get(f"{server.url}/readyz").status_code != 200:
            assert time.monotonic() < deadline, server.log
            time.sleep(0.05)
        assert httpx.post(f"{server.url}/predict", content=PNG).status_code == 200


def test_many_versions(repository: Path, tmp_path: Path) -> None:
    """500 of them, of which two are loaded: index and load stay quick."""
    first = repository / "whole/1"
    for version in range(2, 501):
        folder = repository / "whole" / str(version)
        folder.mkdir()
        for path in first.rglob("*"):
            if path.is_file():
                (folder / path.relative_to(first)).parent.mkdir(exist_ok=True)
                os.link(path, folder / path.relative_to(first))
        document = (first / "model.json").read_text()
        (folder / "model.json").unlink()
        (folder / "model.json").write_text(
            document.replace('"version": 1', f'"version": {version}')
        )
    with running_server(repository, tmp_path, admin_token="secret", workers=2) as server:
        said = httpx.post(f"{server.url}/predict", content=PNG).json()
        assert said["version"] == 500
        index = httpx.post(f"{server.url}/v2/repository/index", timeout=5).json()
        assert sum(entry["state"] == "READY" for entry in index) == 2
        assert len(index) == 500
        answer = httpx.post(
            f"{server.url}/v2/repository/models/whole/load", headers=TOKEN, timeout=10
        )
        assert answer.status_code == 200, answer.text


@pytest.mark.timeout(30)
def test_commands(repository: Path, shell: Shell) -> None:
    """They end, whatever lies there, and say what it is."""
    publish_tiny(repository, "broken")
    make("a FIFO", repository / "broken/1/model.json")
    for command in ("list", "verify"):
        done = shell("models", command, models=repository)
        assert "a FIFO" in done.out + done.error
