"""Measure what a start of the service costs: seconds until it is ready, memory of each process.

    python -m loadtest.bench.footprint [RUNS] [WORD…]

Starts ``foveal serve`` on a free port (or the words given, with {port} in them), RUNS times (3),
and prints a line of JSON a run: seconds from the start to /readyz, and of supervisor and worker the
resident and the private memory, MiB, once ready and after 64 predictions a model. Needs the serving
environment and Linux.
"""

import json
import os
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

import psutil  # type: ignore[import-untyped]

from loadtest.serving import free_port, is_answered, running

ROOT = Path(__file__).resolve().parents[2]
_POLL_S = 0.01  # what ready_s may be off
ASKED = 64


def measure(words: list[str], port: int) -> dict[str, object]:
    """Start a service, wait until it is ready, send it requests, stop it.

    Args:
        words: Words that start it on ``port``.
        port: Its HTTP port.

    Returns:
        ``ready_s``, and the processes' memory when ``ready`` and when it was ``asked``.

    Raises:
        LoadTestError: It ended, or was not ready within a minute.
    """
    with tempfile.TemporaryDirectory() as home:
        variables = {"BENTOML_HOME": home, "FOVEAL_GRPC_HOST": "127.0.0.1"}
        variables["FOVEAL_GRPC_PORT"] = os.environ.get("FOVEAL_GRPC_PORT") or str(free_port())
        log, url = Path(home) / "serve.log", f"http://127.0.0.1:{port}/readyz"
        started = time.monotonic()
        with running(
            words, log, lambda: is_answered(url), variables=variables, poll_s=_POLL_S
        ) as pid:
            ready_s = time.monotonic() - started
            idle = _memory(pid)
            _ask(port)
            return {"ready_s": round(ready_s, 2), "ready": idle, "asked": _memory(pid)}


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
        is_worker = not process.children()
        kinds.append(
            {
                "process": "worker" if is_worker else "supervisor",
                "resident_mib": round(full.rss / 2**20, 1),
                "private_mib": round(full.uss / 2**20, 1),
            }
        )
    return kinds


def main() -> None:
    """Print one line of JSON per run."""
    runs, *words = sys.argv[1:] or ["3"]
    for _ in range(int(runs)):
        port = free_port()
        default = [sys.executable, str(ROOT / "foveal.py"), "serve", "--host", "127.0.0.1"]
        chosen = [word.replace("{port}", str(port)) for word in words]
        print(json.dumps(measure(chosen or [*default, "--port", str(port)], port)), flush=True)


if __name__ == "__main__":
    main()
