"""What recording costs: processor time of a request with it and without, in one moment.

A core's pace changes by half from one second to the next where others share the machine, so loads
one after the other can't show one percent. Two services share one core and are loaded at once: the
scheduler gives each its turn every few milliseconds, and both meet the same pace. What one of them
used for a request, divided by what the other used, is one round; a round of two services that don't
record shows what the method is worth. Needs wrk.
"""

import dataclasses
import math
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import psutil  # type: ignore[import-untyped]

from loadtest.bench import photo
from loadtest.bench.servers import Probe, foveal, serving
from loadtest.bench.wrk import drive
from loadtest.errors import LoadTestError
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
    """Rounds, the seconds of a load, and the cores of the services and of wrk."""

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


class Service(NamedTuple):
    """A running service: its port, and the number of its first process."""

    port: int
    pid: int

    def processor_s(self) -> float:
        """Return the processor time of all its processes so far, seconds."""
        main = psutil.Process(self.pid)
        pids = [self.pid, *(child.pid for child in main.children(recursive=True))]
        # The clock of a process by its number (Linux: CPUCLOCK_SCHED): to the nanosecond, where
        # /proc counts hundredths of a second.
        return sum(time.clock_gettime(~pid << 3 | 2) for pid in pids)


def _measure(case: Case, setup: Setup, say: Callable[[str], None]) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="foveal-bench-record-") as folder, ExitStack() as stack:
        body = Path(folder) / "body"
        body.write_bytes(case.body)

        def serve(share: float, name: str) -> Service:
            port = free_port()
            variables = {
                "FOVEAL_MODELS": str(case.models),
                "FOVEAL_DEFAULT_MODEL": case.model,
                "FOVEAL_GRPC_PORT": "0",
                "FOVEAL_RECORD": str(share),
                "FOVEAL_RECORD_FOLDER": str(Path(folder) / name),
            }
            probe = Probe(f"http://127.0.0.1:{port}/predict", case.body, case.media_type)
            served = serving(foveal(port), port, setup.server_cpus, variables, probe)
            return Service(port, stack.enter_context(served))

        none = serve(_OFF, "none")
        shares = [(share, serve(share, f"share-{share:g}")) for share in case.shares]
        pairs: dict[float, list[tuple[float, float]]] = {share: [] for share in case.shares}
        for number in range(setup.rounds + 1):  # the first one warms up
            measured = {share: _pair(case, setup, (none, each), body) for share, each in shares}
            if number:
                for share, pair in measured.items():
                    pairs[share].append(pair)
                said = ", ".join(
                    f"{share:g}: {theirs / ours:.4f}" for share, (ours, theirs) in measured.items()
                )
                say(f"{case.name}, round {number} of {setup.rounds}: {said}")
        figures = [
            {"share": share, **_figures(pairs[share]), "rows": _rows(each.port)}
            for share, each in shares
        ]
    return {
        "name": case.name,
        "connections": case.connections,
        "body_bytes": len(case.body),
        "shares": figures,
    }


def _figures(pairs: list[tuple[float, float]]) -> dict[str, Any]:
    """Return what the rounds of one share say: both processor times, their ratio, and each."""
    none_s, share_s = zip(*pairs, strict=True)
    return {
        "request_us": median(share_s) * 1e6,
        "none_us": median(none_s) * 1e6,
        **of_none([none / share for none, share in pairs]),
        "rounds_us": [[none * 1e6, share * 1e6] for none, share in pairs],
    }


def _pair(
    case: Case, setup: Setup, services: tuple[Service, Service], body: Path
) -> tuple[float, float]:
    """Load two services at once; return the processor time of a request of each, seconds.

    Raises:
        LoadTestError: A request failed.
    """
    before = [service.processor_s() for service in services]

    def load(service: Service) -> float:
        url = f"http://127.0.0.1:{service.port}/predict"
        figure = drive(url, case.connections, setup.seconds, body, case.media_type, setup.load_cpus)
        if figure.failed:
            raise LoadTestError(f"{url}: expected answers, {figure.failed} requests failed")
        return figure.requests_per_s * setup.seconds

    with ThreadPoolExecutor(2) as pool:
        requests = list(pool.map(load, services))
    used = [service.processor_s() - was for service, was in zip(services, before, strict=True)]
    return used[0] / requests[0], used[1] / requests[1]


def of_none(ratios: list[float]) -> dict[str, float]:
    """Return the median of ratios, with the 95 % interval of its order statistics.

    Requests/s of one core beside none: the inverse of the processor times.
    """
    ordered, count = sorted(ratios), len(ratios)
    away = math.ceil(0.98 * math.sqrt(count))  # 1.96 standard deviations of a fair coin's heads
    low, high = max(0, count // 2 - away), min(count - 1, (count - 1) // 2 + away)
    return {"of_none": median(ordered), "low": ordered[low], "high": ordered[high]}


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
        "| case | recorded | us of processor a request | beside it without | requests/s of none "
        "| 95 % interval | rows written | dropped |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for case in results["cases"]:
        for each in case["shares"]:
            rows = each["rows"]
            cells = (
                f"{case['name']}, {case['connections']} connections",
                f"{each['share']:.0%}",
                f"{each['request_us']:,.1f}",
                f"{each['none_us']:,.1f}",
                f"{each['of_none']:.4f}",
                f"{each['low']:.4f} to {each['high']:.4f}",
                f"{rows.get('written', 0):,}",
                f"{rows.get('dropped', 0):,}",
            )
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"
