"""Peers side by side, one run: requests/s and latency of each server on the same graph and image.

Each server runs alone on its cores, wrk drives it from another in a closed loop, rounds are
interleaved so that a machine whose speed drifts drifts for all, medians are compared. What a figure
here says: how much of the server's cores is left for the model. What it does not: anything about
another machine; compare only within one run.
"""

import dataclasses
import io
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from typing import Any

from PIL import Image

from loadtest.bench import photo
from loadtest.bench.servers import ALL_PEERS, HERE, Probe, command_of, foveal, serving
from loadtest.bench.wrk import Figure, as_form, drive
from models.repository import ModelRepository

CASES = ("fcnn", "cnn", "photo")
# 64 photographs of 12 megapixels would wait for many seconds.
_PHOTO_CONNECTIONS = 1, 16


@dataclasses.dataclass(frozen=True, slots=True)
class Choice:
    """A row of its own for foveal: what a user may choose, and peers have not.

    Attributes:
        name: As the table prints it.
        models: Repository in place of the case's.
        variables: Settings of the service.
    """

    name: str
    models: Path
    variables: dict[str, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, slots=True)
class Case:
    """What every server of a run is asked.

    Attributes:
        name: As the table prints it.
        onnx: The graph that every peer loads.
        models: Repository that foveal serves the same graph from.
        model: Its name there.
        body: Encoded image that every request carries.
        media_type: Of the image.
        is_photo: Whether peers resize it as tutorials do: shorter side to 256, centre of 224.
        connections: Concurrent requests, in place of the setup's; empty: the setup's.
        choices: Further rows of foveal.
    """

    name: str
    onnx: Path
    models: Path
    model: str
    body: bytes
    media_type: str
    is_photo: bool = False
    connections: tuple[int, ...] = ()
    choices: tuple[Choice, ...] = ()


@dataclasses.dataclass(frozen=True, slots=True)
class Setup:
    """How the benchmark is run.

    Attributes:
        rounds: Measurements of each figure; the median counts.
        seconds: Length of one measurement.
        connections: Concurrent requests; one figure for each number.
        server_cpus: CPUs as ``taskset -c`` takes them; Foveal gets one worker per CPU.
        load_cpu: CPU of wrk.
        only: Names of peers; empty for all.
        is_multipart: Send forms to Foveal as well, as to peers that accept nothing else.
    """

    rounds: int = 3
    seconds: int = 4
    connections: tuple[int, ...] = (1, 16, 64)
    server_cpus: str = "0"
    load_cpu: str = "1"
    only: tuple[str, ...] = ()
    is_multipart: bool = False


def make_cases(models: Path, names: tuple[str, ...], say: Callable[[str], None]) -> list[Case]:
    """Return the cases of ``CASES`` by name.

    The small ones are made of the shipped models and their golden images; ``photo`` is a case for
    each network and photograph of ``photo``.

    Args:
        models: Repository of the shipped models.
        names: Some of ``CASES``.
        say: Called with a line for what takes minutes to make.
    """
    cases: list[Case] = []
    for name in names:
        if name == "fcnn":
            cases.append(_case("fcnn 28x28 PNG", models, "fashion-fcnn", ".png"))
        elif name == "cnn":
            cases.append(_case("cnn 32x32 JPEG", models, "cifar10-cnn", ".jpg"))
        else:
            for network, size in product(photo.NETWORKS, photo.PHOTOGRAPHS):
                cases.append(_photo(photo.adopted(network, say), network, size))
    return cases


def run(cases: list[Case], setup: Setup, say: Callable[[str], None]) -> dict[str, Any]:
    """Measure every server on every case.

    Args:
        cases: What to ask.
        setup: How.
        say: Called with a line of progress after each measurement.

    Returns:
        ``plan``, ``peers``, ``limits`` (case to figures of the raw session) and ``figures`` (case,
        server, connections to medians), ready for JSON.
    """
    peers = [peer for peer in ALL_PEERS if not setup.only or peer.name in setup.only]
    figures: dict[tuple[str, str, int], list[Figure]] = {}
    limits: dict[str, list[dict[str, float]]] = {}
    for _ in range(setup.rounds):
        for case in cases:
            limits.setdefault(case.name, []).append(raw_figures(case, setup))
            common, path = _variables(case, setup), f"/models/{case.model}/predict"
            servers = [
                (each.name, foveal(4100), 4100, path, setup.is_multipart, _chosen(common, each))
                for each in (Choice("foveal", case.models), *case.choices)
            ]
            servers += [
                (p.name, command_of(p, 4101 + i), 4101 + i, p.path, p.is_multipart, common)
                for i, p in enumerate(peers)
            ]
            for name, command, port, path, is_multipart, variables in servers:
                probe = _probe(case, f"http://127.0.0.1:{port}{path}", is_multipart=is_multipart)
                with serving(command, port, setup.server_cpus, variables, probe):
                    for connections, figure in _drive(probe, case, setup):
                        figures.setdefault((case.name, name, connections), []).append(figure)
                        say(f"{case.name} {name} {connections}: {figure}")
    return {
        "plan": dataclasses.asdict(setup),
        "peers": {peer.name: list(peer.requirements) for peer in peers},
        "limits": {name: medians(rounds) for name, rounds in limits.items()},
        "cores": len(setup.server_cpus.split(",")),
        "figures": [
            {
                "case": case,
                "server": server,
                "connections": connections,
                **medians([dataclasses.asdict(figure) for figure in rounds]),
            }
            for (case, server, connections), rounds in figures.items()
        ],
    }


def table(results: dict[str, Any]) -> str:
    """Render the results as Markdown tables: a row a server, ratios at the last connections."""
    figures = results["figures"]
    lines: list[str] = []
    for case in dict.fromkeys(f["case"] for f in figures):
        rows = [f for f in figures if f["case"] == case]
        connections = sorted({f["connections"] for f in rows})
        ours = {f["connections"]: f for f in rows if f["server"] == "foveal"}
        heads = [f"{c} conn." for c in connections]
        lines += [
            f"| {case}: requests/s | {' | '.join(heads)} | p50 ms at {connections[0]} | "
            f"p50 / p99 ms at {connections[-1]} | foveal is x times at {connections[-1]} | "
            "failed |",
            "|---" * (len(connections) + 5) + "|",
        ]
        for server in dict.fromkeys(f["server"] for f in rows):
            mine = {f["connections"]: f for f in rows if f["server"] == server}
            first, last = mine[connections[0]], mine[connections[-1]]
            ratio = ours[connections[-1]]["requests_per_s"] / max(last["requests_per_s"], 1e-9)
            cells = " | ".join(f"{mine[c]['requests_per_s']:,.0f}" for c in connections)
            lines.append(
                f"| {server} | {cells} | {first['p50_ms']:.3f} | "
                f"{last['p50_ms']:.2f} / {last['p99_ms']:.2f} | {ratio:.2f} | "
                f"{sum(int(f['failed']) for f in mine.values())} |"
            )
        lines += ["", _against_limit(results, case, ours[connections[-1]]), ""]
    return "\n".join(lines)


def _against_limit(results: dict[str, Any], case: str, ours: dict[str, Any]) -> str:
    limit, cores = results["limits"][case], results["cores"]
    begin = "rows_per_s_"
    rates = {key[len(begin) :]: limit[key] for key in limit if key.startswith(begin)}
    most = max(rates, key=lambda rows: rates[rows])
    best = ours["requests_per_s"] / cores
    alone = ", ".join(f"{rows}: {rate:,.0f}" for rows, rate in rates.items())
    return (
        f"Limit of one core, decode{' and resize' if limit['is_resized'] else ''} "
        f"{limit['decode_us']:,.1f} us + run {1e6 / rates[most]:,.1f} us a row in {most}s: "
        f"{limit['limit_per_s']:,.0f} images/s; on {cores} foveal answers "
        f"{best / limit['limit_per_s']:.2f} of it a core, and {best / rates[most]:.2f} of what one "
        f"thread of the session does on decoded arrays. Session alone, rows/s by batch: {alone}."
    )


def _case(name: str, models: Path, model: str, suffix: str) -> Case:
    repository = ModelRepository(models)
    artifact = repository.load(*repository.resolve(model))
    golden = repository.read_file(artifact, artifact.golden[0].path)
    if suffix == ".jpg":
        golden = _as_jpeg(Image.open(io.BytesIO(golden)).convert("RGB"))
    folder = repository.path(artifact.name, artifact.version)
    media_type = "image/jpeg" if suffix == ".jpg" else "image/png"
    return Case(name, folder / artifact.fp32.path, models, model, golden, media_type)


def _photo(models: Path, network: str, size: str) -> Case:
    repository = ModelRepository(models)
    artifact = repository.load(*repository.resolve(network))
    onnx = repository.path(artifact.name, artifact.version) / artifact.fp32.path
    body = photo.photograph(*photo.PHOTOGRAPHS[size])
    name = f"{network}, JPEG of {size}"
    choices = []
    if photo.is_large(size):
        choices.append(Choice("foveal, scaled decoding", photo.scaled(models, artifact)))
    if any(file.precision == "int8" for file in artifact.files):
        choices.append(Choice("foveal, int8", models, {"FOVEAL_PRECISION": "int8"}))
    return Case(
        name, onnx, models, network, body, "image/jpeg", True, _PHOTO_CONNECTIONS, tuple(choices)
    )


def _as_jpeg(image: Image.Image) -> bytes:
    content = io.BytesIO()
    image.save(content, "JPEG", quality=95)
    return content.getvalue()


def raw_figures(case: Case, setup: Setup) -> dict[str, float]:
    """Measure decode and session alone on the server's first CPU; see ``raw_session``."""
    with tempfile.NamedTemporaryFile() as image:
        image.write(case.body)
        image.flush()
        done = subprocess.run(
            [
                "taskset",
                "-c",
                setup.server_cpus.split(",")[0],
                sys.executable,
                "-m",
                "loadtest.bench.raw_session",
                str(case.models),
                case.model,
                image.name,
            ],
            cwd=HERE.parents[1],
            capture_output=True,
            text=True,
            check=True,
        )
    figures: dict[str, float] = json.loads(done.stdout)
    return figures


def _variables(case: Case, setup: Setup) -> dict[str, str]:
    workers = str(len(setup.server_cpus.split(",")))
    return {
        "PEER_ONNX": str(case.onnx),
        "PEER_RESIZE": "256" if case.is_photo else "",
        "FOVEAL_MODELS": str(case.models),
        "FOVEAL_WORKERS": workers,
        "PEER_WORKERS": workers,
        "WEB_CONCURRENCY": workers,
        "FOVEAL_GRPC_PORT": "0",
    }


def _chosen(variables: dict[str, str], choice: Choice) -> dict[str, str]:
    return variables | choice.variables | {"FOVEAL_MODELS": str(choice.models)}


def _probe(case: Case, url: str, *, is_multipart: bool) -> Probe:
    if is_multipart:
        return Probe(url, *as_form(case.body, case.media_type))
    return Probe(url, case.body, case.media_type)


def _drive(probe: Probe, case: Case, setup: Setup) -> Iterator[tuple[int, Figure]]:
    url, media_type = probe.url, probe.media_type
    with tempfile.NamedTemporaryFile() as body:
        body.write(probe.content)
        body.flush()
        drive(url, 16, 2, Path(body.name), media_type, setup.load_cpu)
        for connections in case.connections or setup.connections:
            yield (
                connections,
                drive(url, connections, setup.seconds, Path(body.name), media_type, setup.load_cpu),
            )


def medians(rounds: list[dict[str, float]]) -> dict[str, float]:
    """Return the median of each figure over some rounds."""
    return {key: statistics.median(figures[key] for figures in rounds) for key in rounds[0]}
