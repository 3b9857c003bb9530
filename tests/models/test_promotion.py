"""The promotion in ``repository.json``: written, read, changed by one at a time."""

import json
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from models.artifact import ArtifactError
from models.files import locked
from models.promote import advance, begin, check, resume, stop
from models.promotion import Limits, Promotion, new_promotion, read_promotion
from models.repository import ModelRepository
from models.rollout import NO_ROLLOUT, Rollout, Share
from tests.tiny import publish_tiny


def promotion_of(version: int = 2, against: int = 1, first_share: float = 0.1) -> Promotion:
    return new_promotion(
        version,
        against,
        Limits(max_flips=0.005, p99_ms=50),
        first_share=first_share,
        shadow=0.25,
        within_s=7200,
        step_s=None,
        now_s=time.time(),
    )


@pytest.fixture
def pair(repository: ModelRepository) -> ModelRepository:
    """Version 1 serves, and is not pinned by the repository's own settings but by its number."""
    for gain in (1.0, 2.0, 3.0):
        publish_tiny(repository.root, gain=gain)
    repository.set_default("tiny", 1)
    return repository


def test_shares_double_up_to_most_of_the_requests() -> None:
    assert promotion_of(first_share=0.1).shares == (0.1, 0.2, 0.4, 0.8)
    assert promotion_of(first_share=0.3).shares == (0.3, 0.6)
    assert promotion_of(first_share=0.8).shares == (0.8,)
    assert promotion_of(first_share=0.1).step_s == 900


def test_begun_changed_and_read_again(pair: ModelRepository) -> None:
    begun = promotion_of()
    begin(pair, "tiny", begun)
    assert pair.settings().promotions == {"tiny": begun}
    assert pair.settings().rollouts == {"tiny": Rollout(Share(2, 0.25), Share(2, 0.1))}
    grown = begun.grown(time.time(), {"agreed": 5.0}, "why")
    assert advance(pair, "tiny", begun, grown)
    assert pair.settings().promotions == {"tiny": grown}
    assert pair.settings().rollouts["tiny"].canary == Share(2, 0.2)
    assert not advance(pair, "tiny", begun, begun.ended("promoted", 0.0, "late")), "decided twice"
    promoted = grown.ended("promoted", time.time(), "why")
    assert advance(pair, "tiny", grown, promoted)
    assert pair.resolve("tiny") == ("tiny", 2)
    assert "tiny" not in pair.settings().rollouts
    assert read_promotion(json.loads(json.dumps(promoted.document))) == promoted


def test_what_serves_is_pinned_and_stays_if_the_candidate_falls_back(
    repository: ModelRepository,
) -> None:
    for gain in (1.0, 2.0):
        publish_tiny(repository.root, gain=gain)
    begun = promotion_of(version=1, against=2)
    begin(repository, "tiny", begun)
    publish_tiny(repository.root, gain=3.0)
    assert repository.resolve("tiny") == ("tiny", 2)
    assert advance(repository, "tiny", begun, begun.ended("fell back", time.time(), "why"))
    assert repository.resolve("tiny") == ("tiny", 2)
    assert "tiny" not in repository.settings().rollouts


def test_who_cannot_be_promoted(pair: ModelRepository) -> None:
    with pytest.raises(ArtifactError, match="no version 9; available: 1, 2, 3"):
        check(pair, "tiny", 9)
    with pytest.raises(ArtifactError, match=r"tiny:1: expected a version that does not serve.*V"):
        check(pair, "tiny", 1)
    publish_tiny(pair.root, labels=("a", "b", "c", "d"))
    with pytest.raises(ArtifactError, match='got "a" as label 0, not "top"'):
        check(pair, "tiny", 4)
    assert check(pair, "tiny", 3) == 1
    begin(pair, "tiny", promotion_of())
    for call in (
        lambda: check(pair, "tiny", 3),
        lambda: begin(pair, "tiny", promotion_of(3)),
        lambda: pair.set_rollout("tiny", NO_ROLLOUT),
    ):
        with pytest.raises(ArtifactError, match=r"tiny:2 is being promoted.*promote tiny --stop"):
            call()


def test_a_candidate_that_only_decodes_at_a_scale_can_be_promoted(pair: ModelRepository) -> None:
    image = replace(pair.load("tiny", 1).image, scaled_decoding=True)
    publish_tiny(pair.root, image=image)
    assert check(pair, "tiny", 4) == 1


def test_stopped_and_resumed(pair: ModelRepository) -> None:
    with pytest.raises(ArtifactError, match="expected a promotion that goes on, got none"):
        stop(pair, "tiny")
    begun = promotion_of()
    begin(pair, "tiny", begun)
    grown = begun.grown(time.time(), {"agreed": 5.0}, "why")
    assert advance(pair, "tiny", begun, grown)
    with pytest.raises(ArtifactError, match="expected a promotion that was stopped, got none"):
        resume(pair, "tiny")
    stopped = stop(pair, "tiny")
    assert pair.settings().promotions["tiny"] == stopped and not pair.settings().rollouts
    again = resume(pair, "tiny")
    assert (again.step, again.before, again.share) == (1, {"agreed": 5.0}, 0.2)
    assert again.began_s >= begun.began_s, "a pause is no part of the time"
    assert pair.settings().rollouts["tiny"] == again.rollout
    stop(pair, "tiny")
    pair.set_default("tiny", 3)
    with pytest.raises(ArtifactError, match="expected version 1 to serve, got 3"):
        resume(pair, "tiny")


@pytest.mark.parametrize("by", ["default", "rollback", "unpin"])
def test_another_served_version_stops_it(pair: ModelRepository, by: str) -> None:
    pair.set_default("tiny", 2)
    begin(pair, "tiny", promotion_of(3, 2))
    pair.set_default("tiny", 2)
    assert pair.settings().promotions["tiny"].is_running, "what served before is pinned again"
    if by == "default":
        pair.set_default("tiny", 3)
    elif by == "rollback":
        pair.rollback("tiny")
    else:
        pair.unpin("tiny")
    assert pair.settings().promotions["tiny"].state == "stopped"
    assert "tiny" not in pair.settings().rollouts


@pytest.mark.parametrize(
    "changes",
    [
        {"version": "2"},
        {"state": "paused"},
        {"step": 4},
        {"step": -1},
        {"shares": []},
        {"shares": [1.0]},
        {"shadow": 1.5},
        {"within_s": float("nan")},
        {"limits": {"max_flips": 0}},
        {"limits": {"min_accuracy": 1.0}},
        {"limits": {"max_drop": -0.1}},
        {"before": {"agreed": "5"}},
        {"other": 1},
    ],
    ids=str,
)
def test_what_cannot_be_read_is_refused(tmp_path: Path, changes: dict[str, Any]) -> None:
    document = {"promotions": {"tiny": promotion_of().document | changes}}
    (tmp_path / "repository.json").write_text(json.dumps(document))
    with pytest.raises(ArtifactError, match=r"repository\.json: expected"):
        ModelRepository(tmp_path).settings()


def test_changes_at_once_lose_nothing(repository: ModelRepository) -> None:
    names = [f"tiny-{i}" for i in range(12)]
    for name in names:
        publish_tiny(repository.root, name)
    threads = [threading.Thread(target=repository.set_default, args=(name, 1)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert repository.settings().default_versions == dict.fromkeys(names, 1)


def test_a_lock_that_is_held_for_ever_is_said(
    repository: ModelRepository, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish_tiny(repository.root)
    monkeypatch.setattr("models.files.LOCK_S", 0.05)
    with locked(repository.root / ".lock"), pytest.raises(OSError, match="held by another process"):
        repository.set_default("tiny")
    repository.set_default("tiny")
