"""What a start would load, without serving it: each version as a worker loads it, and its routes.

Listens on no port and writes nothing to the repository.
"""

from dataclasses import dataclass, replace

from models.comparable import why_incomparable
from models.repository import ModelRepository
from models.rollout import NO_ROLLOUT
from service.rollout.catalog import Catalog, load_catalog
from service.rollout.options import load_options
from service.settings import Settings


@dataclass(frozen=True, slots=True)
class Loaded:
    """One version that a start would load, or refuse.

    Attributes:
        reference: ``name:version``.
        answers: Routes without a version number that it serves, or its share of the requests.
        plan: Device, precision and threads; empty if it is refused.
        error: Why it is refused, or gets no share; else empty.
    """

    reference: str
    answers: str
    plan: str
    error: str = ""


def load_all(settings: Settings) -> list[Loaded]:
    """Load what the settings name, as a worker does: checksums, golden images, plan.

    Raises:
        ArtifactError: The repository is missing, or the default model is not in it.
        SettingsError: A FOVEAL_* variable or a file that it names is wrong.
    """
    options = replace(load_options(settings, 0), keeps_measurements=False)
    repository = ModelRepository(settings.models)
    catalog = load_catalog(repository, settings.default_model, settings.loaded_versions, options)
    found = [
        Loaded(
            each.artifact.reference, *_answers(catalog, each.artifact.name, each.artifact.version)
        )
        for each in catalog
    ]
    refused = [Loaded(reference, "", "", why) for reference, why in catalog.refused.items()]
    for classifier in catalog:
        classifier.close()
    return sorted((*found, *refused), key=lambda row: _order(row.reference))


def _order(reference: str) -> tuple[str, int]:
    name, _, version = reference.partition(":")
    return name, int(version)


def _answers(catalog: Catalog, name: str, version: int) -> tuple[str, str, str]:
    """Return the routes or shares of a loaded version, its plan, and why it lacks its share."""
    classifier, answers, error = catalog.find(name, str(version)), [], ""
    default = catalog.defaults[name]
    if classifier is default:
        answers.append(f"/models/{name}/predict")
        if name == catalog.default_model:
            answers.append("/predict")
    rollout = catalog.rollouts.get(name, NO_ROLLOUT)
    for kind, share, candidate in (
        ("shadow", rollout.shadow, catalog.shadows.get(default)),
        ("canary", rollout.canary, catalog.canaries.get(name)),
    ):
        if share is None or share.version != version:
            continue
        if candidate is not None:
            answers.append(f"{share.fraction:.4g} as {kind}")
        else:
            why = why_incomparable(classifier.artifact, default.artifact)
            error = f"no {kind}: {why or 'it answers itself'}"
    plan = classifier.session.plan
    text = f"{plan.device}, {plan.precision}, {plan.threads} threads"
    return " and ".join(answers), text, error


def tabulate(rows: list[Loaded]) -> list[tuple[str, ...]]:
    """Return the heading and the rows of a table."""
    lines: list[tuple[str, ...]] = [("version", "answers", "plan")]
    return lines + [(row.reference, row.answers, row.error or row.plan) for row in rows]
