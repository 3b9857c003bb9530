"""What runs in locust: the users of ``users`` and ``grpc_user``, their shape, and their record.

Run by ``engines``, or by hand with locust's web page, from the checkout:
``locust -f loadtest/locustfile.py --host URL --golden models/NAME/VERSION RawUser``.
"""

import os
import resource
import sys
import time
from pathlib import Path
from typing import Any

import gevent
from locust import LoadTestShape, events, stats
from locust.argument_parser import LocustArgumentParser
from locust.env import Environment

from loadtest.assignment import Assignment, arrival_times
from loadtest.calls import DO_NOTHING, KINDS, read_calls
from loadtest.payloads import make_calls
from loadtest.shapes import Steps, level_at
from loadtest.users import (
    COURSE,
    MixedUser,
    MultipartUser,
    NothingUser,
    RawUser,
    V2BinaryUser,
    V2JsonUser,
)
from models.repository import ModelRepository

try:
    from loadtest.grpc_user import GrpcUser
except ModuleNotFoundError:  # without the grpc extra
    _GRPC: tuple[type, ...] = ()
else:
    _GRPC = (GrpcUser,)

__all__ = [
    "GrpcUser",
    "MixedUser",
    "MultipartUser",
    "NothingUser",
    "RawUser",
    "V2BinaryUser",
    "V2JsonUser",
]


def round_response_time(response_time: float) -> float:
    """Keep three significant digits of milliseconds; locust keeps whole ones, too coarse here."""
    return float(f"{response_time:.3g}")


stats.bucket_response_time = round_response_time  # type: ignore[assignment]  # the documented hook


@events.init_command_line_parser.add_listener  # type: ignore[untyped-decorator]
def add_options(parser: LocustArgumentParser, **_: Any) -> None:
    """Add what this file needs to locust's command line."""
    parser.add_argument("--assignment", help="file of an assignment; `foveal loadtest` writes one")
    parser.add_argument("--golden", help="by hand: directory of the version to ask")
    parser.add_argument("--rows", type=int, default=4, help="by hand: images in a request")
    parser.add_argument("--grpc-address", default="127.0.0.1:8001", help="by hand: host:port")


class StepShape(LoadTestShape):  # type: ignore[misc]  # untyped there
    """Users in steps; locust looks once a second."""

    abstract = True

    def __init__(self, steps: Steps, duration_s: float) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._steps = steps
        self._duration_s = duration_s

    def tick(self) -> tuple[int, float] | None:
        """Return users and how many may come a second, None at the end."""
        elapsed_s = time.monotonic() - COURSE.start_at
        if elapsed_s >= self._duration_s:
            return None
        users = round(level_at(self._steps, elapsed_s + 0.5))
        return users, max(1.0, float(users))


@events.init.add_listener  # type: ignore[untyped-decorator]
def prepare(environment: Environment, runner: Any, **_: Any) -> None:
    """Read the assignment; say that all is ready, and wait for the moment to start."""
    options = environment.parsed_options
    if options is None or not options.assignment:
        _prepare_by_hand(options)
        return
    assignment = Assignment.read(Path(options.assignment))
    COURSE.calls = read_calls(Path(assignment.calls))
    COURSE.timeout_s = assignment.timeout_s
    COURSE.grpc_address = assignment.grpc_address
    COURSE.has_tls = assignment.url.startswith("https:")
    if assignment.is_open:
        COURSE.due = arrival_times(
            assignment.steps, assignment.duration_s, assignment.seed
        ).tolist()
    else:
        environment.shape_class = StepShape(assignment.steps, assignment.duration_s)
        environment.shape_class.runner = runner
    print("ready", flush=True)
    COURSE.start_at = float(sys.stdin.readline())
    time.sleep(max(0.0, COURSE.start_at - time.monotonic()))
    used_s = _cpu_s()
    shares: list[float] = []

    def look() -> None:
        shares.append((_cpu_s() - used_s) / assignment.duration_s)

    gevent.spawn_later(assignment.duration_s, look)

    def write(**_: Any) -> None:
        look()  # where all was over before that
        COURSE.recorder.write(Path(assignment.out), shares[0])
        # What is left is the interpreter's end, in which gRPC's threads were seen to hang.
        os._exit(0)

    environment.events.quitting.add_listener(write)  # type: ignore[no-untyped-call]


def _prepare_by_hand(options: Any) -> None:
    COURSE.start_at = time.monotonic()
    COURSE.calls = [DO_NOTHING]
    if options is None or not options.golden:
        return
    folder = Path(options.golden).resolve()
    repository = ModelRepository(folder.parent.parent)
    artifact = repository.load(folder.parent.name, int(folder.name))
    COURSE.grpc_address = options.grpc_address
    for kind in KINDS:
        COURSE.calls += make_calls(repository, artifact, kind, 1 if kind == "raw" else options.rows)


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime
