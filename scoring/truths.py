"""True labels: what a source says of a row becomes the indexes of the model's labels.

Knows nothing about sources and answers.
"""

from collections.abc import Sequence

from models.labels import distinct_names, equal_labels
from scoring.rows import ScoreError, Truth

# Between the labels of one cell of a CSV: what pandas' ``str.get_dummies`` splits at.
SEPARATOR = "|"


class Truths:
    """The labels of a model, by what a source may call them: label, name or index.

    Args:
        labels: Label of each index, K of them.
    """

    def __init__(self, labels: Sequence[str]) -> None:
        self._labels = labels
        self._classes = len(labels)
        self._equal = equal_labels(labels)
        self._indexes = {name: index for index, name in enumerate(distinct_names(labels))}
        self._indexes |= {
            label: index for index, label in enumerate(labels) if label not in self._equal
        }

    def one(self, truth: Truth, *, is_declared: bool) -> int:
        """Return the index of the only true label, -1 if it is unknown.

        Args:
            truth: What the source says.
            is_declared: Whether a label column says it; a folder's name may be anything else, too.

        Raises:
            ScoreError: A label column has a name that several labels have.
        """
        if isinstance(truth, tuple):
            return self.one(truth[0], is_declared=is_declared) if len(truth) == 1 else -1
        if isinstance(truth, int):
            return truth if 0 <= truth < self._classes else -1
        if truth is None:
            return -1
        found = self._indexes.get(truth, -1)
        if found >= 0 or not is_declared:
            return found
        if truth in self._equal:
            raise self._ambiguous(truth)
        if truth.isdecimal() and len(truth) < 10:
            return int(truth) if int(truth) < self._classes else -1
        return -1

    def several(self, truth: Truth, *, is_declared: bool) -> frozenset[int] | None:
        """Return the indexes of all true labels of an image; None if one of them is unknown.

        Only a label column says all: of an image in the folder ``cat`` there may be more to say.

        Args:
            truth: What the source says: a list of labels or indexes, one of them, or several in one
                text, between them ``SEPARATOR``; "" is none.
            is_declared: Whether a label column says it.

        Raises:
            ScoreError: A name that several labels have, or an index twice.
        """
        if truth is None or not is_declared:
            return None
        if isinstance(truth, str) and truth not in self._indexes:
            truth = tuple(part.strip() for part in truth.split(SEPARATOR)) if truth.strip() else ()
        each = truth if isinstance(truth, tuple) else (truth,)
        indexes = frozenset(self.one(one, is_declared=True) for one in each)
        if len(indexes) < len(each) and -1 not in indexes:
            raise ScoreError(
                f"label: expected each label of an image once, got {list(each)[:20]}; "
                "list its labels or their indexes, not a 0 or 1 for every label"
            )
        return None if -1 in indexes else indexes

    def _ambiguous(self, label: str) -> ScoreError:
        indexes = [str(i) for i, other in enumerate(self._labels) if other == label]
        return ScoreError(
            f"label: expected a name that one label has, got {label!r}, which labels "
            f"{', '.join(indexes[:5])} have; write the index, or {f'{label} ({indexes[0]})'!r}"
        )
