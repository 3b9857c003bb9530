"""The verify stage: onnxruntime must answer as torch does, or nothing is published.

Legend: N rows, K classes.
"""

from collections.abc import Sequence

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray

from models.artifact import Parity
from training.datasets.splits import Split
from training.errors import ParityError
from training.export import ServedNetwork

# One row alone, the smallest batch, an odd one that fills no vector register, and a full one.
BATCH_SIZES = (1, 2, 7, 64)

# Enough to see every class many times; at batch size 1 it takes about a second.
MAX_IMAGES = 1024

# Float32 sums in another order differ by about 1e-6 here; a wrong constant differs by far more.
TOLERANCE = 1e-5

Outputs = tuple[NDArray[np.float32], NDArray[np.float32]]


def verify(
    network: ServedNetwork,
    content: bytes,
    split: Split,
    *,
    batch_sizes: Sequence[int] = BATCH_SIZES,
    tolerance: float = TOLERANCE,
) -> Parity:
    """Compare torch and onnxruntime on real images at several batch sizes.

    Args:
        network: The reference, put into evaluation mode.
        content: The ONNX file as it would be published.
        split: Real images; the first 1,024 are used.
        batch_sizes: Rows a run, each size over all the images.
        tolerance: Largest difference between two probabilities that is still the same answer.

    Returns:
        The largest differences that were seen.

    Raises:
        ParityError: A probability differs by more than the tolerance, or a label differs.
    """
    session = open_session(content)
    images_NHWC = split.images_NHWC[:MAX_IMAGES]
    logit_difference = probability_difference = 0.0
    same = compared = 0
    for batch_size in batch_sizes:
        for start in range(0, len(images_NHWC), batch_size):
            rows = np.ascontiguousarray(images_NHWC[start : start + batch_size])
            expected, got = _run_torch(network, rows), run_session(session, rows)
            logit_difference = max(logit_difference, _difference(expected[0], got[0]))
            probability_difference = max(probability_difference, _difference(expected[1], got[1]))
            same += int((expected[1].argmax(axis=1) == got[1].argmax(axis=1)).sum())
            compared += len(rows)
    agreement = same / compared
    # Written so that NaN, which compares as false, is refused too.
    if not (probability_difference <= tolerance and agreement == 1):
        raise ParityError(
            f"onnxruntime against torch on {len(images_NHWC)} images: expected probabilities "
            f"within {tolerance:g} and the same labels, got {probability_difference:.3g} "
            f"and {agreement:.2%} of the labels; not published"
        )
    return Parity(
        len(images_NHWC), tuple(batch_sizes), logit_difference, probability_difference, agreement
    )


def open_session(content: bytes) -> onnxruntime.InferenceSession:
    """Open a serialized model with onnxruntime's CPU provider and its defaults."""
    onnxruntime.disable_telemetry_events()
    return onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])


def run_session(session: onnxruntime.InferenceSession, images_NHWC: NDArray[np.uint8]) -> Outputs:
    """Run one batch, uint8 [N, H, W, C]; return logits and probabilities, float32 [N, K]."""
    logits_NK, probabilities_NK = session.run(["logits", "probabilities"], {"images": images_NHWC})
    return logits_NK, probabilities_NK


def _run_torch(network: ServedNetwork, images_NHWC: NDArray[np.uint8]) -> Outputs:
    with torch.inference_mode():
        logits_NK, probabilities_NK = network.eval()(torch.from_numpy(images_NHWC))
    return logits_NK.numpy(), probabilities_NK.numpy()


def _difference(expected: NDArray[np.float32], got: NDArray[np.float32]) -> float:
    """Return the largest absolute difference; NaN on either side is infinitely far."""
    difference = float(np.abs(expected - got).max())
    return difference if np.isfinite(difference) else float("inf")
