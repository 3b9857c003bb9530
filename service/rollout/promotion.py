"""What the evidence says about a candidate, and the next step of its promotion. Pure functions.

The promise, for all limits together and however often one looks: a candidate that is good in each
(``_GOOD``) is refused with a probability of ``ALPHA`` at most, one that is at a limit or beyond is
promoted with a probability of ``BETA`` at most; between the two, either may come. A limit is tested
on all rows since the beginning, and on those of the current step alone, which shows at once what
only a larger share brings about. ``ALPHA`` is shared out among all these tests.
"""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Literal, NamedTuple

from models.promotion import Limits, Promotion
from service.rollout.sequential import Evidence, drop_evidence, share_evidence

ALPHA = BETA = 0.05
# Requests that a canary must have answered in a step before the next one: a share of nothing says
# nothing.
STEP_REQUESTS = 100
# A good candidate's share, of the limit: flips, answers slower than --p99-ms.
_GOOD = 0.5
# A good candidate's accuracy, above the limit.
_GOOD_POINTS = 0.01
_SLOW = 0.01  # by the definition of the 99th percentile
# Answers with status 500 that are refused, always, and those of a good candidate.
_ERRORS, _GOOD_ERRORS = 0.01, 0.001

# What is counted; each begins at 0.
COUNTS = (
    "agreed",
    "differed",
    "answers",
    "errors",
    "timed",
    "slow",
    "right",
    "wrong",
    "better",
    "worse",
    "same",
)
Counts = Mapping[str, float]
Verdict = Literal["refused", "passed", "undecided"]


class Finding(NamedTuple):
    """What is known about one limit.

    Attributes:
        limit: Its name: flips, accuracy, drop, p99 or errors.
        verdict: What follows.
        text: The counts and the limit, for people.
        level: How near a verdict is: 1 refuses, -1 passes, 0 is no evidence.
    """

    limit: str
    verdict: Verdict
    text: str
    level: float


def judge(promotion: Promotion, counts: Counts) -> list[Finding]:
    """Return what is known about each limit of a promotion.

    Args:
        promotion: The promotion.
        counts: All that was counted since it began, by the names of ``COUNTS``; those that are
            missing are 0.
    """
    total = {key: counts.get(key, 0.0) for key in COUNTS}
    # A worker that ends while it is read may be missed for a moment.
    recent = {key: max(0.0, total[key] - promotion.before.get(key, 0.0)) for key in COUNTS}
    whole, step = _evidence(promotion.limits, total), _evidence(promotion.limits, recent)
    alpha = ALPHA / len(whole) / 2
    least, least_in_step = -math.log(alpha), -math.log(alpha / len(promotion.shares))
    enough = -math.log(BETA)
    findings = []
    for name, (evidence, text) in whole.items():
        evidence_in_step, text_in_step = step[name]
        level = max(evidence.refuses / least, evidence_in_step.refuses / least_in_step)
        if level >= 1:
            of_step = "" if evidence.refuses >= least else "in this step "
            said = of_step + (text_in_step if of_step else text)
            findings.append(Finding(name, "refused", said, 1.0))
            continue
        has_passed = name in promotion.passed or evidence.passes >= enough
        level = -1.0 if has_passed else max(0.0, level) - max(0.0, evidence.passes / enough)
        findings.append(Finding(name, "passed" if has_passed else "undecided", text, level))
    return findings


def decide(
    promotion: Promotion, counts: Counts, now_s: float, why_not: str = ""
) -> Promotion | None:
    """Return a running promotion after its next step; None: nothing changes yet.

    Args:
        promotion: The promotion.
        counts: As ``judge``.
        now_s: Seconds since 1970.
        why_not: Why the candidate cannot be promoted whatever was counted; empty if it can.
    """
    if why_not:
        return promotion.ended("fell back", now_s, why_not)
    findings = judge(promotion, counts)
    refused = [finding.text for finding in findings if finding.verdict == "refused"]
    if refused:
        return promotion.ended("fell back", now_s, "; ".join(refused))
    waited_for = [f for f in findings if f.limit != "errors"]  # these can only refuse
    open_limits = [finding for finding in waited_for if finding.verdict == "undecided"]
    said = "; ".join(finding.text for finding in findings)
    answers = counts.get("answers", 0.0) - promotion.before.get("answers", 0.0)
    is_over = now_s - promotion.step_began_s >= promotion.step_s and answers >= STEP_REQUESTS
    if is_over and promotion.is_last_step and not open_limits:
        return promotion.ended("promoted", now_s, said)
    if now_s - promotion.began_s >= promotion.within_s:
        return promotion.ended("fell back", now_s, _undecided(promotion, open_limits, counts))
    passed = tuple(finding.limit for finding in waited_for if finding.verdict == "passed")
    changed = replace(promotion, passed=passed)
    if is_over and not promotion.is_last_step:
        return changed.grown(now_s, {key: counts.get(key, 0.0) for key in COUNTS}, said)
    return changed if passed != promotion.passed else None


def _undecided(promotion: Promotion, findings: list[Finding], counts: Counts) -> str:
    known = "; ".join(finding.text for finding in findings) or "too few requests for all steps"
    text = f"undecided after {promotion.within_s:.0f} s: {known}"
    judged = sum(counts.get(key, 0.0) for key in ("right", "wrong", "better", "worse", "same"))
    if promotion.limits.needs_feedback and not judged:
        text += "; no feedback came, see docs/promote.md"
    return text


def _evidence(limits: Limits, counts: Counts) -> dict[str, tuple[Evidence, str]]:
    """Return the evidence for each limit, and the counts behind it as text."""
    found = {}
    if limits.max_flips is not None:
        rows = counts["agreed"] + counts["differed"]
        evidence = share_evidence(
            counts["differed"], rows, limits.max_flips * _GOOD, limits.max_flips
        )
        text = f"{counts['differed']:.0f} flips in {rows:.0f} rows, limit {limits.max_flips:.4g}"
        found["flips"] = evidence, text
    if limits.min_accuracy is not None:
        rows, wrong = counts["right"] + counts["wrong"], 1 - limits.min_accuracy
        evidence = share_evidence(
            counts["wrong"], rows, max(wrong - _GOOD_POINTS, wrong * _GOOD), wrong
        )
        text = f"{counts['right']:.0f} of {rows:.0f} rows right, limit {limits.min_accuracy:.4g}"
        found["accuracy"] = evidence, text
    if limits.max_drop is not None:
        pairs = counts["worse"], counts["better"], counts["same"]
        text = "{:.0f} rows worse, {:.0f} better, {:.0f} same".format(*pairs)
        evidence = drop_evidence(*pairs, limits.max_drop)
        found["drop"] = evidence, f"{text}, limit {limits.max_drop:.4g}"
    if limits.p99_ms is not None:
        evidence = share_evidence(counts["slow"], counts["timed"], _SLOW * _GOOD, _SLOW)
        slow, timed = counts["slow"], counts["timed"]
        text = f"{slow:.0f} of {timed:.0f} answers slower than {limits.p99_ms:.4g} ms"
        found["p99"] = evidence, f"{text}, limit {_SLOW:.4g}"
    evidence = share_evidence(counts["errors"], counts["answers"], _GOOD_ERRORS, _ERRORS)
    text = f"{counts['errors']:.0f} of {counts['answers']:.0f} answers failed, limit {_ERRORS:.4g}"
    found["errors"] = evidence, text
    return found
