"""Peers side by side, one run: requests/s and latency of each server on the same graph and image.

Each server runs alone on CPU 0, wrk (a Debian package) drives it from CPU 1 in a closed loop,
rounds are interleaved so that a machine whose speed drifts drifts for all, medians are compared.
Every peer has an environment of its own under ``.peers/``, made on first use. What a figure here
says: how much of one core is left for the model. What it does not: anything about another machine;
compare only within one run.
"""

import argparse
import dataclasses
import json
import os
import platform
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

HERE = Path(__file__).resolve().parent
PEERS = HERE / "peers"
_BOUNDARY = "foveal-bench"
_ORT, _PILLOW = "onnxruntime==1.31.1", "pillow==13.0.0"


@dataclasses.dataclass(frozen=True, slots=True)
class Peer:
    """A server to compare with.

    Attributes:
        name: As the table prints it.
        requirements: What its environment needs, pinned.
        command: Words after the environment's ``bin/``; {port} is filled in.
        path: Route of a prediction.
        is_multipart: Whether it takes a form with the file ``images``.
    """

    name: str
    requirements: tuple[str, ...]
    command: str
    path: str
    is_multipart: bool = False


ALL_PEERS = (
    Peer(
        "bentoml", ("bentoml==1.4.39", _ORT, _PILLOW, "numpy", "uvloop", "httptools"),
        "bentoml serve bentoml_stock:Stock --port {port}", "/predict", True,
    ),
    Peer(
        "fastapi",
        ("fastapi", "uvicorn==0.54.0", _ORT, _PILLOW, "numpy", "uvloop", "httptools"),
        "uvicorn fastapi_plain:app --port {port} --no-access-log --log-level warning", "/predict",
    ),
    Peer(
        "litserve", ("litserve==0.2.19", "python-multipart", _ORT, _PILLOW, "numpy"),
        "python litserve_batched.py", "/predict", True,
    ),
    Peer(
        "mosec", ("mosec==0.9.8", _ORT, _PILLOW, "numpy"),
        "python mosec_batched.py --port {port}", "/inference",
    ),
)  # fmt: skip


@dataclasses.dataclass(frozen=True, slots=True)
class Case:
    """What every server of a run is asked.

    Attributes:
        name: As the table prints it.
        onnx: The graph that every peer loads.
        models: Repository that foveal serves the same graph from.
        model: Its name there.
        image: The encoded image that every request carries.
    """

    name: str
    onnx: Path
    models: Path
    model: str
    image: Path

    @property
    def media_type(self) -> str:
        """Return the content type of the image."""
        return "image/png" if self.image.suffix == ".png" else "image/jpeg"


@dataclasses.dataclass(frozen=True, slots=True)
class Plan:
    """How a run is done: rounds, seconds a measurement, connections, and which CPUs do what."""

    rounds: int = 3
    seconds: int = 4
    connections: tuple[int, ...] = (1, 16, 64)
    server_cpus: str = "0"
    load_cpu: str = "1"
    only: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, slots=True)
class Figure:
    """One wrk run: requests/s, milliseconds, and what went wrong."""

    requests_per_s: float
    p50_ms: float
    p99_ms: float
    failed: int


def run(cases: list[Case], plan: Plan, say: Callable[[str], None]) -> dict[str, object]:
    """Measure every server on every case.

    Args:
        cases: What to ask.
        plan: How.
        say: Called with a line of progress after each measurement.

    Returns:
        ``machine``, ``date``, ``plan``, ``limits`` (case to figures of the raw session) and
        ``figures`` (case, server, connections to medians), ready for JSON.
    """
    peers = [peer for peer in ALL_PEERS if not plan.only or peer.name in plan.only]
    binaries = {peer.name: environment(peer) for peer in peers}
    figures: dict[tuple[str, str, int], list[Figure]] = {}
    limits: dict[str, list[dict[str, float]]] = {}
    for _ in range(plan.rounds):
        for case in cases:
            limits.setdefault(case.name, []).append(raw_figures(case, plan))
            servers = [
                ("foveal", foveal_command(4100), 4100, f"/models/{case.model}/predict", False)
            ]
            servers += [
                (p.name, [*_words(binaries[p.name], p, 4101 + i)], 4101 + i, p.path, p.is_multipart)
                for i, p in enumerate(peers)
            ]
            for name, command, port, path, is_multipart in servers:
                with serving(command, case, port, plan):
                    for connections, figure in _drive(case, port, path, is_multipart, plan):
                        figures.setdefault((case.name, name, connections), []).append(figure)
                        say(f"{case.name} {name} {connections}: {figure}")
    return {
        "machine": machine(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "plan": dataclasses.asdict(plan),
        "peers": {peer.name: list(peer.requirements) for peer in peers},
        "limits": {name: medians(rounds) for name, rounds in limits.items()},
        "figures": [
            {"case": case, "server": server, "connections": connections,
             **medians([dataclasses.asdict(figure) for figure in rounds])}
            for (case, server, connections), rounds in figures.items()
        ],
    }  # fmt: skip


def environment(peer: Peer) -> Path:
    """Return the ``bin`` of a peer's environment; make it if it is not there."""
    folder = Path(os.environ.get("FOVEAL_PEERS", ".peers")).absolute() / peer.name
    if not (folder / ".made").exists():
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        pip = [str(folder / "bin/python"), "-m", "pip", "install", "-q", *peer.requirements]
        subprocess.run(pip, check=True)
        (folder / ".made").touch()
    return folder / "bin"


def machine() -> str:
    """Return processor, number of cores and system, for the head of a results file."""
    cpuinfo = Path("/proc/cpuinfo")
    names = re.findall(r"model name\s*: (.*)", cpuinfo.read_text()) if cpuinfo.exists() else []
    name = names[0] if names else platform.processor()
    return f"{name}, {os.cpu_count()} cores, {platform.system()}"


def table(results: dict[str, object]) -> str:
    """Render the results as Markdown tables: a row a server, ratios at the last connections."""
    figures = results["figures"]
    assert isinstance(figures, list)
    lines: list[str] = []
    for case in dict.fromkeys(f["case"] for f in figures):
        rows = [f for f in figures if f["case"] == case]
        connections = sorted({f["connections"] for f in rows})
        ours = {f["connections"]: f for f in rows if f["server"] == "foveal"}
        heads = [f"{c} conn." for c in connections]
        lines += [
            f"| {case}: requests/s | {' | '.join(heads)} | p50 / p99 ms at {connections[-1]} | "
            f"foveal is x times at {connections[-1]} | failed |",
            "|---" * (len(connections) + 4) + "|",
        ]
        for server in dict.fromkeys(f["server"] for f in rows):
            mine = {f["connections"]: f for f in rows if f["server"] == server}
            last = mine[connections[-1]]
            ratio = ours[connections[-1]]["requests_per_s"] / max(last["requests_per_s"], 1e-9)
            cells = " | ".join(f"{mine[c]['requests_per_s']:,.0f}" for c in connections)
            lines.append(
                f"| {server} | {cells} | {last['p50_ms']:.2f} / {last['p99_ms']:.2f} | "
                f"{ratio:.2f} | {sum(int(f['failed']) for f in mine.values())} |"
            )
        limits = results["limits"]
        assert isinstance(limits, dict)
        limit = limits[case]
        share = ours[connections[-1]]["requests_per_s"] / limit["limit_per_s"]
        lines += [
            "",
            f"Limit of one core, decode {limit['decode_us']:.1f} us + run "
            f"{1e6 / limit['rows_per_s_64']:.1f} us a row: {limit['limit_per_s']:,.0f} images/s; "
            f"foveal answers {share:.2f} of it. Session alone, rows/s: "
            f"{limit['rows_per_s_1']:,.0f} one by one, {limit['rows_per_s_64']:,.0f} in 64s.",
            "",
        ]
    return "\n".join(lines)


def foveal_command(port: int) -> list[str]:
    """Return the words that start this service on a port."""
    bentoml = Path(sys.executable).parent / "bentoml"
    return [str(bentoml), "serve", "service.app:Foveal", "--port", str(port),
            "--working-dir", str(HERE.parent)]  # fmt: skip


def _words(binaries: Path, peer: Peer, port: int) -> Iterator[str]:
    first, *rest = peer.command.format(port=port).split()
    yield str(binaries / first)
    yield from rest


def raw_figures(case: Case, plan: Plan) -> dict[str, float]:
    """Measure decode and session alone on the server's CPU."""
    done = subprocess.run(
        ["taskset", "-c", plan.server_cpus.split(",")[0], sys.executable,
         str(HERE / "raw_session.py"), str(case.onnx), str(case.image)],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    figures: dict[str, float] = json.loads(done.stdout)
    return figures


@contextmanager
def serving(
    command: list[str], case: Case, port: int, plan: Plan, grpc_port: int = 0
) -> Iterator[None]:
    """Run a server pinned to its CPUs, from the peers' folder, until the block ends."""
    variables = {
        **os.environ,
        "PEER_ONNX": str(case.onnx),
        "PEER_PORT": str(port),
        "FOVEAL_MODELS": str(case.models),
        "FOVEAL_WORKERS": str(len(plan.server_cpus.split(","))),
        "FOVEAL_GRPC_PORT": str(grpc_port),
        "BENTOML_DO_NOT_TRACK": "True",
    }
    log = Path(tempfile.gettempdir()) / f"foveal-bench-{port}.log"
    with log.open("w") as output:
        server = subprocess.Popen(
            ["taskset", "-c", plan.server_cpus, *command],
            cwd=PEERS, env=variables, stdout=output, stderr=output, start_new_session=True,
        )  # fmt: skip
    try:
        yield
    finally:
        for number in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(server.pid, number)
                time.sleep(1.0)
            except ProcessLookupError:
                break
        server.wait()


def _drive(
    case: Case, port: int, path: str, is_multipart: bool, plan: Plan
) -> Iterator[tuple[int, Figure]]:
    body = Path(tempfile.gettempdir()) / f"foveal-bench-{'form' if is_multipart else 'raw'}"
    media_type = case.media_type
    content = case.image.read_bytes()
    if is_multipart:
        media_type = f"multipart/form-data; boundary={_BOUNDARY}"
        content = (
            f'--{_BOUNDARY}\r\nContent-Disposition: form-data; name="images"; filename="i"\r\n'
            f"Content-Type: {case.media_type}\r\n\r\n"
        ).encode() + content + f"\r\n--{_BOUNDARY}--\r\n".encode()  # fmt: skip
    body.write_bytes(content)
    url = f"http://127.0.0.1:{port}{path}"
    wait_ready(url, content, media_type)
    wrk(url, 16, 2, body, media_type, plan)
    for connections in plan.connections:
        yield connections, wrk(url, connections, plan.seconds, body, media_type, plan)


def wait_ready(url: str, content: bytes, media_type: str) -> None:
    """Ask until the answer is 200, a minute at most."""
    deadline = time.monotonic() + 60
    while True:
        try:
            request = urllib.request.Request(url, content, {"Content-Type": media_type})
            with urllib.request.urlopen(request, timeout=5):
                return
        except (urllib.error.URLError, OSError) as error:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{url}: expected an answer within 60 s, got {error}") from None
            time.sleep(0.25)


def wrk(  # noqa: PLR0913 - one run's words
    url: str, connections: int, seconds: int, body: Path, media_type: str, plan: Plan, *,
    headers: str = "",
) -> Figure:  # fmt: skip
    """Drive a URL with one body from the load's CPU.

    Args:
        url: Where.
        connections: Kept open and busy.
        seconds: How long.
        body: File that every request carries.
        media_type: Its content type.
        plan: Which CPU.
        headers: Further ones, ``Name:value`` separated by semicolons.
    """
    done = subprocess.run(
        ["taskset", "-c", plan.load_cpu, "wrk", "-t1", f"-c{connections}", f"-d{seconds}s",
         "--latency", "-s", str(PEERS / "post.lua"), url],
        capture_output=True, text=True, check=True,
        env={**os.environ, "BODY": str(body), "CT": media_type, "HDR": headers},
    )  # fmt: skip
    said = done.stdout

    def find(pattern: str) -> str:
        match = re.search(pattern, said)
        return match[1] if match else ""

    sockets = [int(n) for n in re.findall(r"(?:connect|read|write|timeout) (\d+)", said)]
    return Figure(
        float(find(r"Requests/sec:\s+([\d.]+)") or 0),
        _milliseconds(find(r"50%\s+(\S+)")),
        _milliseconds(find(r"99%\s+(\S+)")),
        int(find(r"Non-2xx or 3xx responses: (\d+)") or 0) + sum(sockets),
    )


def _milliseconds(text: str) -> float:
    match = re.fullmatch(r"([\d.]+)(us|ms|s|m)", text)
    factors = {"us": 1e-3, "ms": 1.0, "s": 1e3, "m": 6e4}
    return float(match[1]) * factors[match[2]] if match else 0.0


def medians(rounds: list[dict[str, float]]) -> dict[str, float]:
    """Return the median of each figure over some rounds."""
    return {key: statistics.median(figures[key] for figures in rounds) for key in rounds[0]}


def main() -> None:
    """Measure the shipped fully connected network, write the report, print the JSON last."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=4, help="per measurement")
    parser.add_argument("--only", default="", help="peers, comma-separated; default: all")
    options = parser.parse_args()
    models = HERE.parent / "models"
    version = models / "fashion-fcnn/1"
    case = Case(
        "fcnn 28x28 PNG", version / "model.onnx", models, "fashion-fcnn", version / "golden/0.png"
    )
    only = tuple(name for name in options.only.split(",") if name)
    plan = Plan(rounds=options.rounds, seconds=options.seconds, only=only)
    results = run([case], plan, lambda line: print(line, file=sys.stderr, flush=True))
    stem = HERE / "results" / f"peers_{datetime.now(UTC):%Y-%m-%d_%H%M}"
    stem.with_suffix(".json").write_text(json.dumps(results, indent=1) + "\n")
    command = " ".join(["python -m loadtest.bench_peers", *sys.argv[1:]])
    head = f"# Peers, one server core\n\n{results['machine']}, {results['date']}, {command}"
    stem.with_suffix(".md").write_text(f"{head}\n\n{table(results)}")
    print(table(results))
    print(json.dumps(results))


if __name__ == "__main__":
    main()
