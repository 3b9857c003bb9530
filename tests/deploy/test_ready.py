"""The program that waits for the service: a container's health check, systemd's wait."""

import os
import subprocess
import sys
import time

import pytest

from loadtest.serving import free_port
from tests.guarded import Guarded
from tests.places import ROOT
from tests.server import RunningServer


def ready(*words: object, **variables: str) -> int:
    program = [sys.executable, "-S", "-E", str(ROOT / "deploy/ready.py"), *map(str, words)]
    return subprocess.run(
        program, capture_output=True, check=False, timeout=30, env={**os.environ, **variables}
    ).returncode


@pytest.mark.e2e
def test_a_ready_service_is_ready(server: RunningServer) -> None:
    assert ready("--port", server.port) == 0


@pytest.mark.e2e
def test_a_ready_service_is_ready_over_tls_without_a_key(guarded: Guarded) -> None:
    server = guarded.server
    assert ready("--port", server.port, FOVEAL_TLS_CERT=server.certificate) == 0
    assert ready("--port", server.port) == 1


def test_nobody_is_not_ready() -> None:
    assert ready("--port", free_port()) == 1


def test_it_does_not_wait_for_a_process_that_has_ended() -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as ended:
        ended.wait()
    started = time.monotonic()
    assert ready("--port", free_port(), "--wait", 25, "--pid", ended.pid) == 1
    assert time.monotonic() - started < 20


@pytest.mark.parametrize("words", [["--port"], ["--port", "x"], ["--what", 1]])
def test_wrong_usage_is_said(words: list[object]) -> None:
    assert ready(*words) == 2
