"""Shares of the requests, as repository.json has them."""

import json
from pathlib import Path

import pytest

from models.artifact import ArtifactError
from models.repository import ModelRepository
from models.rollout import NO_ROLLOUT, Rollout, Share, read_rollout
from tests.tiny import publish_tiny


def test_written_and_read_again(repository: ModelRepository) -> None:
    for _ in range(3):
        publish_tiny(repository.root)
    repository.set_default("tiny", 1)
    rollout = Rollout(shadow=Share(2, 0.5), canary=Share(3, 1.0))
    repository.set_rollout("tiny", rollout)
    assert repository.settings().rollouts == {"tiny": rollout}
    assert read_rollout(rollout.document) == rollout
    repository.set_default("tiny", 2)
    assert repository.settings().rollouts == {"tiny": rollout}, "lost by another setting"
    repository.set_rollout("tiny", NO_ROLLOUT)
    document = json.loads((repository.root / "repository.json").read_text())
    assert document == {"default_model": None, "default_versions": {"tiny": 2}}


def test_a_candidate_must_exist(repository: ModelRepository) -> None:
    publish_tiny(repository.root)
    with pytest.raises(ArtifactError, match="no version 2; available: 1"):
        repository.set_rollout("tiny", Rollout(canary=Share(2, 0.1)))
    with pytest.raises(ArtifactError, match='model "none"'):
        repository.set_rollout("none", NO_ROLLOUT)


@pytest.mark.parametrize(
    "traffic",
    [
        [],
        {"x": 1},
        {"canary": 2},
        {"canary": {"version": 1}},
        {"canary": {"version": True, "fraction": 1}},
        {"shadow": {"version": 1, "fraction": "1"}},
        {"shadow": {"version": 1, "fraction": -0.1}},
        {"shadow": {"version": 1, "fraction": float("nan")}},
    ],
)
def test_what_cannot_be_read_is_refused(tmp_path: Path, traffic: object) -> None:
    document = {"traffic": {"tiny": traffic}}
    (tmp_path / "repository.json").write_text(json.dumps(document))
    with pytest.raises(ArtifactError, match=r"repository\.json: expected"):
        ModelRepository(tmp_path).settings()


def test_a_fraction_of_nothing_is_no_share() -> None:
    assert read_rollout({"canary": {"version": 1, "fraction": 0}}) == NO_ROLLOUT
