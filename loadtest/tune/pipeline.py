"""From a model and a promised latency to a plan beside the model, with a report."""

import dataclasses
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from loadtest.payloads import make_calls
from loadtest.tune.cores import choose_cores
from loadtest.tune.errors import TuneError
from loadtest.tune.journal import Journal
from loadtest.tune.report import Story, write_report
from loadtest.tune.search import Outcome, Search, Wish
from loadtest.tune.serve import Service
from loadtest.tune.sweep import Sweep
from models.artifact import ModelArtifact, Precision
from models.machine import Machine
from models.repository import ModelRepository
from models.tuned import Tuning, remove_tuning, write_tuning
from service.session.devices import select_device
from service.session.machine import this_machine
from service.session.plans import Asked


@dataclass(frozen=True, slots=True)
class Request:
    """What a user asks for.

    Attributes:
        reference: ``name``, ``name:version`` or None for the default model.
        p99_ms: The promised p99 latency, milliseconds.
        precisions: Precisions to try; empty: every one that passed its gate.
        device: Device of the sessions.
        cores: Cores of the service; None: all available ones.
        workers: Processes of the service, which share the cores.
        budget_s: Seconds for everything.
        out: Folder for measurements, logs and report.
        is_fresh: Discard earlier measurements in that folder.
        command: Command that repeats it, for the record.
    """

    reference: str | None
    p99_ms: float
    precisions: tuple[Precision, ...] = ()
    device: Asked = "auto"
    cores: int | None = None
    workers: int = 1
    budget_s: float = 300.0
    out: Path | None = None
    is_fresh: bool = False
    command: str = "foveal tune"


@dataclass(frozen=True, slots=True)
class Result:
    """The result of a tuning.

    Attributes:
        model: ``name:version``.
        verdict: One sentence.
        plan: The plan beside the model now; None: none, the defaults are best.
        outcome: What the search found.
        report: Path of the page.
    """

    model: str
    verdict: str
    plan: Tuning | None
    outcome: Outcome
    report: Path


def tune_model(
    repository: ModelRepository,
    request: Request,
    *,
    progress: Callable[[str], None] = lambda _what: None,
    warn: Callable[[str], None] = lambda _line: None,
) -> Result:
    """Measure a version on this machine and put the best plan beside it.

    A plan that is there already is replaced; where the defaults are best or nothing keeps the
    promise, it is removed. It stays where the time was too short to tell.

    Args:
        repository: Repository of the version.
        request: What the user asks for.
        progress: Called with the current step.
        warn: Called with warnings for the user.

    Raises:
        TuneError: The request cannot be measured on this machine.
        ArtifactError, LoadTestError: The model is missing, or the load failed.
    """
    name, version = repository.resolve(request.reference)
    artifact = repository.verify(name, version)
    precisions = _precisions(artifact, request.precisions)
    cores = choose_cores(request.cores)
    share = cores.count // request.workers
    if not share:
        raise TuneError(
            f"FOVEAL_WORKERS: expected at most {cores.count}, a core each, got {request.workers}"
        )
    found = select_device(request.device)
    machine = dataclasses.replace(this_machine(request.workers, found), cores=cores.count)
    out = (request.out or Path("runs/tune") / f"{name}-{version}").resolve()
    about = _about(artifact, machine, precisions, request)
    journal = Journal(out, about, is_fresh=request.is_fresh)
    if journal.difference:
        warn(f"{out}: measuring anew: {journal.difference}")
    elif not journal.is_empty:
        progress(f"going on with {len(journal.sessions)} + {len(journal.served)} measurements")
    wish = Wish(request.p99_ms, share, precisions, request.budget_s, found.device != "cpu")
    with tempfile.TemporaryDirectory(prefix="foveal-tune-") as folder:
        alone = _alone(repository, artifact, Path(folder))
        calls = make_calls(repository, artifact)
        service = Service(
            alone.root, calls, request.p99_ms, cores, request.workers, request.device, out
        )
        sweep = Sweep(
            alone, artifact, cores, request.p99_ms, found.device, out / "sweep.log", on_refusal=warn
        )
        outcome = Search(
            wish, journal, sweep.measure, service.measure, progress=progress, clock=time.monotonic
        ).run()
    plan = _plan(artifact, machine, outcome, request)
    had_plan = plan is None and outcome.is_whole and remove_tuning(repository, name, version)
    if plan is not None:
        write_tuning(repository, name, version, plan)
    verdict = _verdict(outcome, had_plan=had_plan)
    story = Story(artifact.reference, machine, wish, outcome, verdict, request.command)
    report = write_report(out, journal, story)
    return Result(artifact.reference, verdict, plan, outcome, report)


def _verdict(outcome: Outcome, *, had_plan: bool) -> str:
    verdict = outcome.verdict
    if had_plan:
        verdict += "; the plan that it had is removed"
    if not outcome.is_whole:
        verdict += "; the time was short, the same command with a larger --budget-s goes on"
    return verdict


def reset(repository: ModelRepository, reference: str | None) -> str:
    """Remove the plan of a version; return a sentence that says so."""
    name, version = repository.resolve(reference)
    had = remove_tuning(repository, name, version)
    return f"{name}:{version} {'has no plan any more' if had else 'had no plan'}"


def _precisions(artifact: ModelArtifact, wanted: tuple[Precision, ...]) -> tuple[Precision, ...]:
    """Return the precisions to try: those wanted, of those that passed their gate."""
    has = [f.precision for f in artifact.files if f.gate or f.precision == "fp32"]
    missing = [precision for precision in wanted if precision not in has]
    if missing:
        raise TuneError(
            f"--precision: expected some of {', '.join(has)}, which {artifact.reference} has and "
            f"which passed their gate, got {missing[0]}"
        )
    return tuple(sorted(wanted or has))


def _about(
    artifact: ModelArtifact, machine: Machine, precisions: tuple[Precision, ...], request: Request
) -> dict[str, object]:
    digests = {f.precision: f.sha256[:16] for f in artifact.files if f.precision in precisions}
    return {
        "model": artifact.reference,
        "files": digests,
        "p99_ms": request.p99_ms,
        "pinned": request.cores is not None,
        "axes": "precision, threads, instances, batch",
        **dataclasses.asdict(machine),
    }


def _alone(repository: ModelRepository, artifact: ModelArtifact, root: Path) -> ModelRepository:
    """Make a repository of nothing but the version: no other model takes memory, no plan counts."""
    link = root / artifact.name / str(artifact.version)
    link.parent.mkdir()
    link.symlink_to(repository.path(artifact.name, artifact.version).resolve(), True)
    return ModelRepository(root)


def _plan(
    artifact: ModelArtifact, machine: Machine, outcome: Outcome, request: Request
) -> Tuning | None:
    choice = outcome.choice
    if choice is None:
        return None
    file = artifact.file(choice.precision)
    assert file is not None, "only its files were tried; this is a bug"
    return Tuning(
        model=artifact.reference,
        sha256=file.sha256,
        machine=machine,
        precision=choice.precision,
        threads=choice.threads,
        instances=choice.instances,
        max_batch_size=choice.max_batch_size,
        max_queue_delay_ms=0.0,
        buckets=(),
        p99_ms=request.p99_ms,
        goodput_per_s=round(outcome.best.goodput_per_s, 1),
        default_goodput_per_s=round(outcome.default.goodput_per_s, 1),
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        command=request.command,
    )
