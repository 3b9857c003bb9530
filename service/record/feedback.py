"""The truth about answers: joined by request id and row with what was answered, and counted.

    {"id", "row", "label"} -> the answer, of any worker -> right, wrong or abstained -> metrics
                              | forgotten: the recording's

A row has one truth. The same again is a duplicate and counts once; another one is refused, as a
counter takes nothing back.
"""

import logging
import zlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from models.artifact import ArtifactError, ModelArtifact
from models.labels import distinct_names
from service.errors import ClientError, ConflictError, InvalidInputError, ModelNotFoundError
from service.metrics.families import (
    FEEDBACK_BIN_CONFIDENCE,
    FEEDBACK_BIN_ROWS,
    FEEDBACK_CLASS_ROWS,
    FEEDBACK_PAIRS,
    FEEDBACK_REFUSED,
    FEEDBACK_ROWS,
)
from service.record.answers import Answer, Answers, key_of, model_key
from service.record.late import Late
from service.record.told import Truth, read_truth, shown
from service.record.truths import Truths

logger = logging.getLogger("foveal.feedback")

# Guo et al. 2017, "On Calibration of Modern Neural Networks": as the calibration error of training.
BINS = 15
RIGHT, WRONG, ABSTAINED, DUPLICATE = "right", "wrong", "abstained", "duplicate"
# Of versions that are not served any more: what is read of them is kept, of so many.
_MAX_ARTIFACTS = 64


class ForgottenError(ModelNotFoundError):
    """The answer is not remembered, or was never given."""


@dataclass(slots=True)
class Report:
    """What became of some truths.

    Attributes:
        outcomes: Version that answered and outcome, of those that were joined.
        refused: Position and error of each other one.
        new: Those that were counted.
    """

    outcomes: list[tuple[int, str]] = field(default_factory=list)
    refused: list[tuple[int, ClientError]] = field(default_factory=list)
    new: list[Truth] = field(default_factory=list)

    def count(self, outcome: str) -> int:
        """Return how many truths had an outcome."""
        return sum(each == outcome for _, each in self.outcomes)


class Feedback:
    """Joins truths with answers and counts them; used on one thread.

    Args:
        answers: What was answered of late.
        load: Returns a version, of the repository if it is not served; raises ArtifactError.
        late: The recording, where answers are that are forgotten; None: there is none.
    """

    def __init__(
        self,
        answers: Answers,
        load: Callable[[str, int], ModelArtifact],
        late: Late | None = None,
    ) -> None:
        self._late = late
        self._answers = answers
        self._load = load
        self._is_missing = False  # what the recording should have; the log says so once
        self._versions: dict[tuple[str, int], Version] = {}

    def take(self, model: str, items: Iterable[Any]) -> Report:
        """Take what is said to be true about answers of a model.

        Args:
            model: Its name.
            items: Objects as they were sent.
        """
        report, tally = Report(), Tally(model)
        forgotten: list[tuple[int, Truth]] = []
        with self._answers.locked():
            for position, item in enumerate(items):
                truth = None
                try:
                    truth = read_truth(item)
                    self._add(report, truth, self._take(model, truth, tally))
                except ForgottenError as error:
                    if self._late is None or truth is None:
                        report.refused.append((position, error))
                    else:
                        forgotten.append((position, truth))
                except ClientError as error:
                    report.refused.append((position, error))
        if self._late is not None:
            self._take_late(model, forgotten, report, tally)
        report.refused.sort(key=lambda refused: refused[0])
        tally.refused.update(_reason(error) for _, error in report.refused)
        tally.refused[DUPLICATE] += report.count(DUPLICATE)
        tally.flush()
        return report

    @staticmethod
    def _add(report: Report, truth: Truth, outcome: tuple[int, str]) -> None:
        report.outcomes.append(outcome)
        if outcome[1] != DUPLICATE:
            report.new.append(truth)

    def _take_late(
        self, model: str, forgotten: list[tuple[int, Truth]], report: Report, tally: "Tally"
    ) -> None:
        """Join the truths about forgotten answers with the recording, and note all new ones there.

        The recording is read before the lock is taken: that may take seconds.
        """
        assert self._late is not None, "there is a recording; this is a bug"
        found = self._late.find({truth.id for _, truth in forgotten})
        with self._answers.locked():
            known = self._late.truths({id_ for id_, _ in found}) if found else {}
            for position, truth in forgotten:
                try:
                    document = found.get((truth.id, truth.row), {})
                    if document.get("model") != model or "probabilities" not in document:
                        raise _forgotten(model, truth)
                    outcome = self._judge_late(model, truth, document, known, tally)
                    self._add(report, truth, outcome)
                except ClientError as error:
                    report.refused.append((position, error))
            try:
                self._late.note(truth.line() for truth in report.new)
            except OSError as error:
                if not self._is_missing:
                    logger.error("truths are missing in the recording: %s", error.strerror)
                self._is_missing = True
            else:
                self._is_missing = False

    def _judge_late(
        self, model: str, truth: Truth, document: dict[str, Any], known: Truths, tally: "Tally"
    ) -> tuple[int, str]:
        """Count a truth about a recorded row, once."""
        number = int(document["version"])
        version = self._version(model, number)
        true = version.indexes(truth)
        before = known.get((truth.id, truth.row))
        if before is not None:
            told = before if isinstance(before, tuple) else (before,)
            earlier = Truth(truth.id, truth.row, tuple(told), version.is_several)
            if version.indexes(earlier) != true:
                raise _conflict(truth)
            return number, DUPLICATE
        known[truth.id, truth.row] = truth.labels if truth.is_several else truth.labels[0]
        index = int(document["index"])
        chosen = frozenset(document["labels"] if version.is_several else (index,))
        outcome = WRONG if chosen != true else RIGHT
        outcome = ABSTAINED if document.get("abstained") else outcome
        confidence = None if version.is_several else float(document["probabilities"][index])
        tally.count(version, number, outcome, true, chosen, confidence)
        return number, outcome

    def _take(self, model: str, truth: Truth, tally: "Tally") -> tuple[int, str]:
        key = key_of(truth.id.encode())
        found = self._answers.find(key, truth.row, model_key(model))
        served = next((answer for answer in found if not answer.is_shadow), None)
        if served is None:
            raise _forgotten(model, truth)
        version = self._version(model, served.version)
        true = version.indexes(truth)
        mark = _mark(true, is_several=truth.is_several)
        if served.truth == mark:
            return served.version, DUPLICATE
        if served.truth:
            raise _conflict(truth)
        chosen = self._chosen(served, version)
        if chosen is None:
            raise _forgotten(model, truth)
        self._answers.note(served, mark)
        outcome = ABSTAINED if served.is_abstained else RIGHT if chosen == true else WRONG
        confidence = None if served.is_several else served.confidence
        tally.count(version, served.version, outcome, true, chosen, confidence)
        seen: set[int] = set()
        for shadow in found:
            if shadow.is_shadow and shadow.version not in seen:
                seen.add(shadow.version)
                self._compare(model, shadow, truth, tally, is_right=outcome == RIGHT)
        return served.version, outcome

    def _compare(
        self, model: str, shadow: Answer, truth: Truth, tally: "Tally", *, is_right: bool
    ) -> None:
        """Count whether a shadow was better or worse than what was answered."""
        try:
            version = self._version(model, shadow.version)
            true, chosen = version.indexes(truth), self._chosen(shadow, version)
        except ClientError:
            return  # it is gone, or has other labels
        if chosen is not None:
            is_shadow_right = chosen == true and not shadow.is_abstained
            better = int(is_shadow_right) - int(is_right)
            tally.pairs[shadow.version, ("same", "better", "worse")[better]] += 1

    def _chosen(self, answer: Answer, version: "Version") -> frozenset[int] | None:
        """Return the indexes that were answered."""
        if not answer.is_several:
            return frozenset((answer.index,))
        labels = len(version.labels)
        given = self._answers.given(answer, labels)
        if given is None:
            return None
        bits = np.unpackbits(np.frombuffer(given, np.uint8), count=labels)
        return frozenset(np.flatnonzero(bits).tolist())

    def _version(self, model: str, number: int) -> "Version":
        version = self._versions.get((model, number))
        if version is None:
            try:
                version = Version(self._load(model, number))
            except ArtifactError as error:
                raise ModelNotFoundError(
                    f"{model}:{number}: expected the version that answered, got: {error}"
                ) from None
            if len(self._versions) >= _MAX_ARTIFACTS:
                self._versions.clear()
            self._versions[model, number] = version
        return version


class Version:
    """What is read of a version to judge its answers: labels, and their names in metrics."""

    def __init__(self, artifact: ModelArtifact) -> None:
        self.reference = artifact.reference
        self.labels = artifact.labels
        self.names = distinct_names(artifact.labels)
        self.is_several = bool(artifact.thresholds)
        self._by_name = {name: index for index, name in enumerate(self.names)}
        self._equal = set(artifact.labels) - set(self.names)

    def indexes(self, truth: Truth) -> frozenset[int]:
        """Return the indexes of what is true.

        Raises:
            InvalidInputError: The version has no such label.
        """
        if truth.is_several != self.is_several:
            raise InvalidInputError(
                f"expected {'labels or indexes' if self.is_several else 'label or index'}, as "
                f"{self.reference} is {'' if self.is_several else 'not '}multi-label; got "
                f"{'labels or indexes' if truth.is_several else 'label or index'}"
            )
        return frozenset(self._index(label) for label in truth.labels)

    def _index(self, label: str | int) -> int:
        if isinstance(label, int):
            if 0 <= label < len(self.labels):
                return label
            raise InvalidInputError(
                f"index: expected 0 to {len(self.labels) - 1} of {self.reference}, got {label}"
            )
        index = self._by_name.get(label)
        if index is not None:
            return index
        if label in self._equal:
            raise InvalidInputError(
                f"label: expected one that {self.reference} has once, got {shown(label)}; "
                "give its index"
            )
        raise InvalidInputError(
            f"label: expected one of {self.reference} ({_some(self.names)}), got {shown(label)}"
        )


class Tally:
    """What some truths add to the metrics of a model."""

    def __init__(self, model: str) -> None:
        self._model = model
        self.refused: Counter[str] = Counter()
        self.pairs: Counter[tuple[int, str]] = Counter()
        self._rows: Counter[tuple[int, str]] = Counter()
        self._classes: Counter[tuple[int, str, str]] = Counter()
        self._bins: Counter[tuple[int, int, str]] = Counter()
        self._confidence: defaultdict[tuple[int, int], float] = defaultdict(float)

    def count(
        self,
        version: Version,
        number: int,
        outcome: str,
        true: frozenset[int],
        chosen: frozenset[int],
        confidence: float | None,
    ) -> None:
        """Count one row; ``confidence`` is None of a multi-label model."""
        self._rows[number, outcome] += 1
        if outcome == ABSTAINED:
            return
        names = version.names
        for group, what in ((true & chosen, "right"), (true - chosen, "missed")):
            self._classes.update((number, names[index], what) for index in group)
        self._classes.update((number, names[index], "extra") for index in chosen - true)
        if confidence is not None:
            own = bin_of(confidence)
            self._bins[number, own, outcome] += 1
            self._confidence[number, own] += confidence

    def flush(self) -> None:
        """Add to the metrics."""
        model = self._model
        for (number, outcome), rows in self._rows.items():
            FEEDBACK_ROWS.labels(model, str(number), outcome).inc(rows)
        for (number, name, outcome), rows in self._classes.items():
            FEEDBACK_CLASS_ROWS.labels(model, str(number), name, outcome).inc(rows)
        for (number, own, outcome), rows in self._bins.items():
            FEEDBACK_BIN_ROWS.labels(model, str(number), str(own), outcome).inc(rows)
        for (number, own), total in self._confidence.items():
            FEEDBACK_BIN_CONFIDENCE.labels(model, str(number), str(own)).inc(total)
        for (number, outcome), rows in self.pairs.items():
            FEEDBACK_PAIRS.labels(model, str(number), outcome).inc(rows)
        for reason, rows in self.refused.items():
            if rows:
                FEEDBACK_REFUSED.labels(model, reason).inc(rows)


def bin_of(confidence: float) -> int:
    """Return the bin of a probability, 1 to ``BINS``: equal widths, their upper ends included."""
    return min(max(int(np.ceil(confidence * BINS)), 1), BINS)


def _forgotten(model: str, truth: Truth) -> ForgottenError:
    return ForgottenError(
        f"id {truth.id!r}, row {truth.row}: expected an answer of {model} that is still remembered "
        "or recorded, got none; raise FOVEAL_FEEDBACK_ROWS if it was given"
    )


def _conflict(truth: Truth) -> ConflictError:
    return ConflictError(
        f"id {truth.id!r}, row {truth.row}: expected the truth that was given before, got another; "
        "a row has one truth, and it is counted"
    )


def _mark(true: frozenset[int], *, is_several: bool) -> int:
    """Return what is noted of a truth, 1 to 2^32 - 1: equal for equal truths."""
    if not is_several:
        return next(iter(true)) + 1
    return zlib.crc32(",".join(map(str, sorted(true))).encode()) | 1


def _reason(error: ClientError) -> str:
    if isinstance(error, ModelNotFoundError):
        return "unknown"
    if isinstance(error, ConflictError):
        return "conflict"
    return "wrong"


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(name[:40] for name in names[:5])
    return f"{shown}, … of {len(names)}" if len(names) > 5 else shown
