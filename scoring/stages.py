"""The computing stages: a chunk is decoded and run, and its results come out as columns.

Decode and run follow each other on one thread. Several threads do so at once, each on its own
chunk: every core is busy whatever the two cost, no image waits for another chunk's, and a thread
holds at most one decoded chunk.

Layout legend: N rows, K classes, T most probable classes.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.image import MAX_PIXELS
from scoring.decode import Decoder
from scoring.local import LocalModel
from scoring.marks import Marks
from scoring.rows import Chunk
from scoring.truths import Remarks, Truths
from service.pipeline.postprocess import choose_labels, not_finite, rank


@dataclass(frozen=True, slots=True)
class OutputOptions:
    """What is written for each row besides its best label, and what a row may be.

    Attributes:
        top: Number of labels, 1 or more.
        probabilities: Whether all K probabilities are written.
        strict: Whether damage that the decoder goes on after is an error.
        max_image_pixels: Most pixels of an image, as it is decoded.
    """

    top: int = 1
    probabilities: bool = False
    strict: bool = False
    max_image_pixels: int = MAX_PIXELS


@dataclass(slots=True)
class Scored:
    """The results of a chunk.

    Attributes:
        ids: One for each row.
        errors: Number of a row to its error; the arrays' values for that row mean nothing.
        index_NT: int32 [N, T], most probable first, 0 <= index < K.
        probability_NT: float32 [N, T], 0-1.
        probabilities_NK: float32 [N, K], None unless asked for.
        truths: Index of each true label, -1 if unknown; empty if all are unknown, and of a
            multi-label model.
        kept: Values of the kept columns, one tuple for each row; empty if the source has none.
        given: Of a multi-label model: indexes of the labels that each row gets, most probable
            first; else empty.
        truth_sets: Of a multi-label model: indexes of all true labels of each row, None if unknown;
            empty if all are.
        damaged: Number of a row to what the decoder says of damage that it went on after.
        remarks: On true labels.
        by_card: Rows whose JPEG a card decoded.
    """

    ids: list[str]
    errors: dict[int, str]
    index_NT: NDArray[np.int32]
    probability_NT: NDArray[np.float32]
    probabilities_NK: NDArray[np.float32] | None
    truths: list[int]
    kept: list[tuple[Any, ...]]
    given: list[list[int]] = field(default_factory=list)
    truth_sets: list[frozenset[int] | None] = field(default_factory=list)
    damaged: dict[int, str] = field(default_factory=dict)
    remarks: Remarks = field(default_factory=Remarks)
    by_card: int = 0

    def __len__(self) -> int:
        """Return N."""
        return len(self.ids)


class Stages:
    """Decode and run for one model; may be called from several threads at once.

    Args:
        model: The model.
        output: What is written for each row.
        marks: Where each row is noted while it is decoded; None: nowhere.
    """

    def __init__(
        self, model: LocalModel, output: OutputOptions, marks: Marks | None = None
    ) -> None:
        self._model = model
        self._output = output
        self._decode = Decoder(
            model, strict=output.strict, max_pixels=output.max_image_pixels, marks=marks
        )
        artifact = model.artifact
        self._classes = len(artifact.labels)
        self._truths = Truths(artifact.labels)
        self._thresholds = artifact.thresholds
        self._threshold = artifact.abstain.threshold if artifact.abstain else None

    def __call__(self, chunk: Chunk) -> Scored:
        """Decode and run a chunk.

        Raises:
            InferenceError: onnxruntime failed.
            ScoreError: A true label is ambiguous.
        """
        decoded = self._decode(chunk)
        good_N, errors = decoded.good_N, decoded.errors
        rows, top = len(chunk.ids), min(self._output.top, self._classes)
        index_NT = np.zeros((rows, top), np.int32)
        probability_NT = np.zeros((rows, top), np.float32)
        all_NK = np.zeros((rows, self._classes), np.float32) if self._output.probabilities else None
        given: list[list[int]] = [[] for _ in range(rows)] if self._thresholds else []
        if len(good_N):
            probabilities_NK = self._model.run_batch(decoded.pixels_NHWC)
            best_NT = _rank(probabilities_NK, top)
            index_NT[good_N] = best_NT
            probability_NT[good_N] = np.take_along_axis(probabilities_NK, best_NT, axis=1)
            if all_NK is not None:
                all_NK[good_N] = probabilities_NK
            if self._thresholds:
                chosen = choose_labels(probabilities_NK, self._thresholds, self._threshold)
                for row, indexes in zip(good_N.tolist(), chosen, strict=True):
                    given[row] = indexes
            wrong = not_finite(probabilities_NK)
            errors |= {int(good_N[row]): error for row, error in wrong.items()}
        remarks = Remarks()
        truths, truth_sets = self._read_truths(chunk, remarks)
        return Scored(
            chunk.ids,
            dict(sorted(errors.items())),
            index_NT,
            probability_NT,
            all_NK,
            truths,
            chunk.kept,
            given,
            truth_sets,
            decoded.damaged,
            remarks,
            decoded.by_card,
        )

    def _read_truths(
        self, chunk: Chunk, remarks: Remarks
    ) -> tuple[list[int], list[frozenset[int] | None]]:
        """Return the true label of each row, or of a multi-label model all of them."""
        truths, is_declared = self._truths, chunk.is_declared
        if self._thresholds:
            several = truths.several
            return [], [
                several(truth, is_declared=is_declared, remarks=remarks) for truth in chunk.truths
            ]
        one = truths.one
        return [one(truth, is_declared=is_declared, remarks=remarks) for truth in chunk.truths], []


def _rank(probabilities_NK: NDArray[np.float32], top: int) -> NDArray[np.intp]:
    """Return int [N, top] as ``postprocess.rank`` does, with a faster path for the best alone."""
    if top == 1:
        best_N1: NDArray[np.intp] = probabilities_NK.argmax(axis=1, keepdims=True)
        return best_N1
    return rank(probabilities_NK, top)
