"""What a promotion decides by simulated traffic, and by counts; nothing runs but the decision."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from models.promotion import Limits, Promotion, new_promotion
from service.rollout.promotion import decide

WITHIN_S = 7200.0
LOOK_S = 30.0
RUNS = 100
# Each run is wrong with a probability of 0.05 at most; more than 11 of 100 come in 1 of 250 then.
MOST_WRONG = 11
# Rows of one look that the shadow compares, and those that feedback judges.
COMPARED, JUDGED = 60, 120
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
        answers = int(400 * promotion.share)
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
