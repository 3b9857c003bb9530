"""A service started for one load test, on a free port, and stopped when it is over."""

import contextlib
import http.client
import os
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from loadtest.errors import LoadTestError

_START_S = 60.0
# Longer than the service's own drain time-out.
_STOP_S = 40.0


@contextlib.contextmanager
def running_service(command: Sequence[str], log: Path, grpc_port: int = 0) -> Iterator[str]:
    """Start a service on a free port, wait until it is ready, stop it in the end.

    Args:
        command: What starts it; ``--host`` and ``--port`` are appended.
        log: File for what it says.
        grpc_port: Of V2 over gRPC; 0: off, so that it gets on with any other service.

    Yields:
        Its URL.

    Raises:
        LoadTestError: It is not ready within a minute, or ended.
    """
    port = free_port()
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as file:
        process = subprocess.Popen(
            [*command, "--host", "127.0.0.1", "--port", str(port)],
            env={**os.environ, "FOVEAL_GRPC_PORT": str(grpc_port)},
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


def free_port() -> int:
    """Return a port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
