"""The load generators: locust or the sender, in processes of their own; results joined.

Locust knows every protocol and has its web page; the sender sends an order of magnitude more from
a core, over HTTP only. Both count alike and write the same samples. Locust patches the standard
library of the process that imports it, hence the processes.
"""

import importlib.util
import math
import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from loadtest.assignment import Assignment
from loadtest.calls import Call, write_calls
from loadtest.errors import LoadTestError
from loadtest.processes import run_together
from loadtest.samples import Samples, read_samples
from loadtest.shapes import Steps
from models.installation import how_to_add

_HOME = Path(__file__).resolve().parent.parent
_LOCUSTFILE = Path(__file__).with_name("locustfile.py")

Engine = Literal["sender", "locust"]
ENGINES: tuple[Engine, ...] = ("sender", "locust")
# What one process sends with room to spare: an engine that is busy comes late to its moments long
# before its core is full (README.md has the measurement). Above, another process is started, if
# there is a core for it.
_OPEN_RATE = {"sender": 8000.0, "locust": 600.0}
_USERS = {"sender": 1024.0, "locust": 128.0}
# After the last moment of the load: ends of processes, files.
_END_S = 30.0
# Class of ``users`` for each kind of call.
USERS = {
    "raw": "RawUser",
    "multipart": "MultipartUser",
    "v2-json": "V2JsonUser",
    "v2-binary": "V2BinaryUser",
    "grpc": "GrpcUser",
    "nothing": "NothingUser",
}


@dataclass(frozen=True, slots=True)
class Traffic:
    """The load of a test: how much is sent, when, and by which engine.

    Attributes:
        steps: (from that second on, level), the first from 0.
        is_open: Whether levels are arrivals/s, independent of the answers; else users, each of
            which waits for its answer before it sends the next request.
        duration_s: Length of the load.
        engine: Load generator.
        user: Locust's user class; empty: the class for the first call's kind.
        processes: Sender processes; 0: chosen by the rate and the available cores.
        connections: Most connections of open arrivals, all processes together.
        timeout_s: Seconds after which the client gives up on an answer.
        cpus: CPUs of the processes, as ``taskset -c`` takes them; empty: not pinned.
        seed: Seed of open arrivals.
        grpc_address: ``host:port`` for calls over gRPC.
        moments: (second, number of the call) of each arrival, in order, as they were recorded; then
            nothing is random, and the sender sends them. (): none.
    """

    steps: Steps
    is_open: bool
    duration_s: float
    engine: Engine = "sender"
    user: str = ""
    processes: int = 0
    connections: int = 4096
    timeout_s: float = 30.0
    cpus: str = ""
    seed: int = 0
    grpc_address: str = ""
    moments: tuple[tuple[float, int], ...] = ()

    @property
    def process_count(self) -> int:
        """Number of sender processes: at most one per core, with one core left to the service."""
        if self.processes:
            return self.processes
        level = max(level for _, level in self.steps)
        needed = level / (_OPEN_RATE if self.is_open else _USERS)[self.engine]
        cores = len(self.cpus.split(",")) if self.cpus else len(os.sched_getaffinity(0)) - 1
        return max(1, min(cores, math.ceil(needed)))


def send(
    url: str,
    calls: Sequence[Call],
    traffic: Traffic,
    on_time: Callable[[float], None] = lambda _: None,
) -> Samples:
    """Send a load and return every request of it.

    Takes the duration, one or two seconds to start, and at most the time-out to end.

    Args:
        url: ``http://host:port``.
        calls: Requests, sent in random order.
        traffic: How much to send, and when.
        on_time: Called repeatedly with the seconds since the start.

    Raises:
        LoadTestError: A process failed, locust is not installed, or the engine cannot send a call.
    """
    check_engine(traffic.engine, calls)
    count = traffic.process_count
    with tempfile.TemporaryDirectory(prefix="foveal-load-") as name:
        folder = Path(name)
        write_calls(folder / "calls.json", calls)
        commands = []
        for number in range(count):
            assignment = _share(url, traffic, number, count, folder)
            assignment.write(folder / f"{number}.json")
            commands.append(_command(traffic, calls, folder / f"{number}.json"))
        logs = [folder / f"{number}.log" for number in range(count)]
        run_together(commands, logs, traffic.duration_s + traffic.timeout_s + _END_S, on_time)
        return read_samples([folder / f"{number}.npz" for number in range(count)])


def check_engine(engine: Engine, calls: Sequence[Call]) -> None:
    """Check that an engine is installed and can send some calls.

    Raises:
        LoadTestError: It is not, or cannot.
    """
    if engine == "locust" and importlib.util.find_spec("locust") is None:
        raise LoadTestError(f"loadtest: expected locust, got none; {how_to_add('loadtest')}")
    if engine == "sender" and any(call.kind == "grpc" for call in calls):
        raise LoadTestError("sender: expected calls over HTTP, got gRPC; choose --engine locust")


def _share(url: str, traffic: Traffic, number: int, count: int, folder: Path) -> Assignment:
    """Return one process's share; users are whole, arrivals are not."""
    if traffic.is_open:
        steps = tuple((begin, level / count) for begin, level in traffic.steps)
    else:
        steps = tuple(
            (begin, float(round(level) * (number + 1) // count - round(level) * number // count))
            for begin, level in traffic.steps
        )
    return Assignment(
        url=url,
        calls=str(folder / "calls.json"),
        out=str(folder / f"{number}.npz"),
        duration_s=traffic.duration_s,
        steps=steps,
        is_open=traffic.is_open,
        connections=max(1, traffic.connections // count),
        timeout_s=traffic.timeout_s,
        seed=1000 * traffic.seed + 2 * number,
        grpc_address=traffic.grpc_address,
        moments=traffic.moments[number::count],
    )


def _command(traffic: Traffic, calls: Sequence[Call], assignment: Path) -> list[str]:
    pin = ["taskset", "-c", traffic.cpus] if traffic.cpus else []
    if traffic.engine == "sender":
        return [*pin, sys.executable, "-m", "loadtest.sender", str(assignment)]
    url = Assignment.read(assignment).url
    return [
        *pin,
        sys.executable,
        "-m",
        "locust",
        "--headless",
        "--only-summary",
        "--users",
        "1",
        "--loglevel",
        "WARNING",
        "--exit-code-on-error",
        "0",
        "--stop-timeout",
        str(math.ceil(traffic.timeout_s)),
        "--locustfile",
        str(_LOCUSTFILE),
        "--host",
        url,
        "--assignment",
        str(assignment),
        traffic.user or USERS[calls[0].kind],
    ]
