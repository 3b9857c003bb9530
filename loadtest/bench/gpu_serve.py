"""The service on a GPU: seconds to the first answer, and rows/s of V2 tensors over HTTP.

    python -m loadtest.bench.gpu_serve --models MODELS --model resnet50 --out DIR

Server and load share the machine: wrk gets a quarter of its cores. Without wrk only the starts are
measured. ``--device cpu`` is a rehearsal.
"""

import argparse
import json
import os
import re
import shutil
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from loadtest.bench.wrk import drive
from loadtest.serving import free_port, running
from models.repository import ModelRepository

HOME = Path(__file__).resolve().parents[2]
# Rows a request, connections.
_LOADS = ((1, 1), (1, 64), (1, 256), (8, 64), (32, 16), (32, 64))
# Lines of the log that say where the time of a start went.
_STEPS = re.compile(r"(?:ready in|opened a session|batches of|ready after).*")
_HEADER = "Inference-Header-Content-Length"


@dataclass(frozen=True, slots=True)
class Case:
    """What is served: a model of a repository, on a device, at a precision."""

    models: Path
    model: str
    device: str
    precision: str


def measure(case: Case, workers: int, seconds: int, folder: Path) -> Iterator[dict[str, Any]]:
    """Start a service and drive it; yields a figure of the start, then one of each load."""
    models, model, device = case.models, case.model, case.device
    port = free_port()
    words = [sys.executable, str(HOME / "foveal.py"), "serve", "--models", str(models)]
    words += ["--host", "127.0.0.1", "--port", str(port), "--workers", str(workers)]
    words += ["--device", device]
    variables = {
        "BENTOML_HOME": str(folder / "bentoml"),
        "FOVEAL_GRPC_PORT": "0",
        "FOVEAL_PRECISION": case.precision,
        "FOVEAL_DEFAULT_MODEL": model,
    }
    url = f"http://127.0.0.1:{port}/v2/models/{model}/infer"
    repository = ModelRepository(models)
    shape = repository.load(*repository.resolve(model)).image.shape_HWC
    first, head = _write_body(folder, 1, shape)
    log = folder / f"{device}-{workers}.log"
    server_cpus, load_cpus = split_cores(sorted(os.sched_getaffinity(0)))
    started = time.monotonic()
    command = ["taskset", "-c", server_cpus, *words] if shutil.which("taskset") else words
    with running(command, log, lambda: _answers(url, first, head), variables=variables):
        yield {
            "workers": workers,
            "first_answer_s": time.monotonic() - started,
            "log": _STEPS.findall(log.read_text()),
        }
        if shutil.which("wrk") is None or shutil.which("taskset") is None:
            yield {"workers": workers, "error": "wrk or taskset is not installed: no load"}
            return
        for rows, connections in _LOADS:
            body, head = _write_body(folder, rows, shape)
            figure = drive(
                url,
                connections,
                seconds,
                body,
                "application/octet-stream",
                load_cpus,
                headers=f"{_HEADER}:{head}",
                threads=min(4, connections),
            )
            yield {
                "workers": workers,
                "rows": rows,
                "connections": connections,
                "rows_per_s": figure.requests_per_s * rows,
                "p50_ms": figure.p50_ms,
                "p99_ms": figure.p99_ms,
                "failed": figure.failed,
            }


def split_cores(cores: list[int]) -> tuple[str, str]:
    """Return the cores of the server and of the load, as ``taskset -c`` takes them.

    The load gets a quarter, at least one; of a single core both.
    """
    if len(cores) == 1:
        return str(cores[0]), str(cores[0])
    count = max(1, len(cores) // 4)
    return ",".join(map(str, cores[:-count])), ",".join(map(str, cores[-count:]))


def table(figures: list[dict[str, Any]]) -> str:
    """Return Markdown: the starts, then rows/s by workers, rows and connections."""
    lines = ["| workers | first answer, s |", "|---|---|"]
    lines += [
        f"| {f['workers']} | {f['first_answer_s']:.1f} |" for f in figures if "first_answer_s" in f
    ]
    lines += [
        "",
        "| workers | rows a request | connections | rows/s | p50 ms | p99 ms | failed |",
        "|---|---|---|---|---|---|---|",
    ]
    for f in figures:
        if "rows" in f:
            cells = f"{f['workers']} | {f['rows']} | {f['connections']} | {f['rows_per_s']:,.0f}"
            lines.append(f"| {cells} | {f['p50_ms']:.1f} | {f['p99_ms']:.1f} | {f['failed']} |")
        elif "error" in f:
            lines.append(f"| {f['workers']} | {f['error']} |")
    return "\n".join(lines) + "\n"


def _write_body(folder: Path, rows: int, shape: tuple[int, ...]) -> tuple[Path, int]:
    """Write a request of random rows; return its path and the length of its JSON."""
    pixels = np.random.default_rng(0).integers(0, 256, (rows, *shape), np.uint8)
    tensor: dict[str, Any] = {"name": "images", "shape": pixels.shape, "datatype": "UINT8"}
    tensor["parameters"] = {"binary_data_size": pixels.nbytes}
    outputs = [{"name": "probabilities", "parameters": {"binary_data": True}}]
    head = json.dumps({"inputs": [tensor], "outputs": outputs}).encode()
    path = folder / f"{rows}.bin"
    path.write_bytes(head + pixels.tobytes())
    return path, len(head)


def _answers(url: str, body: Path, head: int) -> bool:
    request = urllib.request.Request(url, body.read_bytes(), {_HEADER: str(head)})
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def main() -> None:
    """Measure one worker and two, and write ``serve.json`` and ``serve.md``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--models", type=Path, required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--workers", default="1,2")
    parser.add_argument("--seconds", type=int, default=3)
    options = parser.parse_args()
    case = Case(options.models, options.model, options.device, options.precision)
    figures: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        for workers in map(int, options.workers.split(",")):
            for figure in measure(case, workers, options.seconds, Path(folder)):
                print(json.dumps(figure), file=sys.stderr, flush=True)
                figures.append(figure)
                (options.out / "serve.json").write_text(
                    json.dumps({"figures": figures}, indent=1) + "\n"
                )
                (options.out / "serve.md").write_text(table(figures))


if __name__ == "__main__":
    main()
