"""Look into and change the model repository: ``foveal models …``."""

import dataclasses
from typing import TYPE_CHECKING, Annotated

import typer

from commands.console import show
from commands.options import SHIPPED, JsonOption, ModelsOption, open_repository

if TYPE_CHECKING:
    from models.repository import ModelRepository

FractionArgument = Annotated[float, typer.Argument(metavar="FRACTION", min=0, max=1)]
# What a running service does with a change of the repository.
_WHEN = "in a running service within FOVEAL_RELOAD_S seconds"


def list_models(models: ModelsOption = SHIPPED, as_json: JsonOption = False) -> None:
    """List every version: accuracy, size, and which one answers.

    Example: foveal models list
    """
    from models.describe import list_entries, tabulate

    entries = list_entries(open_repository(models))
    show([dataclasses.asdict(entry) for entry in entries], as_json, tabulate(entries))


def show_model(
    model: Annotated[str, typer.Argument(metavar="NAME[:V]")],
    models: ModelsOption = SHIPPED,
    as_json: JsonOption = False,
) -> None:
    """Show one version's whole story: what it takes and gives, how good, from where, its plan.

    Example: foveal models show fashion-cnn
    """
    from models.artifact import ArtifactError
    from models.describe import tell
    from models.tuned import describe_tuning, read_tuning

    repository = open_repository(models)
    name, version = repository.resolve(model)
    artifact = repository.load(name, version)
    try:
        plan = read_tuning(repository, name, version)
        lines = describe_tuning(plan) if plan else []
    except ArtifactError as error:  # the service does without it, too
        plan, lines = None, [("plan", str(error))]
    document = dataclasses.asdict(artifact) | {"plan": dataclasses.asdict(plan) if plan else None}
    show(document, as_json, [*tell(artifact), *lines])


def verify_models(
    model: Annotated[str | None, typer.Argument(metavar="[NAME[:V]]", show_default="all")] = None,
    models: ModelsOption = SHIPPED,
    as_json: JsonOption = False,
) -> None:
    """Check checksums and graphs, and replay the golden images; exit code 1 if any is wrong.

    Example: foveal models verify fashion-cnn
    """
    from scoring.local import verify

    verdicts = verify(open_repository(models), model)
    show(verdicts, as_json, list(verdicts.items()))
    if set(verdicts.values()) != {"ok"}:
        raise typer.Exit(1)


def rollback_model(name: str, models: ModelsOption = SHIPPED) -> None:
    """Serve the version before the one that is served now; nothing is deleted.

    Example: foveal models rollback fashion-cnn
    """
    version = open_repository(models).rollback(name)
    print(f"{name}:{version} answers, {_WHEN}")


def set_shadow(
    name: str, version: int, fraction: FractionArgument, models: ModelsOption = SHIPPED
) -> None:
    """Let V answer a share of NAME's requests beside the version that serves, to compare the two.

    No client sees its answers; a FRACTION of 0 ends it.

    Example: foveal models shadow fashion-cnn 2 0.1
    """
    _set_share("shadow", open_repository(models), name, version, fraction)


def set_canary(
    name: str, version: int, fraction: FractionArgument, models: ModelsOption = SHIPPED
) -> None:
    """Let V answer a share of NAME's requests in place of the version that serves.

    The same X-Request-Id gets the same version; a FRACTION of 0 ends it.

    Example: foveal models canary fashion-cnn 2 0.1
    """
    _set_share("canary", open_repository(models), name, version, fraction)


def _set_share(
    kind: str, repository: "ModelRepository", name: str, version: int, fraction: float
) -> None:
    from models.rollout import NO_ROLLOUT, Share

    repository.resolve(f"{name}:{version}")
    rollout = repository.settings().rollouts.get(name, NO_ROLLOUT)
    share = Share(version, fraction) if fraction else None
    repository.set_rollout(name, dataclasses.replace(rollout, **{kind: share}))
    print(f"{name}:{version} is {kind} of {fraction:.4g} of the requests, {_WHEN}")


def set_default(
    name: str,
    version: Annotated[int | None, typer.Argument(metavar="[V]")] = None,
    models: ModelsOption = SHIPPED,
) -> None:
    """Make a model the default, or with V: make V the version that answers for it.

    Example: foveal models default fashion-cnn 2
    """
    open_repository(models).set_default(name, version)
    answers = f"/predict is {name}'s" if version is None else f"{name}:{version} answers"
    print(f"{answers}, {_WHEN}")
