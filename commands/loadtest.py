"""Load: ``foveal loadtest`` sends golden images to a service and reports what it did."""

import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from commands.console import print_line, show
from commands.help import headed, stoppable
from commands.options import SHIPPED, JsonOption, ModelOption, ModelsOption, open_repository

if TYPE_CHECKING:
    from loadtest.calls import Call
    from loadtest.expect import Clause
    from loadtest.trial import Outcome
    from models.repository import ModelRepository

_PROGRAM = Path(__file__).resolve().parent.parent / "foveal.py"
_USERS, _DURATION_S, _SOAK_S = 32, 10.0, 600.0
_SEARCH_S = 3.0  # of one measurement of --find-max, if a load is no shorter
# Of the images of a recording that are sent: the newest ones that are no more.
_MOST_BYTES = 1 << 30
# (second, number of the call) of each recorded request, in order.
Moments = tuple[tuple[float, int], ...]
_Kind = Literal["raw", "multipart", "v2-json", "v2-binary", "grpc", "mixed"]


@headed(
    {
        "Requests": "kind rows model deadline_ms timeout_s grpc",
        "Load": "users rate shape duration_s engine processes",
        "Promise": "p99_ms find_max budget_s expect",
        "Service": "start models",
    }
)
def loadtest(
    *,
    url: Annotated[
        str, typer.Argument(metavar="URL", help="Running service.")
    ] = "http://127.0.0.1:3000",
    kind: Annotated[_Kind, typer.Option(help="Kind of request.")] = "raw",
    rows: Annotated[int, typer.Option(min=1, help="Images per request.")] = 1,
    users: Annotated[
        int | None, typer.Option(min=1, help="Users in a closed loop.", show_default="32")
    ] = None,
    rate: Annotated[
        float | None, typer.Option(min=0.1, help="Rate of open arrivals, requests/s.")
    ] = None,
    shape: Annotated[
        Literal["steady", "steps", "spike", "soak"], typer.Option(help="Users or rate over time.")
    ] = "steady",
    duration_s: Annotated[
        float | None, typer.Option(min=0.5, help="Length, seconds.", show_default="10; soak: 600")
    ] = None,
    p99_ms: Annotated[
        float, typer.Option(min=0.1, help="Promised p99 latency, milliseconds.")
    ] = 20.0,
    find_max: Annotated[
        bool, typer.Option("--find-max", help="Find the highest rate within --p99-ms.")
    ] = False,
    budget_s: Annotated[
        float, typer.Option(min=1, help="Time limit of --find-max, seconds.")
    ] = 120.0,
    expect: Annotated[str | None, typer.Option(help="Checks, such as p99_ms<20,errors==0.")] = None,
    recording: Annotated[
        Path | None,
        typer.Option(
            "--from",
            metavar="RECORDING",
            help="Send recorded requests, at the times of their recording.",
        ),
    ] = None,
    speed: Annotated[
        float, typer.Option(min=0.01, help="With --from: times as fast as recorded.")
    ] = 1.0,
    deadline_ms: Annotated[
        float | None, typer.Option(min=1, help="Deadline of each request, milliseconds.")
    ] = None,
    timeout_s: Annotated[float, typer.Option(min=0.1, help="Client time-out, seconds.")] = 10.0,
    engine: Annotated[
        Literal["auto", "sender", "locust"], typer.Option(help="Load generator.")
    ] = "auto",
    processes: Annotated[int, typer.Option(min=0, help="Sender processes; 0 chooses by rate.")] = 0,
    grpc: Annotated[
        str,
        typer.Option(
            metavar="HOST:PORT", help="gRPC address.", show_default="URL's host, port 8001"
        ),
    ] = "",
    out: Annotated[
        Path | None, typer.Option(help="Output folder.", show_default="a new one")
    ] = None,
    model: ModelOption = None,
    start: Annotated[bool, typer.Option("--start", help="Start a service for the test.")] = False,
    models: ModelsOption = SHIPPED,
    as_json: JsonOption = False,
) -> None:
    """Load a service, check every label and write a report.

    Example: foveal loadtest --start --find-max --p99-ms 20
    """
    from models.files import check_writable

    if out is not None:
        check_writable(out, "--out")
    from loadtest.engines import Traffic, check_engine
    from loadtest.serving import free_port, running_service
    from loadtest.shapes import steps_of
    from loadtest.trial import Search, run_trial
    from report.progress import ProgressBar

    _check(kind, rows, users, rate, find_max=find_max)
    _check_alone(recording, find_max, rate, users, kind != "raw", engine == "locust")
    clauses = _clauses(expect, find_max=find_max)
    repository = open_repository(models)
    name, calls, moments = _recorded_or_made(repository, model, kind, rows, recording, speed)
    is_open = rate is not None or find_max or bool(moments)
    sender = _engine(engine, kind, is_open=is_open)
    check_engine(sender, calls := _with_deadline(calls, deadline_ms))
    duration_s = duration_s or (_SOAK_S if shape == "soak" else _DURATION_S)
    duration_s, rate = _as_recorded(moments) if moments else (duration_s, rate)
    grpc_port = free_port() if start and kind == "grpc" else 0
    serve = [sys.executable, str(_PROGRAM), "serve", "--models", str(models.resolve())]
    with (
        stoppable("no report was written; repeat the command"),
        _folder(out) as folder,
        running_service(serve, folder / "serve.log", grpc_port)
        if start
        else nullcontext(url) as address,
        ProgressBar(quiet=as_json) as bar,
    ):
        traffic = Traffic(
            steps=steps_of(shape, float(rate or users or _USERS), duration_s),
            is_open=is_open,
            duration_s=duration_s,
            engine=sender,
            user="MixedUser" if kind == "mixed" else "",
            processes=processes,
            timeout_s=timeout_s,
            grpc_address=grpc or _grpc_address(address, grpc_port),
            moments=moments,
        )
        _check_served(address, repository, name)
        search = Search(rate or 200.0, min(_SEARCH_S, duration_s), budget_s) if find_max else None
        outcome = run_trial(
            address, name, calls, traffic, p99_ms=p99_ms, search=search, say=bar.show_step
        )
    _report(outcome, folder, as_json=as_json)
    if _is_violated(clauses, dict(outcome.figures)) or not outcome.figures["rps"]:
        raise typer.Exit(1)


@contextmanager
def _folder(out: Path | None) -> Iterator[Path]:
    """Give the folder for log and report; Ctrl-C removes a temporary one."""
    folder = out or Path(tempfile.mkdtemp(prefix="foveal-loadtest-"))
    folder.mkdir(parents=True, exist_ok=True)
    try:
        yield folder
    except KeyboardInterrupt:
        if out is None:
            shutil.rmtree(folder, ignore_errors=True)
        raise


def _report(outcome: "Outcome", folder: Path, *, as_json: bool) -> None:
    from loadtest.report import lines_of, to_json, write_report

    command = " ".join(["foveal", *sys.argv[1:]])
    page = str(write_report(folder, outcome, command))
    document = to_json(outcome, command) | {"out": str(folder)}
    show(document, as_json, [*lines_of(outcome), ("report", page)])


def _check(kind: str, rows: int, users: int | None, rate: float | None, *, find_max: bool) -> None:
    if kind == "raw" and rows != 1:
        raise typer.BadParameter(
            f"expected 1 for raw images, got {rows}; see --kind", param_hint="--rows"
        )
    if users is not None and (rate is not None or find_max):
        raise typer.BadParameter(
            "expected no --users with open arrivals, got both", param_hint="--users"
        )


def _recorded_or_made(
    repository: "ModelRepository",
    model: str | None,
    kind: str,
    rows: int,
    recording: Path | None,
    speed: float,
) -> "tuple[str, list[Call], Moments]":
    if recording is not None:
        return _recorded(repository, model, recording, speed)
    name, calls = _calls(repository, model, kind, rows)
    return name, calls, ()


def _with_deadline(calls: "list[Call]", deadline_ms: float | None) -> "list[Call]":
    if deadline_ms is None:
        return calls
    return [call.with_headers(("X-Request-Timeout-Ms", f"{deadline_ms:g}")) for call in calls]


def _check_alone(recording: Path | None, *others: object) -> None:
    """Check that nothing else is said of the load beside a recording."""
    if recording is not None and any(others):
        raise typer.BadParameter(
            "expected the load to be the recording's alone: no --rate, --users, --find-max, "
            "--kind, nor --engine locust",
            param_hint="--from",
        )


def _as_recorded(moments: Moments) -> tuple[float, float]:
    """Return the length of a recorded load, seconds, and its mean rate, requests/s."""
    duration_s = moments[-1][0] + 0.5
    return duration_s, len(moments) / duration_s


def _check_served(address: str, repository: "ModelRepository", names: str) -> None:
    from scoring.remote import check_served

    for reference in names.split(", "):
        check_served(address, repository, reference)


def _clauses(expect: str | None, *, find_max: bool) -> "list[Clause]":
    """Read --expect; the default allows no errors, but some at the limit that a search finds."""
    from loadtest.expect import ExpectError, parse
    from loadtest.trial import FIGURES

    if expect is None:
        expect = "rps>0" if find_max else "errors==0"
    try:
        return parse(expect, FIGURES)
    except ExpectError as error:
        raise typer.BadParameter(str(error), param_hint="--expect") from None


def _is_violated(clauses: "list[Clause]", figures: dict[str, float]) -> bool:
    from loadtest.expect import violations

    said = violations(clauses, figures)
    for line in said:
        print_line(f"--expect: {line}", is_error=True)
    return bool(said)


def _calls(
    repository: "ModelRepository", model: str | None, kind: str, rows: int
) -> "tuple[str, list[Call]]":
    """Return the names of the models and the requests."""
    from loadtest.payloads import make_calls, make_mixed_calls

    if kind == "mixed":
        artifacts = [repository.load(*repository.resolve(name)) for name in repository.names()]
        return ", ".join(artifact.reference for artifact in artifacts), make_mixed_calls(
            repository, artifacts, rows
        )
    artifact = repository.load(*repository.resolve(model))
    return artifact.reference, make_calls(repository, artifact, kind, rows)  # type: ignore[arg-type]


def _recorded(
    repository: "ModelRepository", model: str | None, recording: Path, speed: float
) -> "tuple[str, list[Call], Moments]":
    """Return the version that is asked, the recorded requests, and when each is due, seconds."""
    from loadtest.errors import LoadTestError
    from loadtest.payloads import make_call
    from scoring.recorded import Wanted, requests_of

    artifact = repository.load(*repository.resolve(model))
    found = requests_of(recording, Wanted(artifact.name, {}), _MOST_BYTES)
    if not found:
        raise LoadTestError(
            f"{recording}: expected requests of {artifact.name}, got none; choose a --model"
        )
    first = found[0].time
    calls = [make_call(artifact, each.images, each.answered) for each in found]
    moments = tuple(((each.time - first) / speed, i) for i, each in enumerate(found))
    return artifact.reference, calls, moments


def _engine(engine: str, kind: str, *, is_open: bool) -> Literal["sender", "locust"]:
    if engine == "auto":
        return "sender" if is_open and kind != "grpc" else "locust"
    return "sender" if engine == "sender" else "locust"


def _grpc_address(url: str, port: int) -> str:
    from urllib.parse import urlsplit

    return f"{urlsplit(url).hostname}:{port or 8001}"
