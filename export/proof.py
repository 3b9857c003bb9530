"""The wrapped graph must answer as the foreign one does, or nothing is published.

The foreign graph runs as it came, on pixels prepared by NumPy; both run in the sandbox.
Legend: N rows, K classes.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from export.errors import AdoptError
from export.sandbox import Bounds, run_bounded
from export.wrap import Foreign, GraphInput, expose
from models.artifact import Parity

# One row alone, the smallest batch, and an odd one that fills no vector register.
BATCH_SIZES = (1, 2, 7)
# What the self-test of every load allows between one machine and another.
TOLERANCE = 1e-4


@dataclass(frozen=True, slots=True)
class Answers:
    """What a graph says: logits_NK and probabilities_NK, both float32 [N, K]."""

    logits_NK: NDArray[np.float32]
    probabilities_NK: NDArray[np.float32]


def run_foreign(foreign: Foreign, images_NHWC: NDArray[np.uint8], bounds: Bounds) -> Answers:
    """Ask the foreign graph, in the batches that it takes.

    Args:
        foreign: The graph, which runs as it came.
        images_NHWC: uint8 [N, H, W, C].
        bounds: What it may use.

    Raises:
        AdoptError: It cannot be run, or gives no K numbers a row.
    """
    given, answer, classes = foreign.given, foreign.answer, foreign.classes
    content = expose(foreign).SerializeToString()
    rows = given.batch or 1
    # The last batch is filled up with the first images again.
    wanted = np.arange(-(-len(images_NHWC) // rows) * rows) % len(images_NHWC)
    prepared = given.prepare(images_NHWC[wanted], foreign.options)
    batches = [prepared[start : start + rows] for start in range(0, len(prepared), rows)]
    runs = run_bounded(content, batches, bounds)
    names = [name for name in (answer.logits, answer.probabilities) if name is not None]
    outputs: dict[str, NDArray[np.float32]] = {}
    for name, parts in zip(names, zip(*runs, strict=True), strict=True):
        if any(part.size != rows * classes for part in parts):
            raise AdoptError(
                f'output "{name}": expected {classes} numbers a row, one for each label, '
                f"got shape {list(parts[0].shape)} for {rows} rows"
            )
        whole = np.concatenate([part.reshape(rows, classes) for part in parts])
        outputs[name] = whole[: len(images_NHWC)].astype(np.float32)
    logits_NK = outputs.get(answer.logits or "")
    probabilities_NK = outputs.get(answer.probabilities or "")
    if probabilities_NK is None:
        assert logits_NK is not None, "a graph answers something; this is a bug"
        probabilities_NK = _softmax(logits_NK)
    if logits_NK is None:
        logits_NK = np.log(probabilities_NK + np.float32(1e-38))
    return Answers(logits_NK, probabilities_NK)


def run_wrapped(
    content: bytes, images_NHWC: NDArray[np.uint8], batch_size: int, bounds: Bounds
) -> Answers:
    """Ask a graph of the contract, in batches of one size and a smaller last one."""
    starts = range(0, len(images_NHWC), batch_size)
    batches = [images_NHWC[start : start + batch_size] for start in starts]
    runs = run_bounded(content, batches, bounds)
    logits, probabilities = (np.concatenate(parts) for parts in zip(*runs, strict=True))
    return Answers(logits, probabilities)


def compare(expected: Answers, got: dict[int, Answers], given: GraphInput) -> Parity:
    """Compare the wrapped graph's answers with the foreign one's.

    Args:
        expected: The foreign graph's.
        got: Batch size to the wrapped graph's.
        given: The foreign graph's input.

    Raises:
        AdoptError: A probability differs by more than the tolerance, or another class is first.
    """
    sums = expected.probabilities_NK.sum(axis=1)
    if not (np.abs(sums - 1).max() < 1e-3 and expected.probabilities_NK.min() >= -1e-6):
        raise AdoptError(
            f"expected probabilities that sum to 1, got {sums.min():.4g} to {sums.max():.4g}: "
            "say --gives logits if the output is before the softmax"
        )
    logit_difference = probability_difference = 0.0
    for size, answers in got.items():
        if answers.probabilities_NK.shape != expected.probabilities_NK.shape:
            raise AdoptError(
                f"expected {len(expected.logits_NK)} rows out at batch size {size}, "
                f"got {len(answers.logits_NK)}: {_advice(given)}"
            )
        logit_difference = max(logit_difference, _difference(expected.logits_NK, answers.logits_NK))
        probability_difference = max(
            probability_difference,
            _difference(expected.probabilities_NK, answers.probabilities_NK),
        )
    if not probability_difference <= TOLERANCE:
        raise AdoptError(
            f"wrapped against foreign graph on {len(sums)} images: expected probabilities within "
            f"{TOLERANCE:g}, got {probability_difference:.3g}; not published: {_advice(given)}"
        )
    agreement = _agreement(expected, got)
    return Parity(len(sums), tuple(got), logit_difference, probability_difference, agreement)


def _agreement(expected: Answers, got: dict[int, Answers]) -> float:
    """Share of rows whose first class is the foreign graph's, or as probable to the tolerance."""
    best_N = expected.probabilities_NK.max(axis=1)
    rows = np.arange(len(best_N))
    shares = []
    for answers in got.values():
        chosen_N = expected.probabilities_NK[rows, answers.probabilities_NK.argmax(axis=1)]
        shares.append(float((best_N - chosen_N <= TOLERANCE).mean()))
    return min(shares)


def _advice(given: GraphInput) -> str:
    if given.batch is None:
        return "this graph mixes the rows of a batch, or its options are not what it was made for"
    return (
        f"its batch size is fixed to {given.batch} in a way that cannot be undone here; export it "
        "with a free batch size"
    )


def _softmax(logits_NK: NDArray[np.float32]) -> NDArray[np.float32]:
    values = logits_NK.astype(np.float64)
    powers = np.exp(values - values.max(axis=1, keepdims=True))
    probabilities: NDArray[np.float32] = powers / powers.sum(axis=1, keepdims=True)
    return probabilities.astype(np.float32)


def _difference(expected: NDArray[np.float32], got: NDArray[np.float32]) -> float:
    """Return the largest absolute difference; NaN on either side is infinitely far."""
    difference = float(np.abs(expected - got).max())
    return difference if np.isfinite(difference) else float("inf")
