"""Counts of a job: rows, errors, and right labels among rows whose true label is known."""

import math
from dataclasses import dataclass, field
from typing import Any, NotRequired, TypedDict

from scoring.stages import Scored
from scoring.truths import Remarks

# Of the normal distribution: 95 % of it lies within so many deviations.
_Z = 1.959964
# Classes are unbalanced if the largest has more than so many times the rows of the smallest.
_UNBALANCED = 2


class LabelCount(TypedDict):
    """Images of one label of a multi-label model: that have it, that got it, that do both."""

    images: int
    given: int
    right: int


class WorstLabel(TypedDict):
    """The label whose rows are right least often: its name, rows, and how many are right."""

    label: str
    rows: int
    correct: int


class Accuracy(TypedDict):
    """Share of right labels among rows with a known true label.

    Of a multi-label model a row is right if it got all its true labels and no other one.

    ``interval`` is the 95 % interval of ``accuracy`` by Wilson's score. ``balanced`` is the mean of
    the shares of right rows of each label that has rows, ``worst`` the label with the least share,
    ``is_unbalanced`` whether one label has more than twice the rows of another.

    ``confusion`` counts rows: true label to predicted label to rows, without zeros; of a
    multi-label model it is empty, and ``per_label`` counts instead. Equal labels are told apart by
    their index: ``crane (517)``.
    """

    rows: int
    correct: int
    accuracy: float
    interval: tuple[float, float]
    confusion: dict[str, dict[str, int]]
    balanced: NotRequired[float]
    worst: NotRequired[WorstLabel]
    is_unbalanced: NotRequired[bool]
    per_label: NotRequired[dict[str, LabelCount]]


@dataclass(slots=True)
class Tally:
    """Counts of some rows; counts of different rows can be added.

    Attributes:
        rows: All rows.
        errors: Rows with an error.
        confusion: (index of the true label, of the predicted one) to rows with a known true label.
        known: Rows of a multi-label model whose true labels are known.
        exact: Rows of those that got their true labels and no others.
        per_label: Index of a label to ``LabelCount``'s numbers, in its order.
        damaged: Rows with an answer whose image is damaged.
        remarks: On true labels.
    """

    rows: int = 0
    errors: int = 0
    confusion: dict[tuple[int, int], int] = field(default_factory=dict)
    known: int = 0
    exact: int = 0
    per_label: dict[int, list[int]] = field(default_factory=dict)
    damaged: int = 0
    remarks: Remarks = field(default_factory=Remarks)

    def count(self, scored: Scored) -> None:
        """Count a chunk."""
        self.rows += len(scored)
        self.errors += len(scored.errors)
        self.damaged += len(scored.damaged.keys() - scored.errors.keys())
        self.remarks.add(scored.remarks)
        if scored.truths:
            predicted = scored.index_NT[:, 0].tolist()
            for row, pair in enumerate(zip(scored.truths, predicted, strict=True)):
                if pair[0] >= 0 and row not in scored.errors:
                    self.confusion[pair] = self.confusion.get(pair, 0) + 1
        for row, truth in enumerate(scored.truth_sets):
            if truth is not None and row not in scored.errors:
                self._count_several(truth, set(scored.given[row]))

    def _count_several(self, truth: frozenset[int], given: set[int]) -> None:
        self.known += 1
        self.exact += truth == given
        for index in truth | given:
            count = (int(index in truth), int(index in given), int(index in truth & given))
            self._add_label(index, count)

    def _add_label(self, index: int, count: tuple[int, ...] | list[int]) -> None:
        before = self.per_label.get(index, (0, 0, 0))
        self.per_label[index] = [a + b for a, b in zip(before, count, strict=True)]

    def add(self, other: "Tally") -> None:
        """Add the counts of other rows."""
        self.rows += other.rows
        self.errors += other.errors
        self.damaged += other.damaged
        for pair, rows in other.confusion.items():
            self.confusion[pair] = self.confusion.get(pair, 0) + rows
        self.known += other.known
        self.exact += other.exact
        for index, count in other.per_label.items():
            self._add_label(index, count)
        self.remarks.add(other.remarks)

    def to_json(self) -> dict[str, Any]:
        """Return the counts as JSON's types."""
        confusion = [[*pair, rows] for pair, rows in sorted(self.confusion.items())]
        document = {"rows": self.rows, "errors": self.errors, "confusion": confusion}
        document |= {"damaged": self.damaged}
        if self.known:
            labels = [[index, *count] for index, count in sorted(self.per_label.items())]
            document |= {"known": self.known, "exact": self.exact, "per_label": labels}
        if self.remarks.counts:
            document["remarks"] = self.remarks.to_json()
        return document

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> "Tally":
        """Read what ``to_json`` wrote."""
        return cls(
            document["rows"],
            document["errors"],
            {(truth, best): rows for truth, best, rows in document["confusion"]},
            document.get("known", 0),
            document.get("exact", 0),
            {index: count for index, *count in document.get("per_label", ())},
            document.get("damaged", 0),
            Remarks.from_json(document.get("remarks", {})),
        )

    def accuracy(self, names: tuple[str, ...]) -> Accuracy | None:
        """Return the accuracy, None if no row has a known true label.

        Args:
            names: A name for each label, all different.
        """
        if self.known:
            return self._accuracy_of_several(names)
        rows = sum(self.confusion.values())
        if not rows:
            return None
        correct = sum(count for (truth, best), count in self.confusion.items() if truth == best)
        confusion: dict[str, dict[str, int]] = {}
        for (truth, best), count in sorted(self.confusion.items()):
            confusion.setdefault(names[truth], {})[names[best]] = count
        accuracy: Accuracy = {
            "rows": rows,
            "correct": correct,
            "accuracy": correct / rows,
            "interval": wilson(correct, rows),
            "confusion": confusion,
        }
        return _balanced(accuracy)

    def _accuracy_of_several(self, names: tuple[str, ...]) -> Accuracy:
        per_label: dict[str, LabelCount] = {
            names[index]: {"images": images, "given": given, "right": right}
            for index, (images, given, right) in sorted(self.per_label.items())
        }
        return {
            "rows": self.known,
            "correct": self.exact,
            "accuracy": self.exact / self.known,
            "interval": wilson(self.exact, self.known),
            "confusion": {},
            "per_label": per_label,
        }


def wilson(correct: int, rows: int) -> tuple[float, float]:
    """Return the 95 % interval of a share by Wilson's score, without a correction for continuity.

    Args:
        correct: 0 to ``rows``.
        rows: 1 or more.
    """
    share, weight = correct / rows, _Z * _Z / rows
    middle = share + weight / 2
    reach = math.sqrt(weight * share * (1 - share) + weight * weight / 4)
    # At 0 and 1 the exact bounds are 0 and 1.
    low = 0.0 if correct == 0 else (middle - reach) / (1 + weight)
    return low, 1.0 if correct == rows else (middle + reach) / (1 + weight)


def _balanced(accuracy: Accuracy) -> Accuracy:
    """Add what each label has a part in, however many rows it has."""
    counts = {
        label: (sum(row.values()), row.get(label, 0))
        for label, row in accuracy["confusion"].items()
    }
    worst = min(counts, key=lambda label: counts[label][1] / counts[label][0])
    rows, correct = counts[worst]
    sizes = [size for size, _ in counts.values()]
    accuracy["balanced"] = sum(right / size for size, right in counts.values()) / len(counts)
    accuracy["worst"] = {"label": worst, "rows": rows, "correct": correct}
    accuracy["is_unbalanced"] = max(sizes) > _UNBALANCED * min(sizes)
    return accuracy


def tabulate(accuracy: Accuracy) -> list[tuple[str, ...]]:
    """Return the confusion matrix: a heading, then a row for each true label.

    Of a multi-label model: a row for each label, with its counts, precision and recall.
    """
    if "per_label" in accuracy:
        return [
            ("label", "images", "given", "right", "precision", "recall"),
            *(
                (name, *map(str, count.values()), *_shares(count))
                for name, count in accuracy["per_label"].items()
            ),
        ]
    confusion = accuracy["confusion"]
    predicted = list(
        dict.fromkeys([*confusion, *(label for row in confusion.values() for label in row)])
    )
    return [
        ("true \\ predicted", *predicted),
        *(
            (truth, *(str(row.get(label, "·")) for label in predicted))
            for truth, row in confusion.items()
        ),
    ]


def _shares(count: LabelCount) -> tuple[str, str]:
    """Return precision and recall of a label, "-" of no images."""
    precision, recall = (
        f"{count['right'] / of:.2%}" if of else "-" for of in (count["given"], count["images"])
    )
    return precision, recall
