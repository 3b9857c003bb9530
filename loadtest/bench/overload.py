"""The overload benchmark: each server at 0.25 to 4 times its highest rate.

Open arrivals, the same to every server, at multiples of what Foveal answers in a closed loop. An
answer that comes after the deadline is worth nothing: goodput counts the others. A server that
takes in all that comes answers it late, all of it; one that refuses what it cannot do in time
goes on doing what it can. Each peer is told the deadline in its own way, where it has one.

``foveal-brownout`` is Foveal with ``FOVEAL_BROWNOUT=int8``. The accuracy of what it answered
follows from the share of its rows that ran in int8, and from what the gate of that file measured.
"""

import dataclasses
import math
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from loadtest.arrivals import Offer, Offered, client_limit, offer
from loadtest.bench.servers import ALL_PEERS, Probe, command_of, foveal, serving
from loadtest.calls import Call
from loadtest.engines import Traffic, send
from loadtest.payloads import as_form, make_calls
from loadtest.samples import RIGHT
from loadtest.scrape import Samples, difference, look
from models.artifact import ModelArtifact
from models.repository import ModelRepository

SERVERS = ("foveal", "foveal-brownout", "bentoml", "bentoml-deadline", "mosec")
_FIGURES = (
    "offered_per_s",
    "answered_per_s",
    "goodput_per_s",
    "p50_ms",
    "p99_ms",
    "refused",
    "refused_p99_ms",
    "expired",
    "failed",
    "wrong",
    "late_p95_ms",
    "cpu_share",
)
_PORT = 4200
# The capacity, after a second in which the loop fills, and the client's own limit are measured for
# these shares of one measurement.
_FILL_S, _CAPACITY_SHARE, _LIMIT_SHARE = 1.0, 0.6, 0.4
_CAPACITY_CONNECTIONS = 64.0
# A server that took in more than it could do works it off before it is asked again, or is started
# anew if it does not in this time.
_CALM_S, _CALM_ANSWER_S = 10.0, 0.25


@dataclasses.dataclass(frozen=True, slots=True)
class OverloadSetup:
    """How the benchmark is run.

    Attributes:
        model: Model to serve; the client must be able to send four times its capacity.
        deadline_ms: Later answers do not count; sent to Foveal with each request.
        loads: Multiples of Foveal's capacity.
        rounds: Measurements of each; the median counts.
        seconds: Length of one measurement.
        server_cpus: CPUs as ``taskset -c`` takes them.
        load_cpus: CPUs of the client.
        only: Names of servers; empty for all.
    """

    model: str = "cifar10-cnn"
    deadline_ms: float = 500.0
    loads: tuple[float, ...] = (0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 4.0)
    rounds: int = 3
    seconds: float = 5.0
    server_cpus: str = "0"
    load_cpus: str = "1"
    only: tuple[str, ...] = ()


def run(models: Path, setup: OverloadSetup, say: Callable[[str], None]) -> dict[str, Any]:
    """Measure every server at every load.

    Args:
        models: Repository of the model.
        setup: How to run it.
        say: Called with a line of progress after each measurement.

    Returns:
        ``plan``, ``capacity_per_s``, ``client_limit_per_s``, ``figures`` (server and load to the
        medians of all rounds) and ``verdict``, ready for JSON.
    """
    repository = ModelRepository(models.resolve())
    artifact = repository.load(*repository.resolve(setup.model))
    calls = make_calls(repository, artifact)
    names = [name for name in SERVERS if not setup.only or name in setup.only]
    with _served("foveal", repository, artifact, setup) as (url, _):
        limit = client_limit(
            url, Offer(0, 0, 0, cpus=setup.load_cpus), _LIMIT_SHARE * setup.seconds
        )
        capacity = _capacity(url, calls, setup)
    say(f"capacity: {capacity:,.0f} requests/s; the client's own limit: {limit:,.0f}")
    seen: dict[tuple[str, float], list[Offered]] = {}
    shares: dict[tuple[str, float], list[float]] = {}
    stuck: list[tuple[str, float]] = []
    for number in range(setup.rounds):
        for name in names:
            left = list(setup.loads)
            while left:
                with _served(name, repository, artifact, setup) as (url, own):
                    is_calm = True
                    while left and is_calm:
                        load = left.pop(0)
                        before = look(url)
                        measured = offer(url, own, _offer(setup, load * capacity, number, name))
                        seen.setdefault((name, load), []).append(measured)
                        shares.setdefault((name, load), []).append(_dimmed(before, look(url)))
                        say(f"{name} x{load:g}: {_words(measured)}")
                        is_calm = _calm(url, own[0])
                if not is_calm:
                    say(f"{name} does not work off its queue in {_CALM_S:g} s: started anew")
                    stuck.append((name, load))
    figures = [
        _median(name, load, rounds)
        | {
            "stuck": stuck.count((name, load)),
            "brownout_share": round(statistics.median(shares[name, load]), 3),
        }
        for (name, load), rounds in seen.items()
    ]
    return {
        "plan": dataclasses.asdict(setup),
        "capacity_per_s": round(capacity, 1),
        "client_limit_per_s": round(limit, 1),
        "accuracy_drop": _accuracy_drop(artifact),
        "figures": figures,
        "verdict": verdict(figures, setup.deadline_ms, capacity, _accuracy_drop(artifact)),
    }


def verdict(
    figures: list[dict[str, Any]],
    deadline_ms: float,
    capacity_per_s: float = math.nan,
    accuracy_drop: float = 0.0,
) -> dict[str, dict[str, float | str]]:
    """Return for each server what is left of its best goodput at the highest load, and the rest.

    Args:
        figures: Medians, a server and a load each.
        deadline_ms: Later answers do not count.
        capacity_per_s: Of Foveal in a closed loop, requests/s.
        accuracy_drop: Of the int8 file, as its gate measured it.
    """
    judged: dict[str, dict[str, float | str]] = {}
    for name in dict.fromkeys(figure["server"] for figure in figures):
        mine = sorted((f for f in figures if f["server"] == name), key=lambda f: f["load"])
        last = mine[-1]
        peak = max(figure["goodput_per_s"] for figure in mine)
        judged[name] = {
            "goodput_kept": round(last["goodput_per_s"] / peak, 3) if peak else 0.0,
            "p99_of_deadline": round(last["p99_ms"] / deadline_ms, 3),
            "refused_p99_ms": last["refused_p99_ms"],
            "retry_after_s": last["retry_after_s"],
            "goodput_of_capacity": round(last["goodput_per_s"] / capacity_per_s, 3),
            "accuracy_lost": round(last["brownout_share"] * accuracy_drop, 5),
        }
    return judged


def table(results: dict[str, Any]) -> str:
    """Render the results as Markdown: a table a server, and what they say."""
    setup, capacity = results["plan"], results["capacity_per_s"]
    deadline_ms, drop = setup["deadline_ms"], results["accuracy_drop"]
    lines = [
        f"{setup['model']}, one image a request. Capacity, Foveal in a closed loop of 64: "
        f"{capacity:,.0f} requests/s. Deadline {deadline_ms:g} ms. Open arrivals; latency counts "
        f"from the intended start; medians of {setup['rounds']} rounds of {setup['seconds']:g} s. "
        f"The client's own limit: {results['client_limit_per_s']:,.0f} requests/s.",
        "",
    ]
    for name, judged in results["verdict"].items():
        mine = [figure for figure in results["figures"] if figure["server"] == name]
        lines += [
            f"| {name} | sent/s | in time/s | p50 / p99 of answers, ms | refused | in, ms (p99) | "
            "expired, failed |",
            "|---|---|---|---|---|---|---|",
        ]
        for f in sorted(mine, key=lambda f: float(f["load"])):
            share = f["refused"] / max(1.0, f["offered_per_s"] * setup["seconds"])
            lines.append(
                f"| {f['load']:g} x | {f['offered_per_s']:,.0f} | {f['goodput_per_s']:,.0f} | "
                f"{_ms(f['p50_ms'])} / {_ms(f['p99_ms'])} | {share:.0%} | "
                f"{_ms(f['refused_p99_ms'])} | {f['expired']:,.0f}, {f['failed']:,.0f} |"
            )
        lines += [
            "",
            f"At {max(setup['loads']):g} x {name} keeps {judged['goodput_kept']:.2f} of its best "
            f"goodput; the p99 of its answers is {judged['p99_of_deadline']:.2f} of the deadline; "
            f"`Retry-After`: {judged['retry_after_s'] or 'none'}.",
            *(
                f"At {f['load']:g} x {f['brownout_share']:.0%} of its rows ran in int8, by whose "
                f"gate what was answered is {f['brownout_share'] * drop * 100:.2f} points less "
                f"accurate than fp32; in time: {f['goodput_per_s'] / capacity:.2f} of the capacity."
                for f in mine
                if f["brownout_share"]
            ),
            *(
                f"After {f['load']:g} x it was started anew in {f['stuck']} of {setup['rounds']} "
                f"rounds: {_CALM_S:g} s were too few to work off what it had taken in."
                for f in mine
                if f["stuck"]
            ),
            "",
        ]
    wrong = sum(figure["wrong"] for figure in results["figures"])
    return "\n".join([*lines, f"Wrong labels, of all answers of all servers: {wrong:,.0f}.", ""])


@contextmanager
def _served(
    name: str, repository: ModelRepository, artifact: ModelArtifact, setup: OverloadSetup
) -> Iterator[tuple[str, list[Call]]]:
    """Run a server; yield its address and what it is asked."""
    calls = make_calls(repository, artifact)
    port = _PORT + SERVERS.index(name)
    onnx = repository.path(artifact.name, artifact.version) / artifact.fp32.path
    variables = {
        "FOVEAL_MODELS": str(repository.root),
        "FOVEAL_GRPC_PORT": "0",
        "FOVEAL_WORKERS": "1",
        "PEER_ONNX": str(onnx),
        "MOSEC_TIMEOUT": f"{setup.deadline_ms:.0f}",
    }
    if name.startswith("foveal"):
        command = foveal(port)
        variables["FOVEAL_BROWNOUT"] = "int8" if name.endswith("-brownout") else "off"
        header = "X-Request-Timeout-Ms", f"{setup.deadline_ms:g}"
        calls = [call.with_headers(header) for call in calls]
    else:
        if name.endswith("-deadline"):
            variables["PEER_MAX_LATENCY_MS"] = f"{setup.deadline_ms:.0f}"
        (peer,) = (peer for peer in ALL_PEERS if peer.name == name.partition("-")[0])
        command = command_of(peer, port)
        calls = [_for_peer(call, peer.path, is_form=peer.is_multipart) for call in calls]
    url = f"http://127.0.0.1:{port}"
    probe = Probe(url + calls[0].path, calls[0].body, dict(calls[0].headers)["Content-Type"])
    with serving(command, port, setup.server_cpus, variables, probe):
        yield url, calls


def _dimmed(before: Samples | None, after: Samples | None) -> float:
    """Return the share of the rows that ran in a brownout; 0 for a server without metrics."""
    grown = difference(before, after)
    return grown.brownout_rows / grown.rows if grown is not None and grown.rows else 0.0


def _accuracy_drop(artifact: ModelArtifact) -> float:
    """Return what the gate of the int8 file measured, 0 without one."""
    file = artifact.file("int8")
    gate = file.gate if file is not None else None
    return gate.accuracy_drop or 0.0 if gate is not None else 0.0


def _for_peer(call: Call, path: str, *, is_form: bool) -> Call:
    body, content_type = call.body, "application/octet-stream"
    if is_form:
        body, content_type = as_form([body])
    return Call("raw", path, (("Content-Type", content_type),), body, call.expected, "index")


def _offer(setup: OverloadSetup, rate: float, number: int, name: str) -> Offer:
    return Offer(
        rate,
        setup.seconds,
        setup.deadline_ms,
        warm_up_s=1.0,
        cpus=setup.load_cpus,
        timeout_ms=max(2000.0, 4 * setup.deadline_ms),
        seed=100 * number + SERVERS.index(name),
    )


def _capacity(url: str, calls: list[Call], setup: OverloadSetup) -> float:
    """Return what the server answers in a closed loop."""
    seconds = _CAPACITY_SHARE * setup.seconds
    traffic = Traffic(
        ((0.0, _CAPACITY_CONNECTIONS),),
        is_open=False,
        duration_s=_FILL_S + seconds,
        cpus=setup.load_cpus,
    )
    samples = send(url, calls, traffic).between(_FILL_S, _FILL_S + seconds)
    return samples.count(RIGHT) / seconds


def _calm(url: str, call: Call) -> bool:
    """Wait until a lone request is answered at once; say whether it ever was."""
    deadline = time.monotonic() + _CALM_S
    alone = Traffic(((0.0, 1.0),), is_open=False, duration_s=0.2, timeout_s=5.0)
    while time.monotonic() < deadline:
        samples = send(url, [call], alone)
        if samples.count(RIGHT) and samples.latency_ms(0.5) < _CALM_ANSWER_S * 1e3:
            return True
    return False


def _median(name: str, load: float, rounds: list[Offered]) -> dict[str, Any]:
    """Return the medians of all rounds; what is not a number in most of them is None."""
    figures: dict[str, Any] = {"server": name, "load": load}
    for field in _FIGURES:
        values = [float(getattr(measured, field)) for measured in rounds]
        known = [value for value in values if not math.isnan(value)]
        figures[field] = round(statistics.median(known), 3) if known else 0.0
    figures["retry_after_s"] = " to ".join(
        dict.fromkeys(
            f"{edge} s"
            for edge in (
                min((s for m in rounds for s in m.retry_after_s), default=None),
                max((s for m in rounds for s in m.retry_after_s), default=None),
            )
            if edge is not None
        )
    )
    return figures


def _words(measured: Offered) -> str:
    return (
        f"{measured.offered_per_s:,.0f}/s sent, {measured.goodput_per_s:,.0f} in time, "
        f"p99 {measured.p99_ms:.0f} ms, refused {measured.refused}, expired {measured.expired}, "
        f"failed {measured.failed}, wrong {measured.wrong}, client {measured.cpu_share:.0%}"
    )


def _ms(value: float) -> str:
    return "-" if not value else f"{value:,.1f}" if value < 100 else f"{value:,.0f}"
