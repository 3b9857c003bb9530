"""True labels: what a source says of a row becomes the indexes of the model's labels.

A name is a name before it is a number: a whole number that a class is called by means that class,
whatever index it is. Knows nothing about sources and answers.
"""

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from models.labels import distinct_names, equal_labels
from scoring.rows import ScoreError, Truth

# Between the labels of one cell of a CSV: what pandas' ``str.get_dummies`` splits at.
SEPARATOR = "|"
# A whole number as tables write it: pandas writes 3.0 where a value of the column is missing.
_WHOLE = re.compile(r"([0-9]{1,9})(\.0*)?")
_EXAMPLES = 5
# Texts whose search is remembered: rows repeat their labels, and a folder's rows its name.
_REMEMBERED = 4096
_EXAMPLE_CHARACTERS = 40

Kind = Literal["unknown", "folder", "case", "number"]


@dataclass(slots=True)
class Remarks:
    """What the user should know of the true labels of some rows; those of other rows can be added.

    Attributes:
        counts: Kind to number of labels. ``unknown``: none of the model's; ``folder``: a folder
            whose name is none; ``case``: found in other letters or another Unicode form;
            ``number``: the name of one class and the index of another.
        examples: Kind to the first few different ones.
    """

    counts: dict[Kind, int] = field(default_factory=dict)
    examples: dict[Kind, list[str]] = field(default_factory=dict)

    def note(self, kind: Kind, example: str) -> None:
        """Count one label."""
        self.counts[kind] = self.counts.get(kind, 0) + 1
        self._keep(kind, example[:_EXAMPLE_CHARACTERS])

    def add(self, other: "Remarks") -> None:
        """Add those of later rows."""
        for kind, count in other.counts.items():
            self.counts[kind] = self.counts.get(kind, 0) + count
            for example in other.examples[kind]:
                self._keep(kind, example)

    def to_json(self) -> dict[str, Any]:
        """Return them as JSON's types."""
        return {kind: [count, self.examples[kind]] for kind, count in self.counts.items()}

    @classmethod
    def from_json(cls, document: dict[Any, Any]) -> "Remarks":
        """Read what ``to_json`` wrote."""
        remarks = cls()
        for kind, (count, examples) in document.items():
            remarks.counts[kind], remarks.examples[kind] = count, list(examples)
        return remarks

    def lines(self, *, is_compared: bool) -> list[str]:
        """Return a line for each kind.

        Args:
            is_compared: Whether some row has a known label: if none has, the names of folders say
                nothing about labels.
        """
        texts: dict[Kind, str] = {
            "unknown": "{} of no class of the model, not compared: {}",
            "folder": "{} images in folders that are no class of the model, not compared: {}",
            "case": "{} in other letters, read {}",
            "number": "{} that name one class and are the index of another, read as names: {}",
        }
        return [
            "labels: " + text.format(self.counts[kind], self._listed(kind))
            for kind, text in texts.items()
            if self.counts.get(kind) and (is_compared or kind != "folder")
        ]

    def _keep(self, kind: Kind, example: str) -> None:
        kept = self.examples.setdefault(kind, [])
        if len(kept) <= _EXAMPLES and example not in kept:
            kept.append(example)

    def _listed(self, kind: Kind) -> str:
        kept = self.examples[kind]
        return ", ".join(kept[:_EXAMPLES]) + (", …" if len(kept) > _EXAMPLES else "")


class _Found(NamedTuple):
    """What a text is as a label: an index, -1 if it is none, and what to note of it."""

    label: int
    kind: Kind | None = None
    example: str = ""


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
        # -1 where labels differ only in this: then none of them is meant.
        self._folded: dict[str, int] = {}
        for name, index in self._indexes.items():
            known = self._folded.setdefault(_folded(name), index)
            if known != index:
                self._folded[_folded(name)] = -1
        self._searched: dict[tuple[str, bool], _Found] = {}
        # Names that are an index, too: of another class.
        self._numbers = {
            name
            for name, index in self._indexes.items()
            if (number := _whole(name)) is not None and index != number < self._classes
        }

    def one(self, truth: Truth, *, is_declared: bool, remarks: Remarks | None = None) -> int:
        """Return the index of the only true label, -1 if it is unknown.

        Args:
            truth: What the source says.
            is_declared: Whether a label column says it; a folder's name may be anything else, too.
            remarks: Where to note what the user should know.

        Raises:
            ScoreError: A label column has a name that several labels have.
        """
        if truth is None:
            return -1
        if isinstance(truth, tuple):
            if len(truth) == 1:  # only what declares labels lists them
                return self.one(truth[0], is_declared=True, remarks=remarks)
            if truth:
                _note(remarks, "unknown", " and ".join(map(str, truth[:_EXAMPLES])))
            return -1
        text = truth if isinstance(truth, str) else str(truth)
        found = self._indexes.get(text, -1)
        if found >= 0:
            if text in self._numbers:
                _note(remarks, "number", text)
            return found
        key = text, is_declared or text is not truth
        known = self._searched.get(key) or self._search(*key)
        if len(self._searched) < _REMEMBERED:
            self._searched[key] = known
        if known.kind is not None:
            _note(remarks, known.kind, known.example)
        return known.label

    def several(
        self, truth: Truth, *, is_declared: bool, remarks: Remarks | None = None
    ) -> frozenset[int] | None:
        """Return the indexes of all true labels of an image; None if one of them is unknown.

        Only a label column says all: of an image in the folder ``cat`` there may be more to say.

        Args:
            truth: What the source says: a list of labels or indexes, one of them, or several in one
                text, between them ``SEPARATOR``; "" is none.
            is_declared: Whether a label column says it.
            remarks: Where to note what the user should know.

        Raises:
            ScoreError: A name that several labels have, or an index twice.
        """
        if truth is None or not is_declared:
            return None
        if isinstance(truth, str) and truth not in self._indexes:
            truth = tuple(part.strip() for part in truth.split(SEPARATOR)) if truth.strip() else ()
        each = truth if isinstance(truth, tuple) else (truth,)
        indexes = frozenset(self.one(one, is_declared=True, remarks=remarks) for one in each)
        if len(indexes) < len(each) and -1 not in indexes:
            raise ScoreError(
                f"label: expected each label of an image once, got {list(each)[:20]}; "
                "list its labels or their indexes, not a 0 or 1 for every label"
            )
        return None if -1 in indexes else indexes

    def _search(self, text: str, is_declared: bool) -> "_Found":
        """Find a label that no label is written as."""
        text = text.strip()
        found = self._indexes.get(text, -1)
        if found >= 0 or not text:
            return _Found(found)
        if is_declared and text in self._equal:
            raise self._ambiguous(text)
        number = _whole(text) if is_declared else None
        if number is None:
            found = self._folded.get(_folded(text), -1)
            if found >= 0:
                return _Found(found, "case", f"{text!r} as {self._labels[found]!r}")
        else:
            found = self._indexes.get(str(number), number if number < self._classes else -1)
            if str(number) in self._numbers:
                return _Found(found, "number", str(number))
        if found < 0:
            return _Found(found, "unknown" if is_declared else "folder", repr(text))
        return _Found(found)

    def _ambiguous(self, label: str) -> ScoreError:
        indexes = [str(i) for i, other in enumerate(self._labels) if other == label]
        return ScoreError(
            f"label: expected a name that one label has, got {label!r}, which labels "
            f"{', '.join(indexes[:5])} have; write the index, or {f'{label} ({indexes[0]})'!r}"
        )


def _note(remarks: Remarks | None, kind: Kind, example: str) -> None:
    if remarks is not None:
        remarks.note(kind, example)


def _folded(text: str) -> str:
    """Return a text in one Unicode form and one case, without spaces around it."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", text).casefold().strip())


def _whole(text: str) -> int | None:
    found = _WHOLE.fullmatch(text)
    return int(found[1]) if found else None
