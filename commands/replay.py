"""Ask recorded requests again: ``foveal replay``."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from commands.console import show
from commands.options import SHIPPED, JsonOption, ModelsOption, PrecisionOption, open_repository
from commands.record import LabelsOption, ModelFilter, folder_of, truths_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from models.artifact import ModelArtifact
    from models.repository import ModelRepository
    from scoring.compared import Comparison
    from scoring.local import LocalModel
    from scoring.replay import Pair
    from scoring.replay_url import Late


def replay(
    *,
    recording: Annotated[
        Path | None,
        typer.Argument(
            metavar="[RECORDING]",
            help="Folder of shards, or one tar.",
            show_default="FOVEAL_RECORD_FOLDER",
        ),
    ] = None,
    candidate: Annotated[str, typer.Option(metavar="NAME[:V]", help="Version that answers now.")],
    against: Annotated[
        str,
        typer.Option(
            metavar="V",
            help="Version of the same model to compare with.",
            show_default="the recorded answers",
        ),
    ] = "",
    model: ModelFilter = "",
    labels: LabelsOption = None,
    url: Annotated[
        str,
        typer.Option(metavar="URL", help="Service to ask.", show_default="none: in this process"),
    ] = "",
    speed: Annotated[
        float, typer.Option(min=0.01, help="With --url: times as fast as recorded.")
    ] = 1.0,
    max_flips: Annotated[
        float | None,
        typer.Option(
            min=0, max=100, help="Exit code 1 above this share of changed labels, percent."
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder for a page with what changed.")
    ] = None,
    precision: PrecisionOption = "fp32",
    models: ModelsOption = SHIPPED,
    as_json: JsonOption = False,
) -> None:
    """Run recorded requests through a version, and say what it answers differently.

    Example: foveal replay --candidate fashion-cnn:2 --out replayed
    """
    from report.progress import ProgressBar
    from scoring.compared import Comparison, summarize
    from scoring.local import LocalModel
    from scoring.recorded import Wanted
    from scoring.replay import replay as replay_here
    from scoring.replay_url import Late, Service, replay_at

    if url and against:
        raise typer.BadParameter("expected one of --url and --against", param_hint="--against")
    folder = folder_of(recording)
    repository = open_repository(models)
    name, version = repository.resolve(candidate)
    wanted = Wanted(model or name, truths_of(folder, labels))
    late = Late()
    with ProgressBar(f"{name}:{version}", quiet=as_json) as bar:

        def report(rows: int) -> None:
            bar.show(rows, None, f"{rows:,} rows")

        pairs: Iterable[Pair]
        if url:
            artifact = repository.load(name, version)
            service = Service(url.rstrip("/"), artifact, speed)
            pairs = replay_at(service, folder, wanted, late, report)
        else:
            local = LocalModel.load(repository, f"{name}:{version}", 1, precision)
            artifact = local.artifact
            other = _other(repository, local, against, precision) if against else None
            pairs = replay_here(folder, wanted, local, other, report)
        found = Comparison(artifact)
        for pair in pairs:
            found.add(pair)
    lines = [*summarize(found), *_latency(found, late, is_remote=bool(url))]
    document = found.document() | {"candidate": artifact.reference, "recording": str(folder)}
    if url:
        document["late_ms"] = late.most_s * 1e3
    if out is not None:
        document["page"] = _write(out, found, artifact, against, folder, is_remote=bool(url))
        lines.append(("page", str(document["page"])))
    show(document, as_json, lines)
    if not found.rows or _has_too_many(found, max_flips):
        raise typer.Exit(1)


def _other(
    repository: "ModelRepository", candidate: "LocalModel", against: str, precision: str
) -> "LocalModel":
    """Load the version to compare with; refuse one that cannot be compared."""
    from models.artifact import ArtifactError
    from models.comparable import why_incomparable
    from scoring.local import LocalModel

    name = candidate.artifact.name
    reference = against if against.startswith(f"{name}:") else f"{name}:{against}"
    other = LocalModel.load(repository, reference, 1, precision)  # type: ignore[arg-type]
    if why := why_incomparable(candidate.artifact, other.artifact):
        raise ArtifactError(why)
    return other


def _latency(found: "Comparison", late: "Late", *, is_remote: bool) -> list[tuple[str, str]]:
    before, after = found.before, found.after
    if not found.rows:
        return []
    lines = [
        (
            "run here" if not is_remote else "answered",
            f"{after.percentile_ms(0.5):.3g} ms p50, {after.percentile_ms(0.99):.3g} ms p99"
            + (" a row" if not is_remote else ""),
        ),
        (
            "recorded queue and run",
            f"{before.percentile_ms(0.5):.3g} ms p50, {before.percentile_ms(0.99):.3g} ms p99",
        ),
    ]
    if is_remote:
        lines.append(("sent late", f"{late.most_s * 1e3:.3g} ms at most"))
    return lines


def _write(
    out: Path,
    found: "Comparison",
    artifact: "ModelArtifact",
    against: str,
    recording: Path,
    *,
    is_remote: bool,
) -> str:
    from scoring.replay_page import Names, write_page

    latency = (
        "Latency: before, queue and run as recorded; after, from request to answer."
        if is_remote
        else "Latency: of recorded answers, queue and run; of a version that ran here, a row's "
        "share of its batch."
    )
    before = f"version {against}" if against else "the recorded answers"
    names = Names(str(recording), before, artifact.reference, latency)
    command = " ".join(["foveal", *sys.argv[1:]])
    return str(write_page(out, found, artifact, names, command))


def _has_too_many(found: "Comparison", max_flips: float | None) -> bool:
    return max_flips is not None and found.flipped > found.rows * max_flips / 100
