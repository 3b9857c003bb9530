"""Delete old versions of a model: never one that is pinned, served, a canary or a shadow."""

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from models.repository import ModelRepository
from models.rollout import NO_ROLLOUT


def choose_pruned(
    repository: ModelRepository, name: str, keep: int, is_good: Callable[[int], bool]
) -> list[int]:
    """Return the versions to delete, ascending.

    Args:
        repository: Holds the model.
        name: Name of the model.
        keep: How many of the newest good versions stay, from 1.
        is_good: Whether a version can be served. Others count for nothing: where the newest is
            refused, an older one serves.

    Raises:
        ArtifactError: No such model, or its pinned version is gone.
    """
    _, served = repository.resolve(name)
    rollout = repository.settings().rollouts.get(name, NO_ROLLOUT)
    protected = {served, *rollout.versions}
    versions = repository.versions(name)
    left = keep
    for version in reversed(versions):
        left -= is_good(version)
        if not left:
            return [each for each in versions if each < version and each not in protected]
    return []


def delete_version(repository: ModelRepository, name: str, version: int) -> None:
    """Delete a version and what was measured about it; it is there whole, or not at all.

    Raises:
        OSError: It cannot be deleted.
    """
    path = repository.path(name, version)
    if path.is_symlink():
        path.unlink()
    else:
        # Not a number, so no version: a service that polls meanwhile sees no half of one.
        hidden = Path(tempfile.mkdtemp(prefix=".prune-", dir=path.parent))
        path.rename(hidden / path.name)
        shutil.rmtree(hidden)
    for beside in (repository.plan_path(name, version), repository.measured_path(name, version)):
        beside.unlink(missing_ok=True)
