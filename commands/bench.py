"""Measure: ``bench`` the service beside others and stage by stage."""

import dataclasses
import json
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from commands.console import print_line, show
from commands.options import SHIPPED, JsonOption, ModelOption, ModelsOption, open_repository


def bench_peers(
    *,
    rounds: Annotated[int, typer.Option(min=1, help="Measurements per figure.")] = 3,
    duration_s: Annotated[int, typer.Option(min=1, help="Length of one measurement, seconds.")] = 4,
    cases: Annotated[str, typer.Option(help="Cases, from fcnn, cnn, photo.")] = "fcnn,cnn",
    only: Annotated[str, typer.Option(help="Peers, such as bentoml,mosec (default: all).")] = "",
    cpus: Annotated[str, typer.Option(help="Cores of the servers, such as 0,1.")] = "0",
    load_cpu: Annotated[str, typer.Option(help="Core of the load generator.")] = "1",
    multipart: Annotated[bool, typer.Option(help="Send forms to Foveal too.")] = False,
    models: ModelsOption = SHIPPED,
    as_json: JsonOption = False,
) -> None:
    """Measure Foveal beside other servers, which are installed first; needs wrk.

    Example: foveal bench peers --rounds 1 --only fastapi
    """
    _check_checkout()
    from loadtest.bench.peers import CASES, Setup, make_cases, run, table
    from loadtest.bench.servers import ALL_PEERS

    chosen = _names("--cases", cases, CASES)
    peers = _names("--only", only, tuple(peer.name for peer in ALL_PEERS))
    setup = Setup(
        rounds=rounds,
        seconds=duration_s,
        server_cpus=cpus,
        load_cpu=load_cpu,
        only=peers,
        is_multipart=multipart,
    )
    results = run(make_cases(models.resolve(), chosen, _say), setup, _say)
    _write("peers", "Peers side by side", table(results), results, as_json=as_json)


def bench_v2(
    *,
    rounds: Annotated[int, typer.Option(min=1, help="Measurements per figure.")] = 3,
    duration_s: Annotated[int, typer.Option(min=1, help="Length of one measurement, seconds.")] = 4,
    case: Annotated[str, typer.Option(help="Case: fcnn or cnn.")] = "fcnn",
    beside: Annotated[Path | None, typer.Option(help="JSON of others: name to rows/s.")] = (None),
    models: ModelsOption = SHIPPED,
    as_json: JsonOption = False,
) -> None:
    """Measure V2 over JSON, binary tensors and gRPC beside the session alone; needs wrk.

    Example: foveal bench v2 --rounds 1
    """
    _check_checkout()
    from statistics import median

    from loadtest.bench.peers import CASES, Setup, make_cases
    from loadtest.bench.v2 import run, table

    (chosen,) = make_cases(models.resolve(), _names("--case", case, CASES[:2]), _say)
    results = run(chosen, Setup(rounds=rounds, seconds=duration_s), _say)
    others: dict[str, list[float]] = json.loads(beside.read_text()) if beside else {}
    results["beside"] = {name: median(figures) for name, figures in others.items()}
    text = table(results, results["beside"])
    _write("v2", "V2's wires, one server core", text, results, as_json=as_json)


def bench_session(
    model: ModelOption = None,
    threads: Annotated[int, typer.Option(min=1, help="Threads of one run.")] = 1,
    device: Annotated[
        Literal["cpu", "cuda", "tensorrt"], typer.Option(help="Device of the session.")
    ] = "cpu",
    models: ModelsOption = SHIPPED,
    as_json: JsonOption = False,
) -> None:
    """Measure a model's session alone by batch size: the limit of any server.

    Example: foveal bench session --model fashion-cnn --threads 2
    """
    if device != "cpu":
        if model is not None:
            expected = "expected none with a GPU: the networks of `bench peers` are measured"
            raise typer.BadParameter(expected, param_hint="--model")
        from loadtest.bench import device as sessions

        results = sessions.measure(device, models, None, _say)
        show(results, as_json, sessions.table(results))
        return
    from loadtest.bench.session import measure, table

    repository = open_repository(models)
    artifact = repository.load(*repository.resolve(model))
    figures = measure(repository, artifact, threads)
    show([dataclasses.asdict(figure) for figure in figures], as_json, table(figures))


def bench_stages(
    model: ModelOption = "fashion-fcnn",
    duration_s: Annotated[int, typer.Option(min=1, help="Length of the load, seconds.")] = 5,
    models: ModelsOption = SHIPPED,
    as_json: JsonOption = False,
) -> None:
    """Measure the microseconds of a request by stage; needs wrk.

    Example: foveal bench stages --model fashion-fcnn
    """
    _check_checkout()
    from loadtest.bench.stages import run, table

    results = run(models.resolve(), model or "", duration_s)
    _write("stages", "Where a request's time goes", table(results), results, as_json=as_json)


def bench_overload(
    *,
    model: ModelOption = "cifar10-cnn",
    deadline_ms: Annotated[float, typer.Option(min=1, help="Deadline, milliseconds.")] = 500,
    loads: Annotated[str, typer.Option(help="Loads, in multiples of the capacity.")] = (
        "0.25,0.5,0.75,1,1.5,2,3,4"
    ),
    rounds: Annotated[int, typer.Option(min=1, help="Measurements per figure.")] = 3,
    duration_s: Annotated[int, typer.Option(min=1, help="Length of one measurement, seconds.")] = 5,
    only: Annotated[str, typer.Option(help="Servers, such as foveal,mosec (default: all).")] = "",
    cpus: Annotated[str, typer.Option(help="Cores of the servers, such as 0,1.")] = "0",
    load_cpus: Annotated[str, typer.Option(help="Cores of the client.")] = "1",
    models: ModelsOption = SHIPPED,
    as_json: JsonOption = False,
) -> None:
    """Measure loads of 0.25 to 4 times the capacity beside BentoML and mosec.

    Example: foveal bench overload --rounds 1 --only foveal
    """
    _check_checkout()
    from loadtest.bench.overload import SERVERS, OverloadSetup, run, table
    from loadtest.bench.overload_plot import plot_overload

    setup = OverloadSetup(
        model=model or "",
        deadline_ms=deadline_ms,
        loads=_numbers("--loads", loads),
        rounds=rounds,
        seconds=duration_s,
        server_cpus=cpus,
        load_cpus=load_cpus,
        only=_names("--only", only, SERVERS),
    )
    results = run(models, setup, _say)
    title = "Overload: what is left of a server that is asked for more than it can do"
    text, picture = table(results), plot_overload(results)
    _write("overload", title, text, results, as_json=as_json, picture=picture)


def bench_endurance(
    duration_s: Annotated[
        int, typer.Option(min=1, help="Length of the run for pauses, seconds.")
    ] = 60,
    requests: Annotated[int, typer.Option(min=1000, help="Requests of the run for memory.")] = (
        1_000_000
    ),
    models: ModelsOption = SHIPPED,
    as_json: JsonOption = False,
) -> None:
    """Measure pauses, new connections, memory and workers under load; needs wrk.

    Example: foveal bench endurance --duration-s 10 --requests 100000
    """
    _check_checkout()
    from loadtest.bench.endurance import run, table

    results = run(models.resolve(), duration_s, requests, _say)
    _write("endurance", "What grows and what does not", table(results), results, as_json=as_json)


def bench_start(
    starts: Annotated[int, typer.Option(min=1, help="Starts that count.")] = 20,
    models: ModelsOption = SHIPPED,
    as_json: JsonOption = False,
) -> None:
    """Measure starts: seconds to the first right answer, processor time, memory.

    Example: foveal bench start --starts 5
    """
    _check_checkout()
    from loadtest.bench.start import run, table

    results = run(models.resolve(), starts, _say)
    _write("start", "What a start costs", table(results), results, as_json=as_json)


def bench_record(
    cases: Annotated[str, typer.Option(help="Cases: fcnn, photo.")] = "fcnn,photo",
    rounds: Annotated[int, typer.Option(min=1, help="Rounds of all services.")] = 9,
    duration_s: Annotated[int, typer.Option(min=1, help="Length of one load, seconds.")] = 4,
    cpus: Annotated[str, typer.Option(help="Cores of the services, such as 0,1.")] = "0",
    load_cpus: Annotated[str, typer.Option(help="Cores of the client.")] = "1",
    models: ModelsOption = SHIPPED,
    as_json: JsonOption = False,
) -> None:
    """Measure what recording costs: 1 % and all requests beside none; needs wrk.

    Example: foveal bench record --cases fcnn --rounds 3
    """
    _check_checkout()
    from loadtest.bench.record import CASES, Setup, make_cases, run, table

    setup = Setup(rounds, duration_s, cpus, load_cpus)
    chosen = make_cases(models.resolve(), _names("--cases", cases, CASES), _say)
    results = run(chosen, setup, _say)
    _write("record", "What recording costs", table(results), results, as_json=as_json)


def _check_checkout() -> None:
    """End a benchmark that needs a checkout's sources and writes its results there."""
    from loadtest.errors import LoadTestError
    from models.installation import HOME, is_checkout

    if not is_checkout():
        raise LoadTestError(
            f"bench: expected a checkout of Foveal, got {HOME}: it holds what is measured beside "
            "it and the results; `foveal loadtest` measures a service from anywhere"
        )


def _names(option: str, text: str, existing: tuple[str, ...]) -> tuple[str, ...]:
    names = tuple(name for name in text.split(",") if name)
    for name in names:
        if name not in existing:
            expected = f"expected one of {', '.join(existing)}, got {name!r}"
            raise typer.BadParameter(expected, param_hint=option)
    return names


def _numbers(option: str, text: str) -> tuple[float, ...]:
    try:
        return tuple(float(word) for word in text.split(","))
    except ValueError:
        raise typer.BadParameter(
            f"expected numbers as 0.5,1,2, got {text!r}", param_hint=option
        ) from None


def _say(line: str) -> None:
    print_line(line, is_error=True)


def _write(
    name: str,
    title: str,
    text: str,
    results: dict[str, Any],
    *,
    as_json: bool,
    picture: bytes | None = None,
) -> None:
    from loadtest.bench.results_file import write

    path = write(name, title, " ".join(["foveal", *sys.argv[1:]]), text, results, picture)
    show(results, as_json, [(line,) for line in [*text.splitlines(), str(path)]])
