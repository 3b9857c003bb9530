"""The classifiers that are served, and how they are loaded from a repository.

``Catalog`` finds the classifier for a name and a version; ``load_versions`` chooses the versions of
a model to load, and keeps those that are loaded already.
"""

import logging
from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

from models.artifact import ArtifactError
from models.comparable import why_incomparable
from models.repository import Fingerprint, ModelRepository, RepositorySettings
from models.rollout import NO_ROLLOUT, Rollout, Share
from service.errors import ModelNotFoundError, NotReadyError, ServiceError
from service.pipeline.classifier import Classifier
from service.rollout.exchange import why_not_part
from service.rollout.loading import LoadOptions, load
from service.session.progress import ALL_MODELS_S, Budget
from service.settings import served_names

logger = logging.getLogger("foveal.catalog")


class Catalog:
    """The classifiers that are served, by name and version; immutable.

    Args:
        classifiers: All classifiers.
        default_versions: Version of each model for requests that name none.
        default_model: Model for requests that name none; "": none.
        refused: Reason why a version is not served, by ``name:version``.
        rollouts: Candidates that get a share of the requests, by the name of the model.

    Attributes:
        shadows: Candidate that is compared with a default classifier.
        canaries: Candidate that answers some requests in the default's place, by model.
    """

    def __init__(
        self,
        classifiers: list[Classifier],
        default_versions: dict[str, int],
        default_model: str,
        refused: dict[str, str],
        rollouts: dict[str, Rollout] | None = None,
    ) -> None:
        self.default_model = default_model
        self.rollouts = rollouts or {}
        self.refused = refused
        self._by_version = {(c.artifact.name, c.artifact.version): c for c in classifiers}
        self._defaults = {
            name: self._by_version[name, version] for name, version in default_versions.items()
        }
        self.shadows: dict[Classifier, Candidate] = {}
        self.canaries: dict[str, Candidate] = {}
        for name, default in self._defaults.items():
            shares = self.rollouts.get(name, NO_ROLLOUT)
            if shadow := self._candidate(default, shares.shadow):
                self.shadows[default] = shadow
            if canary := self._candidate(default, shares.canary):
                self.canaries[name] = canary

    def _candidate(self, default: Classifier, share: Share | None) -> "Candidate | None":
        """Return the candidate for a share of a default's requests, None if it cannot serve."""
        if share is None:
            return None
        found = self._by_version.get((default.artifact.name, share.version))
        if found is None or found is default:
            return None
        if why := why_incomparable(found.artifact, default.artifact):
            logger.warning("%s gets no share of the requests: %s", found.artifact.reference, why)
            return None
        return Candidate(found, share.fraction)

    @property
    def defaults(self) -> dict[str, Classifier]:
        """Return the classifier of each model for requests that name no version."""
        return self._defaults

    def __iter__(self) -> Iterator[Classifier]:
        """Iterate over all classifiers."""
        return iter(self._by_version.values())

    def matching(self, name: str, version: str) -> list[Classifier]:
        """Return the classifiers of a name and a version, "" for all; raises as ``find`` does."""
        if not name:
            return list(self)
        found = self.find(name, version)
        return [found] if version else [c for c in self if c.artifact.name == found.artifact.name]

    def find(self, name: str = "", version: str = "") -> Classifier:
        """Find the classifier for the name and the version of a request.

        Args:
            name: Name of the model (default: the default model).
            version: Version (default: the model's default version).

        Raises:
            ModelNotFoundError: It is not served; the message lists what is.
            NotReadyError: The model exists, but no version of it could be loaded.
        """
        name = name or self.default_model
        if not version:
            found = self._defaults.get(name)
        else:
            is_number = version.isascii() and version.isdecimal() and len(version) < 10
            number = int(version) if is_number else 0
            found = self._by_version.get((name, number))
        if found is not None:
            return found
        served = sorted(f"{n}:{v}" for n, v in self._by_version)
        refused = next(
            (why for ref, why in self.refused.items() if ref.split(":")[0] == name), None
        )
        if refused is not None and name not in self._defaults:
            raise NotReadyError(f'model "{name}": no version could be loaded; see the log')
        wanted = f"{name}:{version}" if version else name
        raise ModelNotFoundError(
            f'model "{wanted}": expected one of {", ".join(served) or "none"}'
            if wanted
            else f"no default model; name one of {', '.join(served) or 'none'}"
        )


def load_catalog(
    repository: ModelRepository, default_model: str, loaded_versions: int, options: LoadOptions
) -> Catalog:
    """Load the newest versions of every model in a repository; a failure refuses that version.

    Args:
        repository: Repository.
        default_model: Overrides the repository's default model unless empty.
        loaded_versions: Number of the newest versions of each model to load.
        options: Options of every version.

    Raises:
        ArtifactError: The repository is missing, or ``default_model`` is not in it.
    """
    classifiers: list[Classifier] = []
    defaults: dict[str, int] = {}
    refused: dict[str, str] = {}
    rollouts: dict[str, Rollout] = {}
    options = replace(options, budget=options.budget or Budget(ALL_MODELS_S))
    names = served_names(repository, default_model)
    for name in names:
        try:
            loaded = load_versions(repository, name, loaded_versions, options)
        except (ArtifactError, OSError) as error:  # repository.json, or a folder that is gone
            logger.error("%s refused: %s", name, error)
            refused[f"{name}:0"] = str(error).replace(f"{repository.root}/", "")
            continue
        classifiers += loaded.good.values()
        refused |= {f"{name}:{v}": refusal.reason for v, refusal in loaded.refused.items()}
        rollouts[name] = loaded.rollout
        if loaded.default is not None:
            defaults[name] = loaded.default
    try:
        default = default_model or repository.default_model()
    except ArtifactError as error:
        logger.warning("/predict has no model: %s", error)
        default = ""
    return Catalog(classifiers, defaults, default, refused, rollouts)


class Candidate(NamedTuple):
    """A version that gets a share of another's requests, above 0 to 1."""

    classifier: Classifier
    fraction: float


class Refusal(NamedTuple):
    """Why a version is not served, and the fingerprint of its files."""

    reason: str
    fingerprint: Fingerprint


class LoadedVersions(NamedTuple):
    """The versions of one model.

    Attributes:
        good: Versions that serve.
        default: Version for requests that name none; None if no version serves.
        refused: Versions that could not be loaded.
        preferred: Version that should be the default: the pinned one, else the newest.
        rollout: Candidates that should get a share of the requests.
    """

    good: dict[int, Classifier]
    default: int | None
    refused: dict[int, Refusal]
    preferred: int
    rollout: Rollout


NOTHING = LoadedVersions({}, None, {}, 0, NO_ROLLOUT)


def load_versions(
    repository: ModelRepository,
    name: str,
    loaded_versions: int,
    options: LoadOptions,
    known: LoadedVersions = NOTHING,
) -> LoadedVersions:
    """Load a model's newest good versions, its pinned version and its candidates.

    A version that cannot be loaded is refused; that is not fatal.

    Args:
        repository: Repository with at least one version of the model.
        name: Name of the model.
        loaded_versions: Number of the newest servable versions to load.
        options: Options of every version.
        known: Result of the last call: versions whose files have not changed stay as they are,
            loaded or refused; a loaded version that cannot be loaded again stays loaded.
    """
    versions = repository.versions(name)
    # A pinned version that was removed is refused like any other that cannot be loaded.
    settings = repository.settings()
    preferred = settings.default_versions.get(name, versions[-1])
    rollout = _rollout(repository, settings, name, is_polling=options.is_polling)
    good: dict[int, Classifier] = {}
    refused: dict[int, Refusal] = {}

    def take(version: int) -> bool:
        outcome = _load_if_changed(repository, name, version, options, known)
        if isinstance(outcome, Refusal):
            refused[version] = outcome
            if version not in known.good:
                return False
            outcome = known.good[version]
        good[version] = outcome
        return True

    left = loaded_versions
    for version in reversed(versions):
        if not left:
            break
        left -= take(version)
    for version in (preferred, *rollout.versions):
        if version not in good and version not in refused:
            take(version)
    if preferred in good:
        default: int | None = preferred
    else:
        default = known.default if known.default in good else max(good, default=None)
    return LoadedVersions(dict(sorted(good.items())), default, refused, preferred, rollout)


def _rollout(
    repository: ModelRepository, settings: RepositorySettings, name: str, *, is_polling: bool
) -> Rollout:
    """Return the candidates that get a share; none in a promotion that this service cannot decide.

    Nobody would take it from its share, however bad it is; ``promoter`` logs it.
    """
    promotion = settings.promotions.get(name)
    is_running = promotion is not None and promotion.is_running
    if is_running and (not is_polling or why_not_part(repository.root)):
        return NO_ROLLOUT
    return settings.rollouts.get(name, NO_ROLLOUT)


def _load_if_changed(
    repository: ModelRepository,
    name: str,
    version: int,
    options: LoadOptions,
    known: LoadedVersions,
) -> Classifier | Refusal:
    fingerprint = repository.fingerprint(name, version)
    loaded, refusal = known.good.get(version), known.refused.get(version)
    if loaded is not None and loaded.fingerprint == fingerprint:
        return loaded
    if refusal is not None and refusal.fingerprint == fingerprint:
        return refusal
    try:
        return load(repository, name, version, options)
    except (ArtifactError, ServiceError) as error:
        reason = str(error).replace(f"{repository.root}/", "")  # clients read it, too
    except (
        Exception
    ) as error:  # a library may raise anything on a bad file; the other versions serve
        logger.exception("%s:%d: loading failed", name, version)
        reason = f"{type(error).__name__}: {error}"
    if refusal is None or refusal.reason != reason:
        goes_on = "; the loaded one stays" if loaded is not None else ""
        logger.error("%s:%d refused: %s%s", name, version, reason, goes_on)
    return Refusal(reason, fingerprint)
