"""V2's wires side by side, one run: rows/s of JSON, binary tensors and gRPC beside the raw session.

The server runs on CPU 0, wrk (for gRPC ``grpc_load``, which costs its CPU more than wrk does) on
CPU 1, in a closed loop; rounds are interleaved and medians compared, as in ``bench_peers``. What a
figure says: how much of one core is left for the model. Compare only within one run.
"""

import dataclasses
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from tritonclient.grpc import service_pb2

from loadtest.bench.peers import Case, Setup, medians, raw_figures
from loadtest.bench.servers import HERE, Probe, foveal, serving
from loadtest.bench.wrk import Figure, drive

PORT, GRPC_PORT = 4100, 4101
WIRES = ("json", "binary", "grpc")
# Rows a request -> connections: as many rows are out as keep the runner busy, fewer than the
# queue's 2,048, beyond which it refuses.
CONNECTIONS = {1: 64, 8: 64, 64: 16}
_HEADER = "Inference-Header-Content-Length"


def run(case: Case, setup: Setup, say: Callable[[str], None]) -> dict[str, Any]:
    """Measure every wire at every number of rows.

    Args:
        case: Which model.
        setup: How to run it; ``CONNECTIONS`` replaces its connections.
        say: Called with a line of progress after each measurement.

    Returns:
        ``model``, ``plan``, ``raw`` (figures of the session alone) and ``figures``
        (wire, rows, connections to medians, rows/s and their share of the raw session's at 64).
    """
    figures: dict[tuple[str, int], list[dict[str, float]]] = {}
    raw: list[dict[str, float]] = []
    for _ in range(setup.rounds):
        raw.append(raw_figures(case, setup))
        variables = {"FOVEAL_MODELS": str(case.models), "FOVEAL_GRPC_PORT": str(GRPC_PORT)}
        url = f"http://127.0.0.1:{PORT}/models/{case.model}/predict"
        probe = Probe(url, case.body, case.media_type)
        with serving(foveal(PORT), PORT, setup.server_cpus, variables, probe):
            for wire, rows, figure in _drive(case, setup):
                figures.setdefault((wire, rows), []).append(dataclasses.asdict(figure))
                say(f"{wire} {rows}: {figure.requests_per_s * rows:,.0f} rows/s, {figure}")
    alone = medians(raw)
    measured = []
    for (wire, rows), rounds in figures.items():
        median = medians(rounds)
        rows_per_s = median["requests_per_s"] * rows
        share = rows_per_s / alone["rows_per_s_64"]
        measured.append(
            {
                "wire": wire,
                "rows": rows,
                "connections": CONNECTIONS[rows],
                **median,
                "rows_per_s": rows_per_s,
                "share_of_raw_64": share,
            }
        )
    return {
        "model": case.name,
        "plan": dataclasses.asdict(setup),
        "raw": alone,
        "figures": measured,
    }


def table(results: dict[str, Any], beside: dict[str, float]) -> str:
    """Render the results as a Markdown table: a row a wire, rows/s a column.

    Args:
        results: What ``run`` gave.
        beside: Rows/s of others, ``name/<rows> rows/<connections>`` each, of the same machine.
    """
    figures, raw = results["figures"], results["raw"]
    heads = [f"{rows} a request, {c} connections" for rows, c in CONNECTIONS.items()]
    lines = [f"| rows/s | {' | '.join(heads)} | of raw at 64 |", "|---" * 5 + "|"]
    for wire in dict.fromkeys(figure["wire"] for figure in figures):
        mine = {figure["rows"]: figure for figure in figures if figure["wire"] == wire}
        cells = " | ".join(f"{mine[rows]['rows_per_s']:,.0f}" for rows in CONNECTIONS)
        lines.append(f"| V2 {wire} | {cells} | {mine[64]['share_of_raw_64']:.2f} |")
    cells = " | ".join(f"{raw[f'rows_per_s_{rows}']:,.0f}" for rows in CONNECTIONS)
    lines.append(f"| the session alone | {cells} | 1.00 |")
    lines += [f"| {name} | {value:,.0f} | | | |" for name, value in beside.items()]
    failed = sum(int(figure["failed"]) for figure in figures)
    lines += [
        "",
        f"Failed requests: {failed}. wrk drives HTTP; a Python client drives gRPC, and its own "
        "core is a limit there.",
        "",
    ]
    return "\n".join(lines)


def _drive(case: Case, setup: Setup) -> Iterator[tuple[str, int, Figure]]:
    url = f"http://127.0.0.1:{PORT}/v2/models/{case.model}/infer"
    row_shape = _row_shape(case)
    with tempfile.TemporaryDirectory() as folder:
        for rows, connections in CONNECTIONS.items():
            pixels = np.random.default_rng(0).integers(0, 256, (rows, *row_shape), np.uint8)
            for wire in WIRES:
                body = Path(folder) / f"{wire}-{rows}"
                if wire == "grpc":
                    body.write_bytes(_message(case.model, pixels))
                    yield wire, rows, _grpc_load(body, connections, setup)
                    continue
                content, head_bytes = _document(pixels, is_binary=wire == "binary")
                body.write_bytes(content)
                media_type, headers = "application/json", ""
                if head_bytes:
                    media_type, headers = "application/octet-stream", f"{_HEADER}:{head_bytes}"
                ask = partial(drive, url, connections, cpu=setup.load_cpu, headers=headers)
                ask(seconds=1, body=body, media_type=media_type)
                figure = ask(seconds=setup.seconds, body=body, media_type=media_type)
                yield wire, rows, figure


def _row_shape(case: Case) -> list[int]:
    artifact = json.loads((case.onnx.parent / "model.json").read_text())
    shape: list[int] = artifact["inputs"][0]["shape"][1:]
    return shape


def _document(pixels: np.ndarray, *, is_binary: bool) -> tuple[bytes, int]:  # type: ignore[type-arg]
    """Return a request's body, and the length of its JSON if tensors follow it."""
    tensor: dict[str, object] = {"name": "images", "shape": list(pixels.shape), "datatype": "UINT8"}
    outputs = [{"name": "probabilities", "parameters": {"binary_data": is_binary}}]
    if not is_binary:
        tensor["data"] = pixels.ravel().tolist()
        return json.dumps({"inputs": [tensor], "outputs": outputs}).encode(), 0
    tensor["parameters"] = {"binary_data_size": pixels.nbytes}
    head = json.dumps({"inputs": [tensor], "outputs": outputs}).encode()
    return head + pixels.tobytes(), len(head)


def _message(model: str, pixels: np.ndarray) -> bytes:  # type: ignore[type-arg]
    request = service_pb2.ModelInferRequest(model_name=model, raw_input_contents=[pixels.tobytes()])
    request.inputs.add(name="images", datatype="UINT8", shape=pixels.shape)
    request.outputs.add(name="probabilities")
    message: bytes = request.SerializeToString()
    return message


def _grpc_load(request: Path, concurrency: int, setup: Setup) -> Figure:
    done = subprocess.run(
        [
            "taskset",
            "-c",
            setup.load_cpu,
            sys.executable,
            str(HERE / "grpc_load.py"),
            f"127.0.0.1:{GRPC_PORT}",
            str(request),
            str(concurrency),
            str(setup.seconds),
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    return Figure(**json.loads(done.stdout))
