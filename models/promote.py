"""Begin, change and stop the promotion of a version in a repository.

Each call is one change of ``repository.json`` under its lock: the promotion, the candidate's shares
and the served version change together, or not at all.
"""

import time
from dataclasses import replace

from models.artifact import ArtifactError
from models.comparable import why_incomparable
from models.files import why_not_writable
from models.promotion import Promotion
from models.repository import ModelRepository, RepositorySettings


def begin(repository: ModelRepository, name: str, promotion: Promotion) -> None:
    """Begin a promotion: pin what serves, and give the candidate its first share.

    A candidate that had a share of the requests loses it.

    Raises:
        ArtifactError: No such version, the candidate serves already or can't be compared with what
            serves, another promotion of the model goes on, or the repository cannot be written.
        OSError: The disk is full.
    """
    check(repository, name, promotion.version)

    def change(settings: RepositorySettings) -> RepositorySettings:
        _check_none(settings, name)
        return _with(settings, name, promotion, promotion.against)

    repository.change(change)


def check(repository: ModelRepository, name: str, version: int) -> int:
    """Check that a version can be promoted; return the version that serves.

    Raises:
        ArtifactError: As ``begin``, or the repository cannot be written.
    """
    if why := why_not_writable(repository.root):
        raise ArtifactError(
            f"{repository.root}: expected a repository that can be written, as each step of a "
            f"promotion is, got: {why}; mount it writable, for the service, too"
        )
    repository.resolve(f"{name}:{version}")
    _check_none(repository.settings(), name)
    _, served = repository.resolve(name)
    if version == served:
        others = ", ".join(str(v) for v in repository.versions(name) if v != version) or "none"
        raise ArtifactError(
            f"{name}:{version}: expected a version that does not serve, got the one that does; pin "
            f"another first: foveal models default {name} V (there are {others})"
        )
    if why := why_incomparable(repository.load(name, version), repository.load(name, served)):
        raise ArtifactError(why)
    return served


def advance(repository: ModelRepository, name: str, before: Promotion, after: Promotion) -> bool:
    """Replace a promotion by what was decided about it.

    Returns:
        Whether it was: not if somebody changed it meanwhile, who may have decided or stopped it.

    Raises:
        ArtifactError: ``repository.json`` cannot be read.
        OSError: It cannot be written.
    """
    is_done = False

    def change(settings: RepositorySettings) -> RepositorySettings:
        nonlocal is_done
        is_done = settings.promotions.get(name) == before
        if not is_done:
            return settings
        return _with(settings, name, after, after.version if after.state == "promoted" else None)

    repository.change(change)
    return is_done


def stop(repository: ModelRepository, name: str) -> Promotion:
    """Stop a promotion: the candidate gets no request any more.

    Returns:
        The stopped promotion; ``resume`` goes on with it.

    Raises:
        ArtifactError: None goes on.
        OSError: The repository cannot be written.
    """
    running = repository.settings().promotions.get(name)
    if running is None or not running.is_running:
        raise ArtifactError(f'model "{name}": expected a promotion that goes on, got none')
    stopped = running.ended("stopped", time.time(), "by command")
    if not advance(repository, name, running, stopped):
        raise ArtifactError(f'model "{name}": its promotion changed meanwhile; stop it again')
    return stopped


def resume(repository: ModelRepository, name: str) -> Promotion:
    """Go on with a promotion that was stopped: at its step, with its counts and the time it had.

    Raises:
        ArtifactError: None was stopped, or another version serves by now.
        OSError: The repository cannot be written.
    """
    stopped = repository.settings().promotions.get(name)
    if stopped is None or stopped.state != "stopped":
        raise ArtifactError(f'model "{name}": expected a promotion that was stopped, got none')
    served = check(repository, name, stopped.version)
    if served != stopped.against:
        raise ArtifactError(
            f"{name}:{stopped.version}: expected version {stopped.against} to serve, got {served}; "
            "begin another promotion"
        )
    again = stopped.resumed(time.time())

    def change(settings: RepositorySettings) -> RepositorySettings:
        _check_none(settings, name)
        return _with(settings, name, again, again.against)

    repository.change(change)
    return again


def _check_none(settings: RepositorySettings, name: str) -> None:
    other = settings.promotions.get(name)
    if other is not None and other.is_running:
        raise ArtifactError(
            f"{name}:{other.version} is being promoted; stop it first: "
            f"foveal models promote {name} --stop"
        )


def _with(
    settings: RepositorySettings, name: str, promotion: Promotion, pinned: int | None
) -> RepositorySettings:
    pins = {} if pinned is None else {name: pinned}
    return replace(
        settings,
        default_versions={**settings.default_versions, **pins},
        rollouts={**settings.rollouts, name: promotion.rollout},
        promotions={**settings.promotions, name: promotion},
    )
