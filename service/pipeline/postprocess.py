"""Turn a batch's outputs into predictions: ranked labels as JSON.

The ranking and the digits of all rows of a batch are computed once, for its first row; each further
row is a lookup. Probabilities are written as the shortest decimal that reads
back as the same float32, so the text depends on the row alone, never on its batch.

Layout legend: N rows, K classes, T predictions a row.
"""

import math
from collections.abc import Sequence
from operator import add

import numpy as np
import orjson
from numpy.typing import NDArray

from models.abstain import is_answered
from models.labels import are_given, distinct_names
from service.errors import NOT_A_NUMBER
from service.pipeline.job import Batch, Job

_ABSTAINED = b',"label":null,"abstained":true}'


def rank(probabilities_NK: NDArray[np.float32], top: int) -> NDArray[np.intp]:
    """Return the classes of each row, most probable first; ties in the order of their index.

    Args:
        probabilities_NK: float32 [N, K].
        top: Number of classes to keep, 1 or more.

    Returns:
        int [N, min(top, K)].
    """
    return np.argsort(-probabilities_NK, axis=1, kind="stable")[:, :top]


def choose_labels(
    probabilities_NK: NDArray[np.float32],
    thresholds: Sequence[float],
    threshold: float | np.float32 | None = None,
) -> list[list[int]]:
    """Return the labels that each row of a multi-label model gets, by index.

    Most probable first; ties in the order of their index.

    Args:
        probabilities_NK: float32 [N, K].
        thresholds: Least probability of each label, K of them.
        threshold: Least probability of a row's first label; below it the model abstains and the row
            gets none. None: it never does.
    """
    given_NK = are_given(probabilities_NK, thresholds)
    if threshold is not None:
        given_NK &= is_answered(probabilities_NK.max(axis=1, keepdims=True), threshold)
    rows, indexes = np.nonzero(given_NK)
    # Stable: of equal probabilities of a row, the lower index stays first.
    order = np.lexsort((-probabilities_NK[rows, indexes], rows))
    ends = np.cumsum(given_NK.sum(axis=1)).tolist()
    chosen = indexes[order].tolist()
    return [chosen[start:end] for start, end in zip([0, *ends], ends, strict=False)]


def shortest_decimals(values: NDArray[np.float32]) -> list[bytes]:
    """Return the shortest decimal of each value that reads back as the same float32.

    One call for all values: orjson writes an array faster than Python formats a number.

    Args:
        values: float32, any shape, taken row by row; what is not finite becomes ``null``.
    """
    flat = np.ascontiguousarray(values).ravel()
    return orjson.dumps(flat, option=orjson.OPT_SERIALIZE_NUMPY)[1:-1].split(b",")


def not_finite(values_NK: NDArray[np.float32]) -> dict[int, str]:
    """Return the error of each row that is not all numbers; such a row has no answer.

    Args:
        values_NK: float32 [N, K], probabilities or logits.
    """
    # One pass without an array of its own: a NaN or an infinity makes the sum of squares one.
    if math.isfinite(np.vdot(values_NK, values_NK)):
        return {}
    bad_NK = ~np.isfinite(values_NK)
    return {
        int(row): f"{NOT_A_NUMBER} {values_NK[row][bad_NK[row]][0]}"
        for row in np.flatnonzero(bad_NK.any(axis=1))
    }


class Postprocessor:
    """Predictions of one model.

    Args:
        labels: Label of each index, K of them.
        threshold: Least probability of the first label that is answered; below it the model
            abstains. None: it never does, and answers do not mention it.
        thresholds: Of a multi-label model: least probability of each label that a row gets, K of
            them. (): rows get one label.
    """

    def __init__(
        self,
        labels: tuple[str, ...],
        threshold: float | None = None,
        thresholds: tuple[float, ...] = (),
    ) -> None:
        self.labels = labels
        self._threshold = None if threshold is None else np.float32(threshold)
        self._thresholds = thresholds
        names = distinct_names(labels) if thresholds else ()
        self._names = [orjson.dumps(name) for name in names]
        self._verdicts = [b',"label":%s,"abstained":false}' % orjson.dumps(x) for x in labels]
        self._prefixes = [
            b'{"label":%s,"index":%d,"probability":' % (orjson.dumps(label), index)
            for index, label in enumerate(labels)
        ]

    def fragments(self, batch: Batch, top: int) -> list[bytes]:
        """Return, for each row of a batch, its JSON object ``{"predictions": [...]}``.

        With a threshold it also has ``"abstained"`` and ``"label"``, null if the model abstains. Of
        a multi-label model it has ``"labels"``, those at or above their thresholds, in its place.
        """
        key = self, top
        fragments: list[bytes] | None = batch.notes.get(key)
        if fragments is None:
            assert batch.outputs is not None, "only finished batches are asked; this is a bug"
            fragments = batch.notes[key] = self._render(batch.outputs.probabilities, top)
        return fragments

    def job_fragments(self, job: Job, top: int) -> list[bytes]:
        """Return the JSON object of each row of a finished job, in the job's order."""
        return [
            fragment
            for batch, first, count in job.parts
            for fragment in self.fragments(batch, top)[first : first + count]
        ]

    def _render(self, probabilities_NK: NDArray[np.float32], top: int) -> list[bytes]:
        order_NT = rank(probabilities_NK, top)
        values_NT = np.take_along_axis(probabilities_NK, order_NT, axis=1)
        # One call writes the digits of the whole batch, and map() joins them to their labels: a
        # loop over rows and classes in Python took 4.5 us a row, this takes 1.3.
        digits = shortest_decimals(values_NT)
        labels = map(self._prefixes.__getitem__, order_NT.ravel().tolist())
        predictions = list(map(add, labels, digits))
        width = order_NT.shape[1]
        fragments = [
            b'{"predictions":[%s}]}' % b"},".join(predictions[start : start + width])
            for start in range(0, len(predictions), width)
        ]
        if self._thresholds:
            verdicts = self._chosen(probabilities_NK, values_NT[:, 0])
        elif self._threshold is None:
            return fragments
        else:
            answered_N = is_answered(values_NT[:, 0], self._threshold).tolist()
            verdicts = [
                self._verdicts[index] if answered else _ABSTAINED
                for index, answered in zip(order_NT[:, 0].tolist(), answered_N, strict=True)
            ]
        return [
            fragment[:-1] + verdict for fragment, verdict in zip(fragments, verdicts, strict=True)
        ]

    def _chosen(
        self, probabilities_NK: NDArray[np.float32], confidence_N: NDArray[np.float32]
    ) -> list[bytes]:
        """Return the verdict of each row of a multi-label model."""
        names = self._names.__getitem__
        verdicts = [
            b',"labels":[%s]' % b",".join(map(names, row))
            for row in choose_labels(probabilities_NK, self._thresholds, self._threshold)
        ]
        if self._threshold is None:
            return [verdict + b"}" for verdict in verdicts]
        answered_N = is_answered(confidence_N, self._threshold).tolist()
        return [
            verdict + (b',"abstained":false}' if answered else b',"abstained":true}')
            for verdict, answered in zip(verdicts, answered_N, strict=True)
        ]
