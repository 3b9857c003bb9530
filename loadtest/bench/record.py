"""What recording costs: requests/s with it as a share of requests/s without, side by side.

A service for each share of requests that is recorded; all run at once on the same core, and are
loaded in turns: a round loads each once, in an order that turns from round to round, and its ratios
are taken within it. Needs wrk.
"""

import dataclasses
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Any

from loadtest.bench import photo
from loadtest.bench.servers import Probe, foveal, serving
from loadtest.bench.wrk import drive
from loadtest.scrape import look
from loadtest.serving import free_port
from models.repository import ModelRepository

CASES = ("fcnn", "photo")
_OFF = 0.0
# Beside the service's own name of the series.
_ROWS = "foveal_record_rows_total"


@dataclasses.dataclass(frozen=True, slots=True)
class Case:
    """A model, the request that is sent to it, and the shares that are recorded."""

    name: str
    models: Path
    model: str
    body: bytes
    media_type: str
    connections: int
    shares: tuple[float, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class Setup:
    """Rounds, their length, and the cores of the services and of wrk."""

    rounds: int = 9
    seconds: int = 4
    server_cpus: str = "0"
    load_cpus: str = "1"


def make_cases(models: Path, names: tuple[str, ...], say: Callable[[str], None]) -> list[Case]:
    """Return the cases of some names.

    Args:
        models: The shipped models.
        names: Of ``CASES``.
        say: Is told what takes minutes.
    """
    cases = []
    if "fcnn" in names:
        repository = ModelRepository(models)
        artifact = repository.load(*repository.resolve("fashion-fcnn"))
        image = repository.read_file(artifact, artifact.golden[0].path)
        shares = _OFF, 0.01, 1.0
        cases.append(Case("fcnn", models, artifact.name, image, "image/png", 64, shares))
    if "photo" in names:
        network, size = "mobilenetv3", "640x427"
        body = photo.photograph(*photo.PHOTOGRAPHS[size])
        folder = photo.adopted(network, say)
        name = f"{network}, {size}"
        cases.append(Case(name, folder, network, body, "image/jpeg", 16, (_OFF, 1.0)))
    return cases


def run(cases: list[Case], setup: Setup, say: Callable[[str], None]) -> dict[str, Any]:
    """Measure every case.

    Args:
        cases: Cases.
        setup: How.
        say: Is told each round.
    """
    return {"setup": dataclasses.asdict(setup), "cases": [_measure(c, setup, say) for c in cases]}


def _measure(case: Case, setup: Setup, say: Callable[[str], None]) -> dict[str, Any]:
    rounds: list[dict[float, float]] = []
    with tempfile.TemporaryDirectory(prefix="foveal-bench-record-") as folder, ExitStack() as stack:
        body = Path(folder) / "body"
        body.write_bytes(case.body)
        ports = {}
        for share in case.shares:
            port = ports[share] = free_port()
            variables = {
                "FOVEAL_MODELS": str(case.models),
                "FOVEAL_DEFAULT_MODEL": case.model,
                "FOVEAL_GRPC_PORT": "0",
                "FOVEAL_RECORD": str(share),
                "FOVEAL_RECORD_FOLDER": str(Path(folder) / f"share-{share:g}"),
            }
            probe = Probe(f"http://127.0.0.1:{port}/predict", case.body, case.media_type)
            stack.enter_context(serving(foveal(port), port, setup.server_cpus, variables, probe))
        for number in range(setup.rounds + 1):  # the first one warms up
            figures = _round(case, setup, number, ports, body)
            if number:
                rounds.append(figures)
                said = ", ".join(f"{share:g}: {rate:,.0f}/s" for share, rate in figures.items())
                say(f"{case.name}, round {number} of {setup.rounds}: {said}")
        rows = {share: _rows(port) for share, port in ports.items()}
    return {
        "name": case.name,
        "connections": case.connections,
        "body_bytes": len(case.body),
        "shares": [
            {
                "share": share,
                "requests_per_s": median(each[share] for each in rounds),
                "of_none": median(each[share] / each[_OFF] for each in rounds),
                "rows": rows[share],
            }
            for share in case.shares
        ],
        "rounds": [{f"{share:g}": rate for share, rate in each.items()} for each in rounds],
    }


def _round(
    case: Case, setup: Setup, number: int, ports: dict[float, int], body: Path
) -> dict[float, float]:
    """Load each service once; return requests/s by share, 0 where a request failed."""
    figures = {}
    turned = case.shares[number % len(case.shares) :] + case.shares
    for share in turned[: len(case.shares)]:
        url = f"http://127.0.0.1:{ports[share]}/predict"
        figure = drive(url, case.connections, setup.seconds, body, case.media_type, setup.load_cpus)
        figures[share] = figure.requests_per_s if not figure.failed else 0.0
    return figures


def _rows(port: int) -> dict[str, int]:
    """Return what became of the rows to be recorded, by outcome."""
    found = look(f"http://127.0.0.1:{port}")
    counts: dict[str, int] = {}
    for (name, labels), value in ({} if found is None else found).items():
        if name == _ROWS:
            counts[dict(labels)["outcome"]] = int(value)
    return counts


def table(results: dict[str, Any]) -> str:
    """Return the results of ``run`` as Markdown."""
    lines = [
        "| case | recorded | requests/s | of none | lost | rows written | dropped |",
        "|---|---|---|---|---|---|---|",
    ]
    for case in results["cases"]:
        for each in case["shares"]:
            rows = each["rows"]
            cells = (
                f"{case['name']}, {case['connections']} connections",
                f"{each['share']:.0%}",
                f"{each['requests_per_s']:,.0f}",
                f"{each['of_none']:.4f}",
                f"{1 - each['of_none']:.2%}",
                f"{rows.get('written', 0):,}",
                f"{rows.get('dropped', 0):,}",
            )
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"
