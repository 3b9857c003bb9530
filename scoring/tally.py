"""Counts of a job: rows, errors, and right labels among rows whose true label is known."""

from dataclasses import dataclass, field
from typing import Any, TypedDict

from scoring.stages import Scored


class Accuracy(TypedDict):
    """Share of right labels among rows with a known true label.

    ``confusion`` counts rows: true label to predicted label to rows, without zeros.
    """

    rows: int
    correct: int
    accuracy: float
    confusion: dict[str, dict[str, int]]


@dataclass(slots=True)
class Tally:
    """Counts of some rows; counts of different rows can be added.

    Attributes:
        rows: All rows.
        errors: Rows with an error.
        confusion: (index of the true label, of the predicted one) to rows with a known true label.
    """

    rows: int = 0
    errors: int = 0
    confusion: dict[tuple[int, int], int] = field(default_factory=dict)

    def count(self, scored: Scored) -> None:
        """Count a chunk."""
        self.rows += len(scored)
        self.errors += len(scored.errors)
        if scored.truths:
            predicted = scored.index_NT[:, 0].tolist()
            for row, pair in enumerate(zip(scored.truths, predicted, strict=True)):
                if pair[0] >= 0 and row not in scored.errors:
                    self.confusion[pair] = self.confusion.get(pair, 0) + 1

    def add(self, other: "Tally") -> None:
        """Add the counts of other rows."""
        self.rows += other.rows
        self.errors += other.errors
        for pair, rows in other.confusion.items():
            self.confusion[pair] = self.confusion.get(pair, 0) + rows

    def to_json(self) -> dict[str, Any]:
        """Return the counts as JSON's types."""
        confusion = [[*pair, rows] for pair, rows in sorted(self.confusion.items())]
        return {"rows": self.rows, "errors": self.errors, "confusion": confusion}

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> "Tally":
        """Read what ``to_json`` wrote."""
        confusion = {(truth, best): rows for truth, best, rows in document["confusion"]}
        return cls(document["rows"], document["errors"], confusion)

    def accuracy(self, labels: tuple[str, ...]) -> Accuracy | None:
        """Return the accuracy, None if no row has a known true label."""
        rows = sum(self.confusion.values())
        if not rows:
            return None
        correct = sum(count for (truth, best), count in self.confusion.items() if truth == best)
        confusion: dict[str, dict[str, int]] = {}
        for (truth, best), count in sorted(self.confusion.items()):
            confusion.setdefault(labels[truth], {})[labels[best]] = count
        return {
            "rows": rows,
            "correct": correct,
            "accuracy": correct / rows,
            "confusion": confusion,
        }


def tabulate(accuracy: Accuracy) -> list[tuple[str, ...]]:
    """Return the confusion matrix: a heading, then a row for each true label."""
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
