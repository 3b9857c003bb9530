"""What a replay found, counted: equal or not, labels that flipped, calibration, accuracy, latency.

Layout legend: K classes.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from models.artifact import ModelArtifact
from models.labels import distinct_names
from scoring.replay import Answer, Pair
from scoring.truths import Truths

# Flipped rows that are kept to be shown, and of one pair of classes.
MOST_SHOWN, _SHOWN_OF_PAIR = 200, 12
# Bins of the calibration error: Guo et al., On Calibration of Modern Neural Networks, 2017, use 15.
_BINS = 15
_Z = 1.959963984540054  # 97.5 % quantile of the normal distribution: intervals of 95 %
NONE = "none"


@dataclass(slots=True)
class Side:
    """What one of the two answers adds up to.

    Attributes:
        right: Rows with the true label, of those whose truth is known.
        known: Those.
        confidence: Sum of the largest probabilities.
        seconds: Of each row.
        bins: Rows, sum of confidences and right ones in each bin of confidence; of rows with a
            known truth.
    """

    right: int = 0
    known: int = 0
    rows: int = 0
    confidence: float = 0.0
    seconds: list[float] = field(default_factory=list)
    bins: list[tuple[int, float, int]] = field(default_factory=lambda: [(0, 0.0, 0)] * _BINS)

    def add(self, answer: Answer, is_right: bool | None) -> None:
        """Add one answer; ``is_right`` is None where the truth is not known."""
        confidence = float(answer.probabilities_K.max())
        self.rows += 1
        self.confidence += confidence
        self.seconds.append(answer.seconds)
        if is_right is None:
            return
        self.known += 1
        self.right += is_right
        number = min(int(confidence * _BINS), _BINS - 1)
        rows, total, right = self.bins[number]
        self.bins[number] = rows + 1, total + confidence, right + is_right

    @property
    def accuracy(self) -> float | None:
        """Return the share of right labels, None where no truth is known."""
        return self.right / self.known if self.known else None

    @property
    def interval(self) -> tuple[float, float] | None:
        """Return the accuracy's 95 % interval, as Wilson computes it (1927)."""
        if not self.known:
            return None
        rows, share = self.known, self.right / self.known
        scale = 1 + _Z**2 / rows
        middle = (share + _Z**2 / (2 * rows)) / scale
        half = _Z * math.sqrt(share * (1 - share) / rows + _Z**2 / (4 * rows**2)) / scale
        return max(0.0, middle - half), min(1.0, middle + half)

    @property
    def calibration_error(self) -> float | None:
        """Return the expected calibration error, of bins of equal width; None without truths."""
        if not self.known:
            return None
        return sum(abs(total - right) for _, total, right in self.bins) / self.known

    def percentile_ms(self, share: float) -> float:
        """Return a percentile of its times, milliseconds."""
        return float(np.percentile(self.seconds, share * 100)) * 1e3 if self.seconds else math.nan


@dataclass(slots=True)
class Flip:
    """A row whose label changed: the pair, and names of labels: before, after, true (if known)."""

    pair: Pair
    before: str
    after: str
    truth: str


class Comparison:
    """What all pairs of a replay add up to.

    Args:
        artifact: The candidate.

    Attributes:
        rows: Compared rows.
        equal: Rows whose probabilities are equal, bit by bit.
        again: Of those, the ones that were so only in a batch of their own.
        largest: Largest difference of a probability.
        flips: (label before, label after) to rows.
        shown: Some of the flipped rows, the first ones of each pair of labels.
        errors: Why rows have no answer, and how many.
        better: Rows that only the candidate has right.
        worse: Rows that it alone has wrong.
    """

    def __init__(self, artifact: ModelArtifact) -> None:
        self._names = distinct_names(artifact.labels)
        self._truths = Truths(artifact.labels)
        self._has_several = bool(artifact.thresholds)
        self.before, self.after = Side(), Side()
        self.rows = self.equal = self.again = self.better = self.worse = 0
        self.largest = 0.0
        self.flips: Counter[tuple[str, str]] = Counter()
        self.shown: list[Flip] = []
        self.errors: Counter[str] = Counter()

    def add(self, pair: Pair) -> None:
        """Add one row."""
        after, before = pair.after, pair.before
        if after is None:
            self.errors[pair.error] += 1
            return
        self.rows += 1
        difference = np.abs(after.probabilities_K - before.probabilities_K).max()
        self.largest = max(self.largest, float(difference))
        self.equal += bool(np.array_equal(after.probabilities_K, before.probabilities_K))
        self.again += pair.is_again
        truth = self._truth(pair)
        was, now = (None if truth is None else set(x.chosen) == truth for x in (before, after))
        self.before.add(before, was)
        self.after.add(after, now)
        self.better += now is True and was is False
        self.worse += now is False and was is True
        if before.chosen != after.chosen:
            true = "" if truth is None else self._name(sorted(truth))
            flip = Flip(pair, self._name(before.chosen), self._name(after.chosen), true)
            key = flip.before, flip.after
            self.flips[key] += 1
            if len(self.shown) < MOST_SHOWN and self.flips[key] <= _SHOWN_OF_PAIR:
                self.shown.append(flip)

    @property
    def flipped(self) -> int:
        """Return the rows whose label changed."""
        return self.flips.total()

    def _name(self, chosen: Sequence[int]) -> str:
        return ", ".join(self._names[index] for index in chosen) or NONE

    def _truth(self, pair: Pair) -> set[int] | None:
        if pair.truth is None:
            return None
        if self._has_several:
            several = self._truths.several(pair.truth, is_declared=True)
            return None if several is None else set(several)
        one = self._truths.one(pair.truth, is_declared=True)
        return None if one < 0 else {one}

    def document(self) -> dict[str, object]:
        """Return all figures for JSON; times in milliseconds."""
        return {
            "rows": self.rows,
            "bit_equal": self.equal,
            "bit_equal_alone": self.again,
            "largest_difference": self.largest,
            "flipped": self.flipped,
            "flips": [
                {"before": before, "after": after, "rows": rows}
                for (before, after), rows in self.flips.most_common()
            ],
            "errors": dict(self.errors),
            "better": self.better,
            "worse": self.worse,
            "before": _side(self.before),
            "after": _side(self.after),
        }


def summarize(found: Comparison) -> list[tuple[str, str]]:
    """Return the figures of a replay as lines for people."""
    rows = found.rows
    alone = f", {found.again:,} of them only in a batch of their own" if found.again else ""
    lines = [
        ("rows", f"{rows:,}"),
        ("bit-equal", f"{found.equal:,} of {rows:,} ({_share(found.equal, rows)}){alone}"),
        ("largest difference", f"{found.largest:.3g}"),
        ("labels changed", f"{found.flipped:,} ({_share(found.flipped, rows)})"),
    ]
    if found.after.known:
        lines += [
            ("accuracy before", accuracy_text(found.before)),
            ("accuracy after", accuracy_text(found.after)),
            ("right now, wrong before", f"{found.better:,}"),
            ("wrong now, right before", f"{found.worse:,}"),
        ]
    if found.errors:
        lines.append(("without an answer", f"{found.errors.total():,}"))
    return lines


def _share(count: int, rows: int) -> str:
    if not rows:
        return "0 %"
    # Never 100 % where one is missing.
    share = math.floor(count / rows * 1e5) / 1e3
    return f"{share:g} %"


def accuracy_text(side: Side) -> str:
    """Return an accuracy with its interval, for people."""
    if side.accuracy is None or side.interval is None:
        return "unknown"
    low, high = side.interval
    return f"{side.accuracy:.2%} ({low:.2%} to {high:.2%}) of {side.known:,} rows"


def _side(side: Side) -> dict[str, object]:
    def ms(share: float) -> float | None:
        value = side.percentile_ms(share)
        return None if math.isnan(value) else round(value, 4)

    return {
        "accuracy": side.accuracy,
        "interval": side.interval,
        "known": side.known,
        "calibration_error": side.calibration_error,
        "mean_confidence": side.confidence / side.rows if side.rows else None,
        "p50_ms": ms(0.5),
        "p99_ms": ms(0.99),
    }
