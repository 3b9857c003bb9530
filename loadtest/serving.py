"""Start a server for one measurement, wait until it answers, stop it; all benchmarks use this."""

import contextlib
import http.client
import os
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from loadtest.errors import LoadTestError

_START_S = 60.0
# Longer than the service's own drain time-out.
_STOP_S = 40.0
_POLL_S = 0.1
# Asks the server itself, whatever proxy the environment names.
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))

# What is started here is asked over plain HTTP without a key, whatever the environment says.
_OPEN = {
    "FOVEAL_API_KEYS_FILE": "",
    "FOVEAL_TLS_CERT": "",
    "FOVEAL_TLS_KEY": "",
    "FOVEAL_METRICS_PORT": "0",
}


@contextlib.contextmanager
def running(
    command: Sequence[str],
    log: Path,
    is_ready: Callable[[], bool],
    *,
    variables: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    poll_s: float = _POLL_S,
) -> Iterator[int]:
    """Run a server until the block ends.

    Args:
        command: Words that start it.
        log: File for its output.
        is_ready: Returns whether it answers; polled until it does.
        variables: Added to the environment.
        cwd: Working directory; None: this process's.
        poll_s: Seconds between two polls.

    Yields:
        Its process number.

    Raises:
        LoadTestError: It ended, or was not ready within a minute.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as file:
        process = subprocess.Popen(
            command,
            cwd=cwd,
            env={**os.environ, **(variables or {})},
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        _wait_ready(process, is_ready, log, poll_s)
        yield process.pid
    finally:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_STOP_S)
        # Some servers leave workers behind; they are in the session that was started here.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@contextlib.contextmanager
def running_service(command: Sequence[str], log: Path, grpc_port: int = 0) -> Iterator[str]:
    """Run ``foveal serve`` on a free port until the block ends.

    Args:
        command: Words that start it; ``--host`` and ``--port`` are appended.
        log: File for its output.
        grpc_port: Port of V2 over gRPC; 0: off, which avoids conflicts with other services.

    Yields:
        Its URL.

    Raises:
        LoadTestError: It ended, or was not ready within a minute.
    """
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    words = [*command, "--host", "127.0.0.1", "--port", str(port)]
    variables = {"FOVEAL_GRPC_PORT": str(grpc_port), **_OPEN}
    with running(words, log, lambda: is_answered(f"{url}/readyz"), variables=variables):
        yield url


def is_answered(url: str, content: bytes | None = None, media_type: str = "") -> bool:
    """Return whether a request gets 200: a GET, or a POST of some content."""
    headers = {"Content-Type": media_type} if content is not None else {}
    try:
        request = urllib.request.Request(url, content, headers)
        with _OPENER.open(request, timeout=5) as answer:
            return bool(answer.status == 200)
    except (OSError, http.client.HTTPException):  # an URLError is an OSError
        return False


def free_port() -> int:
    """Return a port that no process listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_ready(
    process: "subprocess.Popen[bytes]", is_ready: Callable[[], bool], log: Path, poll_s: float
) -> None:
    deadline = time.monotonic() + _START_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise LoadTestError(
                f"service: expected it to start, got exit code {process.returncode}; see {log}"
            )
        if is_ready():
            return
        time.sleep(poll_s)
    raise LoadTestError(f"service: expected it ready within {_START_S:.0f} s, got none; see {log}")
