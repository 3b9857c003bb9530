"""The proof: a graph must answer as its reference does, or nothing is published.

The reference is the torch network for a trained model, and the graph as it came for an adopted one.
Knows answers as arrays; ``run`` and ``sandbox`` get them. Legend: N rows, H height, W width,
C channels, K classes.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from export.errors import ParityError
from models.evidence import Parity
from models.labels import are_given

# logits_NK and probabilities_NK, both float32 [N, K].
Answers = tuple[NDArray[np.float32], NDArray[np.float32]]
# From images_NHWC, uint8 [N, H, W, C], contiguous.
Run = Callable[[NDArray[np.uint8]], Answers]


def run_batches(run: Run, images_NHWC: NDArray[np.uint8], rows: int) -> Answers:
    """Run images in batches of ``rows`` and a smaller last one.

    Args:
        run: Answers one batch.
        images_NHWC: uint8 [N, H, W, C], N >= 1.
        rows: Rows of a batch.
    """
    starts = range(0, len(images_NHWC), rows)
    parts = [run(np.ascontiguousarray(images_NHWC[start : start + rows])) for start in starts]
    logits_NK, probabilities_NK = (np.concatenate(column) for column in zip(*parts, strict=True))
    return logits_NK, probabilities_NK


def compare(
    pairs: Mapping[int, tuple[Answers, Answers]],
    *,
    names: str,
    tolerance: float,
    tie: float = 0.0,
    advice: str = "",
    thresholds: Sequence[float] = (),
) -> Parity:
    """Compare a graph's answers with its reference's.

    Args:
        pairs: Batch size to the reference's and the graph's answers to the same images.
        names: What is compared, for the message.
        tolerance: Largest difference between two probabilities that is still the same answer.
        tie: Two classes whose probabilities differ by no more are both the first; 0: only one is.
        advice: How to fix a difference, for the message.
        thresholds: Of a multi-label model: least probability of each label.

    Raises:
        ParityError: Another number of rows, a probability that differs by more than the tolerance,
            or another label although ``tie`` is 0.
    """
    ending = f"not published{': ' + advice if advice else ''}"
    logit_difference = probability_difference = 0.0
    agreements = []
    images = 0
    for size, (expected, got) in pairs.items():
        images = len(expected[1])
        if got[1].shape != expected[1].shape:
            raise ParityError(
                f"{names} at batch size {size}: expected {images} rows out, got {len(got[1])}; "
                f"{ending}"
            )
        logit_difference = max(logit_difference, _difference(expected[0], got[0]))
        probability_difference = max(probability_difference, _difference(expected[1], got[1]))
        agreements.append(float(same_labels(expected[1], got[1], tie, thresholds).mean()))
    agreement = min(agreements)
    # Written so that NaN, which compares as false, is refused too.
    if not (probability_difference <= tolerance and (tie or agreement == 1)):
        raise ParityError(
            f"{names} on {images} images: expected probabilities within {tolerance:g} and the same "
            f"labels, got {probability_difference:.3g} and {agreement:.2%} of the labels; {ending}"
        )
    return Parity(images, tuple(pairs), logit_difference, probability_difference, agreement)


def same_labels(
    expected_NK: NDArray[np.float32],
    got_NK: NDArray[np.float32],
    tie: float,
    thresholds: Sequence[float] = (),
) -> NDArray[np.bool_]:
    """Return which rows get the same label, or of several the same ones, bool [N].

    Args:
        expected_NK: The reference's probabilities, float32 [N, K].
        got_NK: The graph's.
        tie: A class that is as probable to the reference's first one is the first, too; a
            probability that close to its threshold is on both sides of it.
        thresholds: Of a multi-label model: least probability of each label.
    """
    if thresholds:
        is_same_NK = are_given(expected_NK, thresholds) == are_given(got_NK, thresholds)
        is_near_NK = np.abs(expected_NK - np.array(thresholds)) <= tie
        is_same_N: NDArray[np.bool_] = (is_same_NK | is_near_NK).all(axis=1)
        return is_same_N
    chosen_N = got_NK.argmax(axis=1)
    is_same_N = chosen_N == expected_NK.argmax(axis=1)
    if tie:
        lead_N = expected_NK.max(axis=1) - expected_NK[np.arange(len(chosen_N)), chosen_N]
        is_same_N |= lead_N <= tie
    return is_same_N


def _difference(expected: NDArray[np.float32], got: NDArray[np.float32]) -> float:
    """Return the largest absolute difference; NaN on either side counts as infinite."""
    difference = float(np.abs(expected - got).max())
    return difference if np.isfinite(difference) else float("inf")
