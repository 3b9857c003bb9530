"""Where a request's time goes: microseconds of one core for each stage, under load by wrk.

The lane is served in this process, without BentoML beside it, pinned to one core; wrk fills it from
the other. The functions at the seams between stages are wrapped by a clock that gives each stage
its own time, without the stages that it calls, and takes its own cost off. What the kernel and the
event loop take to receive is measured on its own, with a server that does nothing but answer fixed
bytes, so that the sum can be held against the whole.
"""

import asyncio
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from operator import attrgetter
from pathlib import Path
from typing import Any

import uvicorn
import uvloop
from uvicorn.server import ServerState

from loadtest.bench.bare import bare_server, compile_bare_server
from loadtest.bench.raw_session import measure as measure_raw
from loadtest.bench.wrk import Figure, drive
from models.repository import ModelRepository
from service.lane.connection import LaneProtocol
from service.lane.exchange import Exchange
from service.lane.lane import Lane
from service.lane.outbox import Outbox
from service.metrics.meters import Meters, ModelMetrics, Tally
from service.pipeline.batcher import Batcher
from service.pipeline.classifier import Classifier
from service.pipeline.decode import DecodeStage
from service.pipeline.postprocess import Postprocessor
from service.protocols.engine import Engine
from service.protocols.predict import PredictJob, PredictProtocol, PredictRoute
from service.rollout.catalog import Catalog, load_catalog
from service.rollout.loading import LoadOptions

CONNECTIONS = 64
_PAIRS = 3  # runs with and without observation, interleaved
# Stage -> the functions whose own time is its; what they call and is listed elsewhere is not.
STAGES: dict[str, list[tuple[type, str]]] = {
    "parse": [(LaneProtocol, "data_received")],
    "validate": [(PredictRoute, "__call__"), (DecodeStage, "decode_small"), (Classifier, "pixels")],
    "decode": [(Classifier, "decode_sized")],
    "queue": [(Batcher, "enqueue"), (Batcher, "_start"), (Batcher, "_take")],
    "batch": [(Batcher, "_gather")],
    "run": [(Batcher, "_run_safely")],
    "scatter": [(Batcher, "_finish"), (Batcher, "_done")],
    "postprocess": [(Postprocessor, "fragments"), (PredictJob, "done")],
    "respond": [(Exchange, "respond"), (LaneProtocol, "_write")],
    "send": [(Outbox, "__exit__")],
    "observe": [(ModelMetrics, "observe_batch"), (Meters, "flush")],
}


class StageClock:
    """Gives each wrapped function its own time."""

    def __init__(self) -> None:
        self.own_s: dict[str, float] = {}
        self.calls: dict[str, int] = {}
        self._inner_s = [0.0]
        self._undo: list[Callable[[], None]] = []

    def wrap(self, stage: str, owner: type, name: str) -> None:
        """Time a method of a class until ``unwrap``."""
        plain = getattr(owner, name)
        clock, inner_s, own_s, calls = time.perf_counter, self._inner_s, self.own_s, self.calls
        own_s.setdefault(stage, 0.0)
        calls.setdefault(stage, 0)

        def timed(*arguments: Any, **options: Any) -> Any:
            outer_s, inner_s[0] = inner_s[0], 0.0
            started = clock()
            try:
                return plain(*arguments, **options)
            finally:
                whole_s = clock() - started
                own_s[stage] += whole_s - inner_s[0]
                calls[stage] += 1
                inner_s[0] = outer_s + whole_s

        setattr(owner, name, timed)
        self._undo.append(lambda: setattr(owner, name, plain))

    def unwrap(self) -> None:
        """Leave the classes as they were."""
        for undo in reversed(self._undo):
            undo()

    def reset(self) -> None:
        """Begin to count anew."""
        for stage in self.own_s:
            self.own_s[stage], self.calls[stage] = 0.0, 0


class Echo(asyncio.Protocol):
    """Answers any bytes with the same bytes: what sockets cost, and nothing else."""

    answer = b""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Keep the transport."""
        self.transport = transport

    def data_received(self, _data: bytes) -> None:
        """Answer."""
        self.transport.write(self.answer)


def run(models: Path, model: str, seconds: int) -> dict[str, Any]:
    """Measure one model's small images at 64 connections.

    Args:
        models: Repository.
        model: Name in it.
        seconds: Of load, three times: plain, with clocks, and of the sockets alone.

    Returns:
        ``stages_us`` (own time a request), ``cpu_us`` (of a request in the plain run),
        ``wall_us``, ``clocked_cpu_us``, figures of wrk, and ``limit_us``: what decode and run of a
        row take in loops of their own, and what the bare server takes for a request.

    Raises:
        LoadTestError: There is no C compiler for the bare server.
    """
    os.sched_setaffinity(0, {0})
    with tempfile.TemporaryDirectory() as folder:
        return _run(models, model, seconds, compile_bare_server(Path(folder)))


def _run(models: Path, model: str, seconds: int, program: Path) -> dict[str, Any]:
    repository = ModelRepository(models)
    artifact = repository.load(*repository.resolve(model))
    image = repository.read_file(artifact, artifact.golden[0].path)
    options = LoadOptions(threads=1)
    catalog = load_catalog(repository, artifact.name, 1, options)
    results: dict[str, Any] = {"model": artifact.reference, "connections": CONNECTIONS}
    watched, unwatched, plains, limits = [], [], [], []
    for _ in range(_PAIRS):
        plain, cpu_us, answer = uvloop.run(_measure(catalog, image, seconds, None))
        watched.append(cpu_us)
        plains.append(plain)
        with _nothing_observed():
            unwatched.append(uvloop.run(_measure(catalog, image, seconds, None))[1])
        limits.append(_limit(models, artifact.name, image, answer, program, seconds))
    plain = sorted(plains, key=attrgetter("requests_per_s"))[_PAIRS // 2]
    cpu_us = statistics.median(watched)
    clocked, stages_us = _clock_stages(catalog, image, answer, seconds)
    return (
        results
        | clocked
        | {
            "stages_us": stages_us,
            "cpu_us": cpu_us,
            "wall_us": 1e6 / plain.requests_per_s,
            "unwatched_cpu_us": statistics.median(unwatched),
            "plain": _as_dict(plain),
            "limit_us": {
                key: statistics.median(limit[key] for limit in limits) for key in limits[0]
            },
        }
    )


def _clock_stages(
    catalog: Catalog, image: bytes, answer: bytes, seconds: int
) -> tuple[dict[str, Any], dict[str, float]]:
    """Return the figures of a run with clocks in, and each stage's own microseconds a request."""
    clock = StageClock()
    for stage, functions in STAGES.items():
        for owner, name in functions:
            clock.wrap(stage, owner, name)
    cost_s = _cost_s()
    try:
        clocked, clocked_us, _ = uvloop.run(_measure(catalog, image, seconds, clock))
    finally:
        clock.unwrap()
    requests = max(1, clock.calls["decode"])
    stages_us = {
        # Half of a clock's cost falls inside the stage, the other half to whoever called it.
        stage: max(0.0, own_s - clock.calls[stage] * cost_s / 2) / requests * 1e6
        for stage, own_s in clock.own_s.items()
    }
    Echo.answer = answer
    echoing = StageClock()
    echoing.wrap("send", Echo, "data_received")
    try:
        _, echo_us, _ = uvloop.run(_measure(None, image, seconds, echoing))
    finally:
        echoing.unwrap()
    # What the echo server does besides sending is what receiving costs.
    echo_send_us = echoing.own_s["send"] / max(1, echoing.calls["send"]) * 1e6
    stages_us["receive"] = max(0.0, echo_us - echo_send_us - cost_s * 1e6)
    figures = {
        "clocked_cpu_us": clocked_us,
        "clock_cost_us": cost_s * 1e6,
        "clocked": _as_dict(clocked),
    }
    return figures, stages_us


def table(results: dict[str, Any]) -> str:
    """Render the budget as Markdown."""
    stages: dict[str, float] = results["stages_us"]
    whole, clocked = results["cpu_us"], results["clocked_cpu_us"]
    lines = [
        f"{results['model']}, {results['connections']} connections, one core: "
        f"{results['plain']['requests_per_s']:,.0f} requests/s, {whole:.1f} us of CPU a request; "
        f"{clocked:.1f} us with the clocks in, of which the stages explain "
        f"{sum(stages.values()) / clocked:.0%}. Shares are of that run.",
        "",
        "| stage | us a request | share |",
        "|---|---|---|",
        *(f"| {stage} | {us:.2f} | {us / clocked:.0%} |" for stage, us in stages.items()),
        f"| sum | {sum(stages.values()):.2f} | {sum(stages.values()) / clocked:.0%} |",
    ]
    lines += [
        "",
        *_against_limits(results["limit_us"], results["plain"]["requests_per_s"]),
        "",
        f"Metrics cost {whole - results['unwatched_cpu_us']:.2f} us a request: "
        f"{results['unwatched_cpu_us']:.1f} us without them (medians of {_PAIRS}, interleaved).",
    ]
    return "\n".join(lines) + "\n"


def _against_limits(limit_us: dict[str, float], requests_per_s: float) -> list[str]:
    """Return both limits, and the share of each that the lane answers, as lines of text."""
    work_us = limit_us["decode"] + limit_us["run"]
    parts = f"{limit_us['decode']:.2f} decode + {limit_us['run']:.2f} run"
    return [
        f"{name}, 1 / ({words}, in us): {1e6 / us:,.0f} requests/s; "
        f"the lane answers {requests_per_s * us / 1e6:.2f} of it.  "
        for name, words, us in (
            ("Limit of the work alone", parts, work_us),
            (
                "Honest limit",
                f"{parts} + {limit_us['bare']:.2f} bare server in C",
                work_us + limit_us["bare"],
            ),
        )
    ]


def _limit(
    models: Path, name: str, image: bytes, answer: bytes, program: Path, seconds: int
) -> dict[str, float]:
    """Measure what no server can save: microseconds of decode, run and a bare server's request."""
    with tempfile.NamedTemporaryFile() as body:
        body.write(image)
        body.flush()
        path = Path(body.name)
        raw = measure_raw(models, name, path)
        with bare_server(program, answer, CONNECTIONS) as bare:
            url = f"http://127.0.0.1:{bare.port}/predict"
            drive(url, CONNECTIONS, 1, path, "image/png", "1")
            before_s = bare.cpu_s()
            figure = drive(url, CONNECTIONS, seconds, path, "image/png", "1")
            bare_us = (bare.cpu_s() - before_s) / (figure.requests_per_s * seconds) * 1e6
    run_us = 1e6 / raw["limit_per_s"] - raw["decode_us"]
    return {"decode": raw["decode_us"], "run": run_us, "bare": bare_us}


@contextmanager
def _nothing_observed() -> Iterator[None]:
    """Take the metrics out, to see what they cost."""

    def nothing(*_: Any) -> None:
        """Observe nothing."""

    def silence(tally: Tally, child: Any) -> None:
        plain_init(tally, child)
        tally.observe = nothing

    plain_init, plain_batch, plain_count = (
        Tally.__init__,
        ModelMetrics.observe_batch,
        ModelMetrics.count_request,
    )
    Tally.__init__ = silence  # type: ignore[method-assign,assignment]
    ModelMetrics.observe_batch = nothing  # type: ignore[method-assign,assignment]
    ModelMetrics.count_request = nothing  # type: ignore[method-assign,assignment]
    try:
        yield
    finally:
        Tally.__init__ = plain_init  # type: ignore[method-assign]
        ModelMetrics.observe_batch = plain_batch  # type: ignore[method-assign]
        ModelMetrics.count_request = plain_count  # type: ignore[method-assign]


def _as_dict(figure: Figure) -> dict[str, float]:
    return {
        "requests_per_s": figure.requests_per_s,
        "p50_ms": figure.p50_ms,
        "p99_ms": figure.p99_ms,
        "failed": figure.failed,
    }


async def _measure(
    catalog: Catalog | None, image: bytes, seconds: int, clock: StageClock | None
) -> tuple[Figure, float, bytes]:
    """Serve in this loop while wrk asks from a thread.

    Returns:
        What wrk saw, microseconds of this process's CPU a request, and the bytes of an answer.
    """
    loop = asyncio.get_running_loop()
    factory = Echo if catalog is None else lane_factory(catalog, loop)
    server = await loop.create_server(factory, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    url = f"http://127.0.0.1:{port}/predict"

    def ask() -> tuple[Figure, float]:
        with tempfile.NamedTemporaryFile() as body:
            body.write(image)
            body.flush()
            path = Path(body.name)
            drive(url, CONNECTIONS, 1, path, "image/png", "1")
            if clock is not None:
                clock.reset()
            started = time.process_time()
            figure = drive(url, CONNECTIONS, seconds, path, "image/png", "1")
            cpu_s = time.process_time() - started
        return figure, cpu_s / (figure.requests_per_s * seconds) * 1e6

    figure, us = await asyncio.to_thread(ask)
    answer = b"" if catalog is None else await _one_answer(port, image)
    server.close()
    return figure, us, answer


def lane_factory(catalog: Catalog, loop: asyncio.AbstractEventLoop) -> Callable[[], LaneProtocol]:
    """Return what makes a connection of a lane that serves a catalog, without BentoML beside it."""
    meters = Meters(loop)
    lane = Lane(max_body_bytes=1 << 25, receive_timeout_s=20, keep_alive_s=75, drain_timeout_s=5)
    for classifier in catalog:
        classifier.start(loop, meters.observe_batch, lane.outbox, lane.newcomers)
    engine = Engine(
        lambda: catalog,
        loop,
        ThreadPoolExecutor(1),
        meters,
        request_timeout_s=30,
        max_request_rows=512,
    )
    lane.route(PredictProtocol(engine).find)

    async def application(_scope: Any, _receive: Any, _send: Any) -> None:
        raise AssertionError("only the lane is asked; this is a bug")

    config = uvicorn.Config(application, log_config=None, lifespan="off")
    config.load()
    state = ServerState()
    state.default_headers = [(b"date", b"Thu, 01 Jan 1970 00:00:00 GMT"), (b"server", b"uvicorn")]
    return lambda: LaneProtocol(lane, config, state, {}, loop)


async def _one_answer(port: int, image: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(
        b"POST /predict HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s"
        % (len(image), image)
    )
    answer = await reader.read()
    writer.close()
    return answer.replace(b"connection: close\r\n", b"")


def _cost_s() -> float:
    """Return what wrapping adds to a call, seconds."""

    class Empty:
        def call(self) -> None:
            """Do nothing."""

    def best(count: int = 100_000) -> float:
        times = []
        for _ in range(5):
            empty = Empty()
            started = time.perf_counter()
            for _ in range(count):
                empty.call()
            times.append(time.perf_counter() - started)
        return min(times) / count

    plain = best()
    clock = StageClock()
    clock.wrap("empty", Empty, "call")
    return best() - plain
