"""List, check and change the model repository: ``foveal models …``."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from commands.console import print_line, show
from commands.options import SHIPPED, JsonOption, ModelsOption, model_names, open_repository
from commands.promote import show_promotion

if TYPE_CHECKING:
    from models.repository import ModelRepository

NameArgument = Annotated[
    str, typer.Argument(metavar="NAME", help="Model to change.", autocompletion=model_names)
]
VersionArgument = Annotated[int, typer.Argument(metavar="VERSION", help="Candidate version.")]
FractionArgument = Annotated[
    float,
    typer.Argument(metavar="FRACTION", min=0, max=1, help="Share of the requests; 0 ends it."),
]
# Printed after each change of the repository.
_WHEN = "a running service reloads it within FOVEAL_RELOAD_S seconds"


def list_models(models: ModelsOption = SHIPPED, as_json: JsonOption = False) -> None:
    """List every version with its accuracy, size, disk use and routes.

    The exit code is 1 if one cannot be read.

    Example: foveal models list
    """
    from models.describe import list_entries, tabulate

    entries = list_entries(open_repository(models))
    show([dataclasses.asdict(entry) for entry in entries], as_json, tabulate(entries))
    if any(entry.error for entry in entries):
        raise typer.Exit(1)


def show_model(
    model: Annotated[str, typer.Argument(metavar="NAME[:V]", help="Version to show.")],
    models: ModelsOption = SHIPPED,
    as_json: JsonOption = False,
) -> None:
    """Show one version: inputs and outputs, promotion, accuracy, provenance, plan.

    Example: foveal models show fashion-cnn
    """
    from models.artifact import ArtifactError
    from models.describe import answers, describe
    from models.tuned import describe_tuning, read_tuning

    repository = open_repository(models)
    name, version = repository.resolve(model)
    artifact = repository.load(name, version)
    try:
        plan = read_tuning(repository, name, version)
        lines = describe_tuning(plan) if plan else []
    except ArtifactError as error:  # the service ignores an invalid plan, too
        plan, lines = None, [("plan", str(error))]
    said = answers(repository, artifact)
    promotion, promoted = show_promotion(repository, name, version)
    document = dataclasses.asdict(artifact) | {
        "answers": said,
        "plan": dataclasses.asdict(plan) if plan else None,
        "promotion": promotion,
    }
    known, *others = describe(artifact)
    requests = " and ".join(said) or "only requests that name the version"
    show(document, as_json, [known, ("answers", requests), *promoted, *others, *lines])


def verify_models(
    model: Annotated[
        str | None,
        typer.Argument(metavar="NAME[:V]", help="Version, or model, to check.", show_default="all"),
    ] = None,
    models: ModelsOption = SHIPPED,
    as_json: JsonOption = False,
) -> None:
    """Check checksums and graphs and replay the golden images.

    The exit code is 1 if a check fails. An int8 file that this processor computes otherwise is a
    note: the service answers in fp32.

    Example: foveal models verify fashion-cnn
    """
    from scoring.local import verify

    verdicts = verify(open_repository(models), model)
    show(verdicts, as_json, list(verdicts.items()))
    if not all(verdict.startswith("ok") for verdict in verdicts.values()):
        raise typer.Exit(1)


def upgrade_model(
    model: Annotated[str, typer.Argument(metavar="NAME[:V]", help="Version of format 1.")],
    images: Annotated[
        list[Path] | None,
        typer.Option(help="Picture to compare; repeatable.", show_default="resized golden images"),
    ] = None,
    background: Annotated[
        str | None,
        typer.Option(
            help="Colour under transparent pixels, as 255,255,255.", show_default="dropped"
        ),
    ] = None,
    models: ModelsOption = SHIPPED,
    as_json: JsonOption = False,
) -> None:
    """Publish a version of format 1 again in format 2, which needs no OpenCV.

    The answers to pictures of other sizes change a little; how much is printed.

    Example: foveal models upgrade fashion-cnn:1
    """
    from export.upgrade import describe_upgrade, read_colour, upgrade

    colour = None if background is None else read_colour(background)
    done = upgrade(open_repository(models), model, images or (), colour)
    show(dataclasses.asdict(done), as_json, describe_upgrade(done))


def rollback_model(
    name: NameArgument, models: ModelsOption = SHIPPED, as_json: JsonOption = False
) -> None:
    """Serve the version before the current one; nothing is deleted.

    Example: foveal models rollback fashion-cnn
    """
    version = open_repository(models).rollback(name)
    _say(f"{name}:{version} is served", as_json, model=name, version=version)


def set_shadow(
    name: NameArgument,
    version: VersionArgument,
    fraction: FractionArgument,
    models: ModelsOption = SHIPPED,
    as_json: JsonOption = False,
) -> None:
    """Run VERSION on a share of NAME's requests beside the served version, to compare the two.

    Clients get only the results of the served version.

    Example: foveal models shadow fashion-cnn 2 0.1
    """
    _set_share("shadow", open_repository(models), name, version, fraction, as_json=as_json)


def set_canary(
    name: NameArgument,
    version: VersionArgument,
    fraction: FractionArgument,
    models: ModelsOption = SHIPPED,
    as_json: JsonOption = False,
) -> None:
    """Run VERSION on a share of NAME's requests instead of the served version.

    Requests with the same X-Request-Id get the same version.

    Example: foveal models canary fashion-cnn 2 0.1
    """
    _set_share("canary", open_repository(models), name, version, fraction, as_json=as_json)


def set_record(
    name: NameArgument,
    share: Annotated[
        float | None,
        typer.Argument(
            metavar="[SHARE]",
            min=0,
            max=1,
            help="Share of the requests; 0 records none.",
            show_default="the service's FOVEAL_RECORD",
        ),
    ] = None,
    models: ModelsOption = SHIPPED,
    as_json: JsonOption = False,
) -> None:
    """Record a share of NAME's requests and answers, whatever FOVEAL_RECORD says.

    Example: foveal models record fashion-cnn 0.1
    """
    open_repository(models).set_record(name, share)
    what = "as FOVEAL_RECORD says" if share is None else f"{share:.4g} of the requests"
    _say(f"{name}: recorded is {what}", as_json, model=name, share=share)


def _set_share(
    kind: str,
    repository: "ModelRepository",
    name: str,
    version: int,
    fraction: float,
    *,
    as_json: bool,
) -> None:
    from models.describe import why_no_share
    from models.rollout import NO_ROLLOUT, Share

    repository.resolve(f"{name}:{version}")
    rollout = repository.settings().rollouts.get(name, NO_ROLLOUT)
    share = Share(version, fraction) if fraction else None
    repository.set_rollout(name, dataclasses.replace(rollout, **{kind: share}))
    why = why_no_share(repository, name, version) if share else ""
    said = f"{name}:{version} is {kind} of {fraction:.4g} of the requests"
    _say(said, as_json, model=name, version=version, kind=kind, fraction=fraction, no_effect=why)
    if why:
        print_line(f"{name}:{version} gets no share of the requests now: {why}", is_error=True)


def prune_model(
    name: NameArgument,
    keep: Annotated[
        int, typer.Option(min=1, help="Newest versions to keep, of those that can be served.")
    ],
    is_dry: Annotated[
        bool, typer.Option("--dry-run", help="Print what would be deleted, delete nothing.")
    ] = False,
    models: ModelsOption = SHIPPED,
    as_json: JsonOption = False,
) -> None:
    """Delete old versions of NAME, never one that is pinned, served, a canary or a shadow.

    A running service no longer answers by their numbers once it has polled the repository.

    Example: foveal models prune fashion-cnn --keep 3
    """
    from models.describe import disk_bytes, size_text
    from models.prune import choose_pruned, delete_version
    from scoring.local import verify

    repository = open_repository(models)

    def is_good(version: int) -> bool:
        return set(verify(repository, f"{name}:{version}").values()) == {"ok"}

    chosen = choose_pruned(repository, name, keep, is_good)
    deleted = []
    for version in chosen:
        freed_bytes = disk_bytes(repository, name, version)
        if not is_dry:
            delete_version(repository, name, version)
        deleted.append({"version": version, "freed_bytes": freed_bytes})
        if not as_json:
            done = "would be deleted" if is_dry else "deleted"
            print_line(f"{name}:{version} {done}, {size_text(freed_bytes)}")
    if as_json:
        show({"model": name, "is_dry_run": is_dry, "deleted": deleted}, True, [])
    elif not chosen:
        print_line(f"{name}: nothing to delete")


def set_default(
    name: NameArgument,
    version: Annotated[
        int | None,
        typer.Argument(metavar="V", help="Version to serve.", show_default="unchanged"),
    ] = None,
    models: ModelsOption = SHIPPED,
    as_json: JsonOption = False,
) -> None:
    """Make NAME the default model or, with V, make V its served version.

    Example: foveal models default fashion-cnn 2
    """
    open_repository(models).set_default(name, version)
    change = f"{name} is the default" if version is None else f"{name}:{version} is served"
    _say(change, as_json, model=name, version=version)


def unpin_model(
    name: NameArgument, models: ModelsOption = SHIPPED, as_json: JsonOption = False
) -> None:
    """Serve the newest version of NAME, also one that is published later.

    `default NAME V` and `rollback` pin a version.

    Example: foveal models unpin fashion-cnn
    """
    version = open_repository(models).unpin(name)
    _say(f"{name}:{version} is served, and any newer version", as_json, model=name, version=version)


def _say(change: str, as_json: bool, **document: object) -> None:
    """Print a change of the repository."""
    show(document, as_json, [(f"{change}; {_WHEN}",)])
