import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

from models.image import encode_png
from tests.server import ROOT, RunningServer, free_port
from tests.shell import Shell
from tests.tiny import publish_tiny, random_images


@pytest.mark.e2e
def test_predict_says_the_same_through_a_service(
    shell: Shell, image: Path, server: RunningServer
) -> None:
    bad = image.with_name("bad.png")
    bad.write_bytes(image.read_bytes()[:30])
    for words in ((), ("--model", "tiny:2"), ("--top", 3), ("--json",)):
        here = shell("predict", image, bad, *words, "--local")
        there = shell("predict", image, bad, *words, "--url", server.url)
        assert here.code == there.code == 3
        assert here == there
    said = shell("predict", image, "--url", server.url, "--model", "none")
    assert said.code == 1
    assert said.error == f'{server.url}: model "none": expected one of tiny:1, tiny:2\n'


@pytest.mark.e2e
def test_serve_serves_from_anywhere_and_stops(tiny_repository: Path, tmp_path: Path) -> None:
    port = free_port()
    # What lies where the user stands must not be taken for ours.
    (tmp_path / "service.py").write_text("raise SystemExit('not this one')")
    (tmp_path / "here").symlink_to(tiny_repository)
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            [
                sys.executable,
                ROOT / "foveal.py",
                "serve",
                "--models",
                "here",
                "--host",
                "127.0.0.1",
                "--port",
                str(port),
            ],
            env={**os.environ, "FOVEAL_GRPC_PORT": str(free_port())},
            cwd=tmp_path,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    server = RunningServer(port, process, tmp_path / "log")
    try:
        server.wait_ready()
        image = encode_png(random_images(1)[0])
        assert httpx.post(f"{server.url}/predict", content=image).status_code == 200
        taken = subprocess.run(
            [sys.executable, ROOT / "foveal.py", "serve", "--port", str(port)],
            capture_output=True,
            text=True,
            check=False,
        )
        assert (taken.returncode, taken.stdout) == (1, "")
        assert "got: Address already in use" in taken.stderr
    finally:
        server.stop()
    assert process.returncode in (0, -signal.SIGTERM), server.log


@pytest.mark.training
@pytest.mark.slow
def test_train_and_export_publish_the_next_version(shell: Shell, tmp_path: Path) -> None:
    words = [sys.executable, str(ROOT / "foveal.py")]

    def run(*more: object) -> Any:
        ended = subprocess.run(
            [*words, *map(str, more), "--json"],
            capture_output=True,
            text=True,
            check=False,
            cwd=tmp_path,
        )
        assert ended.returncode == 0, ended.stderr
        return json.loads(ended.stdout)

    run_document = run(
        "train", "--dataset", "digits", "--network", "fcnn", "--epochs", 2, "--hidden", "16"
    )
    assert run_document["run"] == "runs/digits-fcnn"
    assert 0.2 < run_document["accuracy"] < 1
    publish_tiny(tmp_path / "models", "digits")
    artifact = run(
        "export", "runs/digits-fcnn", "--name", "digits", "--models", tmp_path / "models"
    )
    assert (artifact["name"], artifact["version"]) == ("digits", 2)
    assert artifact["provenance"]["command"].startswith("foveal train --dataset digits")
    assert shell("models", "verify", models=tmp_path / "models").code == 0
