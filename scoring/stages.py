"""The computing stages: a chunk is decoded and run, and its results come out as columns.

Decode and run follow each other on one thread. Several threads do so at once, each on its own
chunk: every core is busy whatever the two cost, no image waits for another chunk's, and a thread
holds at most one decoded chunk.

Layout legend: N rows, H height, W width, C channels, K classes, T most probable classes.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.image import MAX_PIXELS, ImageError, Pixels, TooManyPixelsError, encode_png
from scoring.local import LocalModel
from scoring.marks import Marks, decode_alone
from scoring.rows import Chunk, Image, LostError, ScoreError
from scoring.truths import Remarks, Truths
from service.pipeline.postprocess import choose_labels, not_finite, rank

# An error may quote what a file holds, such as a name of 64 KiB in a zip.
_ERROR_CHARACTERS = 1000


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
        self._marks = marks
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
        pixels_NHWC, good_N, errors, damaged = self._decode(chunk)
        rows, top = len(chunk.ids), min(self._output.top, self._classes)
        index_NT = np.zeros((rows, top), np.int32)
        probability_NT = np.zeros((rows, top), np.float32)
        all_NK = np.zeros((rows, self._classes), np.float32) if self._output.probabilities else None
        given: list[list[int]] = [[] for _ in range(rows)] if self._thresholds else []
        if len(good_N):
            probabilities_NK = self._model.run_batch(pixels_NHWC)
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
            damaged,
            remarks,
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

    def _decode(
        self, chunk: Chunk
    ) -> tuple[Pixels, NDArray[np.intp], dict[int, str], dict[int, str]]:
        """Return pixels and numbers of the good rows, the errors of the others, and damage."""
        shape_HWC = self._model.artifact.image.shape_HWC
        if isinstance(chunk.images, np.ndarray):
            pixels = chunk.images if chunk.images.ndim == 4 else chunk.images[..., None]
            if pixels.shape[1:] == shape_HWC:
                return pixels, np.arange(len(pixels)), {}, {}
            # Lossless: the result is the service's for the same picture sent as a PNG.
            images: list[Image] = [encode_png(image_HWC) for image_HWC in pixels]
        else:
            images = chunk.images
        pixels_NHWC = np.empty((len(images), *shape_HWC), np.uint8)
        good: list[int] = []
        errors: dict[int, str] = {}
        damaged: dict[int, str] = {}
        marks, (source, first) = self._marks, chunk.place
        for number, image in enumerate(images):
            is_trusted = marks is None or marks.begin(source, first + number)
            row = self._decode_row(
                image, is_trusted=is_trusted, on_damage=partial(damaged.__setitem__, number)
            )
            if self._output.strict and number in damaged:
                row = f"image: expected a JPEG without damage, got: {damaged.pop(number)}"
            if isinstance(row, str):
                errors[number] = (
                    row if len(row) <= _ERROR_CHARACTERS else f"{row[:_ERROR_CHARACTERS]}…"
                )
            else:
                pixels_NHWC[len(good)] = row
                good.append(number)
        if marks is not None:
            marks.end()
        return pixels_NHWC[: len(good)], np.array(good, np.intp), errors, damaged

    def _decode_row(
        self, image: Image, *, is_trusted: bool, on_damage: Callable[[str], None]
    ) -> Pixels | str:
        if isinstance(image, ScoreError):
            return str(image)
        try:
            encoded = image if isinstance(image, bytes) else image.read()
            if is_trusted:
                return self._model.decode(encoded, on_damage, self._output.max_image_pixels)
            return decode_alone(encoded, self._model.artifact.image, self._output.max_image_pixels)
        except LostError:
            raise
        except TooManyPixelsError as error:
            return f"{error}; raise --max-image-pixels"
        except (ImageError, ScoreError) as error:
            return str(error)
        except Exception as error:  # a decoder's bug is one row's error, not the end of the job
            return f"image: could not be decoded: {type(error).__name__}"


def _rank(probabilities_NK: NDArray[np.float32], top: int) -> NDArray[np.intp]:
    """Return int [N, top] as ``postprocess.rank`` does, with a faster path for the best alone."""
    if top == 1:
        best_N1: NDArray[np.intp] = probabilities_NK.argmax(axis=1, keepdims=True)
        return best_N1
    return rank(probabilities_NK, top)
