import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import psutil  # type: ignore[import-untyped]
import pytest

from models.image import encode_png
from tests.server import ROOT, START_S, RunningServer, free_port
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


def watch_start(server: RunningServer) -> list[str]:
    """Probe a start: live from its first answer on, and never again unreachable until it is ready.

    Returns:
        Why it was not ready, each reason once.
    """
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:  # until it listens
        with contextlib.suppress(httpx.ConnectError):
            assert server.get("/livez").status_code == 200
            break
    reasons: dict[str, None] = {}
    while time.monotonic() < deadline:
        assert server.get("/livez").status_code == 200
        answer = server.get("/readyz")
        if answer.status_code == 200:
            return list(reasons)
        assert answer.headers["retry-after"] == "1"
        reasons[answer.json()["error"]] = None
    raise AssertionError(f"not ready after {START_S} s:\n{server.log}")


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
        reasons = watch_start(server)
        assert reasons[0] == "not ready: loading the service; retry"
        assert all(each.startswith("not ready: loading ") for each in reasons)
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


@pytest.mark.e2e
def test_the_log_of_a_start_ends_with_a_request_to_try(
    tiny_repository: Path, tmp_path: Path
) -> None:
    """At the address that it is bound to, one of this machine's own, without a line that alarms."""
    grpc_port = free_port()
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith("FOVEAL_")
    }
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, ROOT / "foveal.py", "serve", "--models", tiny_repository, "--port=0"],
            env={**environment, "FOVEAL_GRPC_PORT": str(grpc_port)},
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    server = RunningServer(0, process, tmp_path / "log")
    try:
        deadline = time.monotonic() + START_S
        while "; to try it: " not in server.log or not server.log.endswith("\n"):
            assert time.monotonic() < deadline and process.poll() is None, server.log
            time.sleep(0.05)
        found = re.fullmatch(
            r".*listening on 127\.0\.0\.1:(\d+); to try it: (curl --data-binary @(\S+) (\S+))",
            server.log.splitlines()[-1],
        )
        assert found, server.log
        server.port = int(found[1])
        assert found[4] == f"http://127.0.0.1:{server.port}/predict"
        answer = httpx.post(found[4], content=Path(found[3]).read_bytes())
        assert answer.json()["model"] == "tiny"
        main = psutil.Process(process.pid)
        listening = {
            connection.laddr.ip.removeprefix("::ffff:")  # as gRPC binds
            for each in (main, *main.children(recursive=True))
            for connection in each.net_connections("tcp")
            if connection.status == psutil.CONN_LISTEN
        }
        assert listening == {"127.0.0.1"}
        for word in ("WARNING", "ERROR", "expected", "got "):
            assert word not in server.log, server.log
    finally:
        server.stop()


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
