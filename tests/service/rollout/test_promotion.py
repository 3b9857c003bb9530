"""What a promotion decides by simulated traffic, and by counts; nothing runs but the decision."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from models.promotion import Limits, Promotion, new_promotion
from service.rollout.promotion import STEP_REQUESTS, decide, judge
from service.rollout.sequential import drop_evidence, share_evidence

WITHIN_S = 7200.0
LOOK_S = 60.0
RUNS = 100
# Each run is wrong with a probability of 0.05 at most; more than 11 of 100 come in 1 of 250 then.
MOST_WRONG = 11
# Rows of one look that the shadow compares, and those that feedback judges.
COMPARED, JUDGED = 120, 240
SERVED_ACCURACY = 0.94
EVERY = Limits(max_flips=0.05, min_accuracy=0.93, max_drop=0.01, p99_ms=50)


def promotion_of(limits: Limits, **changes: object) -> Promotion:
    begun = new_promotion(
        2,
        1,
        limits,
        first_share=0.1,
        shadow=0.5,
        within_s=WITHIN_S,
        step_s=None,
        now_s=0.0,
    )
    return replace(begun, **changes)  # type: ignore[arg-type]


def run(limits: Limits, seed: int, accuracy: float, flips: float, slow: float = 0.003) -> Promotion:
    """Simulate one promotion until it ends.

    Of rows whose labels differ some are right in one version only, all others in both or neither.
    """
    rng = np.random.default_rng(seed)
    promotion = promotion_of(limits)
    counts = dict.fromkeys(
        ("agreed", "differed", "answers", "timed", "slow", "right", "wrong"), 0.0
    ) | dict.fromkeys(("better", "worse", "same"), 0.0)
    drop = SERVED_ACCURACY - accuracy
    now_s = 0.0
    while promotion.is_running:
        now_s += LOOK_S
        answers = int(800 * promotion.share)
        differed = rng.binomial(COMPARED, flips)
        counts["differed"] += differed
        counts["agreed"] += COMPARED - differed
        counts["answers"] += answers
        counts["timed"] += answers
        counts["slow"] += rng.binomial(answers, slow)
        right = rng.binomial(JUDGED, accuracy)
        counts["right"] += right
        counts["wrong"] += JUDGED - right
        shares = (0.01 + drop, 0.01, 0.98 - drop)
        for key, rows in zip(
            ("worse", "better", "same"), rng.multinomial(JUDGED, shares), strict=True
        ):
            counts[key] += rows
        promotion = decide(promotion, counts, now_s) or promotion
    return promotion


def wrong_runs(expected: str, simulate: Callable[[int], Promotion]) -> int:
    return sum(simulate(seed).state != expected for seed in range(RUNS))


def test_an_equal_candidate_is_promoted() -> None:
    """By all limits at once; a flip is not a mistake, and half of the limit passes."""
    wrong = wrong_runs("promoted", lambda seed: run(EVERY, seed, SERVED_ACCURACY, 0.025))
    assert wrong <= MOST_WRONG


@pytest.mark.parametrize(
    "limits", [EVERY, Limits(min_accuracy=0.93), Limits(max_drop=0.01)], ids=str
)
def test_a_candidate_that_is_a_point_worse_falls_back(limits: Limits) -> None:
    wrong = wrong_runs("fell back", lambda seed: run(limits, seed, SERVED_ACCURACY - 0.01, 0.025))
    assert wrong <= MOST_WRONG


@pytest.mark.parametrize(
    ("limits", "flips", "slow"),
    [(Limits(max_flips=0.02), 0.02, 0.003), (Limits(p99_ms=50), 0.0, 0.01)],
    ids=("flips", "p99"),
)
def test_what_is_at_its_limit_falls_back_and_half_of_it_passes(
    limits: Limits, flips: float, slow: float
) -> None:
    def at(part: float) -> Callable[[int], Promotion]:
        return lambda seed: run(limits, seed, SERVED_ACCURACY, flips * part, slow * part)

    assert wrong_runs("fell back", at(1.0)) <= MOST_WRONG
    assert wrong_runs("promoted", at(0.5)) <= MOST_WRONG


# What is decided by given counts


GOOD = {"agreed": 10_000.0, "answers": 10_000.0, "timed": 10_000.0, "slow": 10.0}
LIMITS = Limits(max_flips=0.005, p99_ms=50)
STEP_S = WITHIN_S / 2 / 4


def ended(promotion: Promotion | None) -> tuple[str, str]:
    assert promotion is not None
    return promotion.state, promotion.events[-1].text


def test_it_grows_by_time_and_requests() -> None:
    promotion = promotion_of(LIMITS)
    passed = decide(promotion, GOOD, STEP_S - 1)
    assert passed is not None and passed.step == 0
    assert passed.passed == ("flips", "p99")
    assert decide(passed, GOOD, STEP_S - 1) is None, "a step has its time"
    few = GOOD | {"answers": STEP_REQUESTS - 1.0}
    assert decide(passed, few, STEP_S) is None, "a canary that answers nobody shows nothing"
    grown = decide(passed, GOOD, STEP_S)
    assert grown is not None and (grown.step, grown.share) == (1, 0.2)
    assert grown.before["answers"] == GOOD["answers"] and grown.step_began_s == STEP_S
    assert "grows to 0.2 of the requests: 0 flips in 10000 rows, limit 0.005" in ended(grown)[1]
    assert decide(grown, GOOD, 2 * STEP_S) is None, "no request since the step began"


def test_it_grows_while_nothing_is_known_but_serves_only_by_evidence() -> None:
    promotion = promotion_of(LIMITS)
    counts = {"answers": 0.0}
    for step in range(3):
        counts = {"answers": counts["answers"] + STEP_REQUESTS}
        grown = decide(promotion, counts, (step + 1) * STEP_S)
        assert grown is not None and grown.step == step + 1
        promotion = grown
    counts = {"answers": counts["answers"] + STEP_REQUESTS}
    assert decide(promotion, counts, 5 * STEP_S) is None
    assert ended(decide(promotion, counts, WITHIN_S)) == (
        "fell back",
        "falls back: undecided after 7200 s: 0 flips in 0 rows, limit 0.005; "
        "0 of 0 answers slower than 50 ms, limit 0.01",
    )
    last = replace(promotion, passed=("flips", "p99"))
    assert ended(decide(last, counts, 5 * STEP_S))[0] == "promoted"


def test_without_feedback_it_says_so() -> None:
    promotion = promotion_of(Limits(min_accuracy=0.9))
    state, text = ended(decide(promotion, GOOD, WITHIN_S))
    assert state == "fell back" and text.endswith("no feedback came, see docs/promote.md")


@pytest.mark.parametrize(
    ("counts", "text"),
    [
        ({"differed": 200.0}, "200 flips in 10200 rows, limit 0.005"),
        ({"slow": 300.0}, "300 of 10000 answers slower than 50 ms, limit 0.01"),
        ({"errors": 300.0}, "300 of 10000 answers failed, limit 0.01"),
    ],
)
def test_one_breach_is_enough(counts: dict[str, float], text: str) -> None:
    assert ended(decide(promotion_of(LIMITS), GOOD | counts, 1.0)) == (
        "fell back",
        f"falls back: {text}",
    )


def test_a_breach_of_this_step_is_not_hidden_by_the_steps_before() -> None:
    """A million answers in time, then 60 of 300 are late: 0.006 % of all."""
    before = {"timed": 1e6, "answers": 1e6}
    promotion = promotion_of(LIMITS, step=2, before=before)
    counts = {"timed": 1e6 + 300, "answers": 1e6 + 300, "slow": 60.0}
    state, text = ended(decide(promotion, counts, 1.0))
    assert state == "fell back"
    assert text == "falls back: in this step 60 of 300 answers slower than 50 ms, limit 0.01"


def test_what_cannot_be_served_falls_back_whatever_was_counted() -> None:
    said = ended(decide(promotion_of(LIMITS), GOOD, 1.0, "it is gone"))
    assert said == ("fell back", "falls back: it is gone")


def test_levels_say_how_near_a_verdict_is() -> None:
    def level(**counts: float) -> float:
        [flips] = [f for f in judge(promotion_of(LIMITS), counts) if f.limit == "flips"]
        return flips.level

    assert level() == 0
    assert -1 < level(agreed=500) < 0
    assert level(agreed=5000) == -1
    assert 0 < level(agreed=100, differed=3) < 1
    assert level(agreed=100, differed=30) == 1


def test_evidence_is_that_of_the_literature() -> None:
    """Wald's ratio by hand; bets that are fair lose, and none goes to minus infinity."""
    assert share_evidence(1, 1, 0.1, 0.2).refuses == pytest.approx(np.log(2))
    assert share_evidence(0, 1, 0.1, 0.2).passes == pytest.approx(np.log(0.9 / 0.8))
    assert drop_evidence(0, 0, 0, 0.01) == pytest.approx((0, 0))
    worse = drop_evidence(50, 10, 940, 0.01)
    assert worse.refuses > 5 and worse.passes < 0
    assert drop_evidence(30, 30, 20_000, 0.01).passes > 5
    assert all(np.isfinite(drop_evidence(1e6, 0, 0, 0.5)))
