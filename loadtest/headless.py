"""Locust without its web page: start it in a process of its own, read what it measured.

Locust patches the standard library of the process that imports it, hence the process.
"""

import contextlib
import http.client
import importlib.util
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from models.artifact import ModelArtifact
from models.repository import ModelRepository
from service.remote import RemoteModel

_LOCUSTFILE = Path(__file__).with_name("locustfile.py")
_START_S = 60.0
# Longer than the service's own drain time-out.
_STOP_S = 40.0


class LoadTestError(Exception):
    """No service to load, no locust to load it with, or locust broke."""


@dataclass(frozen=True, slots=True)
class Figures:
    """What one load test measured.

    Attributes:
        url: The service.
        model: ``name:version`` whose golden images were sent.
        users: Connections at once, each waiting for its answer before it sends the next request.
        duration_s: How long, once all users were there.
        requests: Answers in that time.
        failures: How many of them were no 200 or had another label than the recorded one.
        requests_per_s: Answers a second.
        p50_ms: Half of the answers took at most this long.
        p95_ms: 95 % did.
        p99_ms: 99 % did.
        causes: Kind of failure to how many.
        out: Folder of locust's report.html and CSV files.
    """

    url: str
    model: str
    users: int
    duration_s: int
    requests: int
    failures: int
    requests_per_s: float
    p50_ms: float
    p95_ms: float
    p99_ms: float
    causes: dict[str, int]
    out: str


def run_locust(
    url: str, repository: ModelRepository, artifact: ModelArtifact, out: Path, *,
    users: int, duration_s: int,
) -> Figures:  # fmt: skip
    """Load a service and measure it.

    Args:
        url: ``http://host:port`` of a service that serves the version.
        repository: Where the version's golden images lie here.
        artifact: The version; its images are sent, its labels expected back.
        out: Folder for report.html, the CSV files and locust's log; made if need be.
        users: Connections at once, 1 or more.
        duration_s: Seconds of load, 1 or more.

    Raises:
        LoadTestError: locust is not installed, or ended without figures.
        RemoteError: There is no service at ``url``, or it does not serve the version.
    """
    if importlib.util.find_spec("locust") is None:
        raise LoadTestError("loadtest: expected locust, got none; pip install 'foveal[loadtest]'")
    if not artifact.golden:
        raise LoadTestError(f"{artifact.reference}: expected golden images to send, got none")
    # One at a time first: an address or a model that is wrong is said before any load.
    image = repository.read_file(artifact, artifact.golden[0].path)
    RemoteModel(url, artifact.reference).predict([image], 1)
    golden = repository.path(artifact.name, artifact.version).resolve()
    out = out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    figures = out / "figures.json"
    figures.unlink(missing_ok=True)
    log = out / "locust.log"
    command = [
        sys.executable, "-P", "-m", "locust", "--headless", "--only-summary", "--reset-stats",
        "--locustfile", _LOCUSTFILE, "--host", url, "--golden", golden, "--figures", figures,
        "--users", users, "--spawn-rate", users, "--run-time", f"{duration_s}s",
        "--csv", out / "stats", "--html", out / "report.html",
    ]  # fmt: skip
    with log.open("wb") as file:
        # In ``out``: locust takes options from a locust.conf where it is started.
        ended = subprocess.run(
            list(map(str, command)), cwd=out, stdout=file, stderr=subprocess.STDOUT, check=False
        )
    try:
        measured = json.loads(figures.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise LoadTestError(
            f"locust: expected figures, got exit code {ended.returncode}; {log} says why"
        ) from None
    return Figures(url, artifact.reference, users, duration_s, **measured, out=str(out))


@contextlib.contextmanager
def running_service(command: Sequence[str], log: Path) -> Iterator[str]:
    """Start a service on a free port, wait until it is ready, stop it in the end.

    Args:
        command: What starts it; ``--host`` and ``--port`` are appended.
        log: File for what it says.

    Yields:
        Its URL.

    Raises:
        LoadTestError: It is not ready within a minute, or ended.
    """
    port = _free_port()
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as file:
        process = subprocess.Popen(
            [*command, "--host", "127.0.0.1", "--port", str(port)],
            env={**os.environ, "FOVEAL_GRPC_PORT": "0"},  # beside any other service
            stdout=file,
            stderr=subprocess.STDOUT,
        )
    try:
        _wait_ready(process, port, log)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        try:
            process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_ready(process: "subprocess.Popen[bytes]", port: int, log: Path) -> None:
    deadline = time.monotonic() + _START_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise LoadTestError(
                f"service: expected it to start, got exit code {process.returncode}; {log} says why"
            )
        if _is_ready(port):
            return
        time.sleep(0.1)
    raise LoadTestError(f"service: expected it ready in {_START_S:.0f} s, got none; see {log}")


def _is_ready(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/readyz")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
