"""Measure what the service costs before it has done anything: start to ready, memory a process.

    python deploy/footprint.py [RUNS] [WORD…]

Starts ``foveal serve`` on a free port (or the words given, with {port} in them), RUNS times (3),
and prints a line of JSON a run: seconds from the start to /readyz, and of supervisor and worker the
resident and the private memory, MiB, once ready and after 64 predictions a model. Needs the serving
environment and Linux.
"""

import json
import os
import shlex
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

import psutil  # type: ignore[import-untyped]

ROOT = Path(__file__).resolve().parent.parent
PATIENCE_S = 60.0
ASKED = 64


def measure(words: list[str], port: int) -> dict[str, object]:
    """Start, wait, ask, stop."""
    with tempfile.TemporaryDirectory() as home:
        environment = {**os.environ, "BENTOML_HOME": home, "FOVEAL_GRPC_HOST": "127.0.0.1"}
        environment.setdefault("FOVEAL_GRPC_PORT", str(free_port()))
        log = subprocess.DEVNULL
        started = time.monotonic()
        with subprocess.Popen(words, env=environment, stdout=log, stderr=log) as process:
            try:
                while not _is_ready(port):
                    if process.poll() is not None or time.monotonic() - started > PATIENCE_S:
                        raise SystemExit(f"{shlex.join(words)}: expected a ready service, got none")
                    time.sleep(0.01)
                ready_s = time.monotonic() - started
                idle = _memory(process.pid)
                _ask(port)
                return {"ready_s": round(ready_s, 2), "ready": idle, "asked": _memory(process.pid)}
            finally:
                process.terminate()


def free_port() -> int:
    """Return a port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _is_ready(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def _ask(port: int) -> None:
    """Send each shipped model its first golden image."""
    for golden in sorted((ROOT / "models").glob("*/*/golden/0.png")):
        url = f"http://127.0.0.1:{port}/models/{golden.parts[-4]}/predict"
        for _ in range(ASKED):
            urllib.request.urlopen(url, golden.read_bytes(), timeout=30).read()


def _memory(pid: int) -> list[dict[str, object]]:
    """Return resident and private MiB of a process and its children."""
    main = psutil.Process(pid)
    kinds = []
    for process in [main, *main.children(recursive=True)]:
        full = process.memory_full_info()
        is_worker = "_bentoml_impl.worker.service" in process.cmdline()
        kinds.append(
            {
                "process": "worker" if is_worker else "supervisor",
                "resident_mib": round(full.rss / 2**20, 1),
                "private_mib": round(full.uss / 2**20, 1),
            }
        )
    return kinds


def main() -> None:
    """Print a line a run."""
    runs, *words = sys.argv[1:] or ["3"]
    for _ in range(int(runs)):
        port = free_port()
        default = [sys.executable, str(ROOT / "foveal.py"), "serve", "--host", "127.0.0.1"]
        chosen = [word.replace("{port}", str(port)) for word in words]
        print(json.dumps(measure(chosen or [*default, "--port", str(port)], port)), flush=True)


if __name__ == "__main__":
    main()
