"""Which versions exist, and which of them are served: plain values for protocols to report."""

from typing import NamedTuple

from models.artifact import ArtifactError
from models.repository import ModelRepository
from service.rollout.catalog import Catalog


class VersionState(NamedTuple):
    """One version in the repository or in service.

    Attributes:
        name: The model.
        version: Its number.
        is_served: Whether requests are answered by it.
        reason: Why it is not served, or, if its files were damaged since, why it could not be
            loaded again; else empty.
    """

    name: str
    version: int
    is_served: bool
    reason: str


def version_states(
    repository: ModelRepository, catalog: Catalog, unloaded: frozenset[str]
) -> list[VersionState]:
    """Return the state of every version, sorted by name and number; reads the disk.

    Args:
        repository: Where the models are.
        catalog: What is served.
        unloaded: Names of models that were taken out of service.
    """
    served = {(c.artifact.name, c.artifact.version) for c in catalog}
    try:
        found = {(name, v) for name in repository.names() for v in repository.versions(name)}
    except ArtifactError:  # the folder is missing; what is loaded is served nevertheless
        found = set()
    states: list[VersionState] = []
    for name, number in sorted(served | found):
        is_served = (name, number) in served
        reason = catalog.refused.get(f"{name}:{number}", "")
        if not is_served:
            reason = reason or ("unloaded" if name in unloaded else "not loaded")
        states.append(VersionState(name, number, is_served, reason))
    return states
