"""What a start of the service costs: seconds to the first right answer, processor time, memory.

Starts ``foveal serve`` again and again, each in a fresh process with an empty home for BentoML, and
asks for the label of a golden image until the right one comes. Memory is read once ready, and
again after requests to every model. Needs Linux.
"""

import http.client
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import psutil  # type: ignore[import-untyped]

from loadtest.errors import LoadTestError
from loadtest.samples import percentile
from loadtest.serving import free_port, running
from models.repository import ModelRepository

ROOT = Path(__file__).resolve().parents[2]
ASKED = 64  # requests to each model before memory is read again
_POLL_S = 0.01  # what the seconds may be off
_KINDS = ("supervisor", "worker")


def measure(models: Path, log: Path) -> dict[str, Any]:
    """Start a service, wait for its first right answer, send it requests, stop it.

    Args:
        models: Model repository; its default model is asked first.
        log: File for the service's output.

    Returns:
        ``first_answer_s``; ``cpu_s``, user and system, of all processes until then; ``processes``;
        and of supervisor and worker ``rss_mib``, ``pss_mib`` and ``uss_mib`` once ``ready`` and
        when they were ``asked``.

    Raises:
        LoadTestError: It ended, or did not answer within a minute.
    """
    port = free_port()
    words = [sys.executable, str(ROOT / "foveal.py"), "serve", "--models", str(models)]
    words += ["--host", "127.0.0.1", "--port", str(port)]
    images, first = _images(models), ModelRepository(models).resolve(None)[0]
    with tempfile.TemporaryDirectory() as home:
        variables = {
            "BENTOML_HOME": home,
            "FOVEAL_GRPC_PORT": os.environ.get("FOVEAL_GRPC_PORT") or str(free_port()),
        }
        started = time.monotonic()
        with running(
            words,
            log,
            lambda: _is_right(port, first, *images[first]),
            variables=variables,
            poll_s=_POLL_S,
        ) as pid:
            seconds = time.monotonic() - started
            processes = _processes(pid)
            cpu_s = sum(sum(process.cpu_times()[:2]) for process in processes)
            ready = _memory(processes)
            for name, (content, label) in images.items():
                for _ in range(ASKED):
                    if not _is_right(port, name, content, label):
                        raise LoadTestError(f"{name}: expected {label!r} for its golden image")
            return {
                "first_answer_s": round(seconds, 3),
                "cpu_s": round(cpu_s, 2),
                "processes": len(processes),
                "ready": ready,
                "asked": _memory(processes),
            }


def run(models: Path, starts: int, say: Callable[[str], None]) -> dict[str, Any]:
    """Measure several starts, after one that does not count: it fills the system's file cache.

    Args:
        models: Model repository.
        starts: How many count.
        say: Is told each one.
    """
    rounds = []
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "serve.log"
        measure(models, log)
        for number in range(starts):
            rounds.append(measure(models, log))
            say(f"{number + 1} of {starts}: {rounds[-1]['first_answer_s']:.2f} s")
    seconds_N = np.array([each["first_answer_s"] for each in rounds])
    return {
        "starts": starts,
        "p50_s": round(percentile(seconds_N, 0.5), 2),
        "p99_s": round(percentile(seconds_N, 0.99), 2),
        "cpu_s": round(median(each["cpu_s"] for each in rounds), 2),
        "processes": max(each["processes"] for each in rounds),
        "memory": {
            moment: {
                kind: {
                    name: round(median(each[moment][kind][name] for each in rounds), 1)
                    for name in ("rss_mib", "pss_mib", "uss_mib")
                }
                for kind in _KINDS
            }
            for moment in ("ready", "asked")
        },
        "rounds": rounds,
    }


def table(results: dict[str, Any]) -> str:
    """Return the results of ``run`` as Markdown."""
    lines = [
        f"| {results['starts']} starts | p50 | p99 |",
        "|---|---|---|",
        f"| first right answer, s | {results['p50_s']} | {results['p99_s']} |",
        "",
        f"Processor time until then, of {results['processes']} processes: {results['cpu_s']} s "
        "(median).",
        "",
        "| MiB (median) | resident | its share of it (PSS) | its own (USS) |",
        "|---|---|---|---|",
    ]
    for moment, words in (("ready", "ready"), ("asked", f"after {ASKED} requests a model")):
        for kind in _KINDS:
            memory = results["memory"][moment][kind]
            cells = " | ".join(str(memory[name]) for name in ("rss_mib", "pss_mib", "uss_mib"))
            lines.append(f"| {kind}, {words} | {cells} |")
    return "\n".join(lines) + "\n"


def _images(models: Path) -> dict[str, tuple[bytes, str]]:
    """Return each model's first golden image and its label."""
    repository, images = ModelRepository(models), {}
    for name in repository.names():
        artifact = repository.load(*repository.resolve(name))
        golden = artifact.golden[0]
        images[name] = repository.read_file(artifact, golden.path), golden.label
    return images


def _is_right(port: int, model: str, content: bytes, label: str) -> bool:
    """Return whether a model answers with a label."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request("POST", f"/models/{model}/predict?top=1", content)
        answer = connection.getresponse()
        body = answer.read()
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
    if answer.status != 200:
        return False
    (result,) = json.loads(body)["results"]
    return bool(result["predictions"][0]["label"] == label)


def _processes(pid: int) -> list[psutil.Process]:
    main = psutil.Process(pid)
    return [main, *main.children(recursive=True)]


def _memory(processes: list[psutil.Process]) -> dict[str, dict[str, float]]:
    """Return MiB of the supervisor and of a worker: resident, its share of it, and its own."""
    kinds = {}
    for kind, process in zip(_KINDS, processes, strict=False):
        full = process.memory_full_info()
        kinds[kind] = {
            f"{name}_mib": round(getattr(full, name) / 2**20, 1) for name in ("rss", "pss", "uss")
        }
    return kinds
