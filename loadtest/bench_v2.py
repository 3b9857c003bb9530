"""V2's wires side by side, one run: rows/s of JSON, binary tensors and gRPC beside the raw session.

The server runs on CPU 0, wrk (for gRPC ``grpc_load``, which costs its CPU more than wrk does) on
CPU 1, in a closed loop; rounds are interleaved and medians compared, as in ``bench_peers``. What a
figure says: how much of one core is left for the model. Compare only within one run.
"""

import argparse
import dataclasses
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from tritonclient.grpc import service_pb2

from loadtest.bench_peers import (
    Case,
    Figure,
    Plan,
    foveal_command,
    machine,
    medians,
    raw_figures,
    serving,
    wait_ready,
    wrk,
)

HERE = Path(__file__).resolve().parent
PORT, GRPC_PORT = 4100, 4101
WIRES = ("json", "binary", "grpc")
# Rows a request -> connections: as many rows are out as keep the runner busy, fewer than the
# queue's 2,048, beyond which it refuses.
CONNECTIONS = {1: 64, 8: 64, 64: 16}
_HEADER = "Inference-Header-Content-Length"


def run(case: Case, plan: Plan, say: Callable[[str], None]) -> dict[str, object]:
    """Measure every wire at every number of rows.

    Args:
        case: Which model.
        plan: How; its connections are not used, ``CONNECTIONS`` are.
        say: Called with a line of progress after each measurement.

    Returns:
        ``machine``, ``date``, ``plan``, ``raw`` (figures of the session alone) and ``figures``
        (wire, rows, connections to medians, rows/s and their share of the raw session's at 64).
    """
    figures: dict[tuple[str, int], list[dict[str, float]]] = {}
    raw: list[dict[str, float]] = []
    for _ in range(plan.rounds):
        raw.append(raw_figures(case, plan))
        with serving(foveal_command(PORT), case, PORT, plan, GRPC_PORT):
            url = f"http://127.0.0.1:{PORT}/models/{case.model}/predict"
            wait_ready(url, case.image.read_bytes(), case.media_type)
            for wire, rows, figure in _drive(case, plan):
                figures.setdefault((wire, rows), []).append(dataclasses.asdict(figure))
                say(f"{wire} {rows}: {figure.requests_per_s * rows:,.0f} rows/s, {figure}")
    alone = medians(raw)
    measured = []
    for (wire, rows), rounds in figures.items():
        median = medians(rounds)
        rows_per_s = median["requests_per_s"] * rows
        share = rows_per_s / alone["rows_per_s_64"]
        measured.append(
            {"wire": wire, "rows": rows, "connections": CONNECTIONS[rows], **median,
             "rows_per_s": rows_per_s, "share_of_raw_64": share}
        )  # fmt: skip
    return {
        "machine": machine(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "model": case.name,
        "plan": dataclasses.asdict(plan),
        "raw": alone,
        "figures": measured,
    }


def table(results: dict[str, object], beside: dict[str, float]) -> str:
    """Render the results as a Markdown table: a row a wire, rows/s a column.

    Args:
        results: What ``run`` gave.
        beside: Rows/s of others, ``name/<rows> rows/<connections>`` each, of the same machine.
    """
    figures, raw = results["figures"], results["raw"]
    assert isinstance(figures, list) and isinstance(raw, dict)
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
    return "\n".join([*lines, "", f"Failed requests: {failed}.", ""])


def _drive(case: Case, plan: Plan) -> Iterator[tuple[str, int, Figure]]:
    url = f"http://127.0.0.1:{PORT}/v2/models/{case.model}/infer"
    row_shape = _row_shape(case)
    with tempfile.TemporaryDirectory() as folder:
        for rows, connections in CONNECTIONS.items():
            pixels = np.random.default_rng(0).integers(0, 256, (rows, *row_shape), np.uint8)
            for wire in WIRES:
                body = Path(folder) / f"{wire}-{rows}"
                if wire == "grpc":
                    body.write_bytes(_message(case.model, pixels))
                    yield wire, rows, _grpc_load(body, connections, plan)
                    continue
                content, head_bytes = _document(pixels, is_binary=wire == "binary")
                body.write_bytes(content)
                media_type, headers = "application/json", ""
                if head_bytes:
                    media_type, headers = "application/octet-stream", f"{_HEADER}:{head_bytes}"
                wrk(url, connections, 1, body, media_type, plan, headers=headers)
                yield (
                    wire, rows,
                    wrk(url, connections, plan.seconds, body, media_type, plan, headers=headers),
                )  # fmt: skip


def _row_shape(case: Case) -> list[int]:
    artifact = json.loads((case.onnx.parent / "model.json").read_text())
    shape: list[int] = artifact["inputs"][0]["shape"][1:]
    return shape


def _document(pixels: np.ndarray, *, is_binary: bool) -> tuple[bytes, int]:  # type: ignore[type-arg]
    """Return a request's body, and the length of its JSON if tensors follow it."""
    tensor: dict[str, object] = {
        "name": "images", "shape": list(pixels.shape), "datatype": "UINT8",
    }  # fmt: skip
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


def _grpc_load(request: Path, concurrency: int, plan: Plan) -> Figure:
    done = subprocess.run(
        ["taskset", "-c", plan.load_cpu, sys.executable, str(HERE / "grpc_load.py"),
         f"127.0.0.1:{GRPC_PORT}", str(request), str(concurrency), str(plan.seconds)],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return Figure(**json.loads(done.stdout))


def main() -> None:
    """Measure the shipped fully connected network, write the report, print the JSON last."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=4, help="per measurement")
    parser.add_argument("--model", default="fashion-fcnn", help="one of the shipped models")
    parser.add_argument("--beside", type=Path, help="JSON of others' rows/s, name to rounds")
    parser.add_argument("--out", type=Path, default=HERE / "results", help="folder of the report")
    options = parser.parse_args()
    models = HERE.parent / "models"
    version = models / options.model / "1"
    case = Case(
        options.model, version / "model.onnx", models, options.model, version / "golden/0.png"
    )
    plan = Plan(rounds=options.rounds, seconds=options.seconds)
    results = run(case, plan, lambda line: print(line, file=sys.stderr, flush=True))
    beside = {}
    if options.beside is not None:
        others = json.loads(options.beside.read_text())
        beside = {name: float(np.median(rounds)) for name, rounds in others.items()}
        results["beside"] = beside
    stem = options.out / f"v2_{datetime.now(UTC):%Y-%m-%d_%H%M}"
    stem.with_suffix(".json").write_text(json.dumps(results, indent=1) + "\n")
    command = " ".join(["python -m loadtest.bench_v2", *sys.argv[1:]])
    head = (
        f"# V2, one server core: {case.name}\n\n"
        f"{results['machine']}, {results['date']}, {command}\n\n"
        "wrk drives HTTP; a Python client drives gRPC and is itself near its limit there.\n"
    )
    stem.with_suffix(".md").write_text(f"{head}\n{table(results, beside)}")
    print(table(results, beside))
    print(json.dumps(results))


if __name__ == "__main__":
    main()
