"""What a start measures of a model, and what it does not measure twice."""

from pathlib import Path

import pytest

from models.machine import available_cpus
from models.repository import ModelRepository
from service.pipeline.limits import BatchLimits
from service.rollout.loading import LoadOptions, load
from service.session.progress import MODEL_S, Budget
from service.session.session import Session
from tests.tiny import publish_tiny, tiny_model

OPTIONS = LoadOptions(BatchLimits(max_batch_size=4))


@pytest.fixture
def repository(tmp_path: Path) -> ModelRepository:
    return ModelRepository(tmp_path)


def test_a_start_measures_a_model_for_a_moment(
    repository: ModelRepository, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beyond the budget: a run that had to wait for a core, and one that is made in any case."""
    runs_s: list[float] = []
    spend = Budget.spend

    def noted(budget: Budget, seconds: float) -> None:
        runs_s.append(seconds)
        spend(budget, seconds)

    monkeypatch.setattr(Budget, "spend", noted)
    publish_tiny(repository.root, model=tiny_model(is_slow=True))
    spent = Budget(1000)
    load(repository, "tiny", 1, LoadOptions(BatchLimits(max_batch_size=1 << 14), budget=spent))
    assert 0 < 1000 - spent.left_s < MODEL_S + 2 * max(runs_s)


@pytest.mark.skipif(available_cpus() < 2, reason="one core has no threads to choose from")
def test_what_the_choice_of_threads_measured_is_not_measured_again(
    repository: ModelRepository,
) -> None:
    publish_tiny(repository.root)
    classifier = load(repository, "tiny", 1, OPTIONS)
    assert isinstance(classifier.session, Session)
    assert classifier.session.measured == (4, classifier.full_batch_s)
