"""Turn a batch's outputs into predictions: ranked labels as JSON.

The ranking and the digits of all rows of a batch are computed once, for its first row; each further
row is a lookup. Probabilities are written as the shortest decimal that reads
back as the same float32, so the text depends on the row alone, never on its batch.

Layout legend: N rows, K classes, T predictions a row.
"""

from operator import add

import numpy as np
import orjson
from numpy.typing import NDArray

from models.abstain import is_answered
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


def shortest_decimals(values: NDArray[np.float32]) -> list[bytes]:
    """Return the shortest decimal of each value that reads back as the same float32.

    One call for all values: orjson writes an array faster than Python formats a number.

    Args:
        values: float32, any shape, taken row by row; what is not finite becomes ``null``.
    """
    flat = np.ascontiguousarray(values).ravel()
    return orjson.dumps(flat, option=orjson.OPT_SERIALIZE_NUMPY)[1:-1].split(b",")


class Postprocessor:
    """Predictions of one model.

    Args:
        labels: Label of each index, K of them.
        threshold: Least probability of the first label that is answered; below it the model
            abstains. None: it never does, and answers do not mention it.
    """

    def __init__(self, labels: tuple[str, ...], threshold: float | None = None) -> None:
        self.labels = labels
        self._threshold = None if threshold is None else np.float32(threshold)
        self._verdicts = [b',"label":%s,"abstained":false}' % orjson.dumps(x) for x in labels]
        self._prefixes = [
            b'{"label":%s,"index":%d,"probability":' % (orjson.dumps(label), index)
            for index, label in enumerate(labels)
        ]

    def fragments(self, batch: Batch, top: int) -> list[bytes]:
        """Return, for each row of a batch, its JSON object ``{"predictions": [...]}``.

        With a threshold it also has ``"abstained"`` and ``"label"``, null if the model abstains.
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
        if self._threshold is None:
            return fragments
        answered_N = is_answered(values_NT[:, 0], self._threshold).tolist()
        return [
            fragment[:-1] + (self._verdicts[index] if answered else _ABSTAINED)
            for fragment, index, answered in zip(
                fragments, order_NT[:, 0].tolist(), answered_N, strict=True
            )
        ]
