"""Run a graph of ours: in this process, by the service's session on the CPU.

A foreign graph runs in ``sandbox`` instead. Legend: N rows, H height, W width, C channels,
K classes, G golden images.
"""

from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from export.precision import MAX_ACCURACY_DROP, GateTerms, compare_gate
from export.proof import Answers, run_batches
from models.evidence import Gate
from models.machine import available_cpus
from service.session.plans import Plan
from service.session.session import Session

# Rows of a batch over a whole split: large enough that the cost of a call does not show, and of
# photographs so few that their activations fit into memory.
_ROWS = 256
_PIXELS = _ROWS * 64 * 64


def open_session(content: bytes | Path) -> Session:
    """Open a graph of the contract, its bytes or its path, on all available cores."""
    return Session(content, Plan(threads=available_cpus()))


def run_images(session: Session, images_NHWC: NDArray[np.uint8]) -> Answers:
    """Run any number of images, uint8 [N, H, W, C]; return logits and probabilities [N, K]."""
    height, width = images_NHWC.shape[1:3]
    rows = max(1, min(_ROWS, _PIXELS // (height * width)))
    return run_batches(session.run, images_NHWC, rows)


def run_output(content: bytes, name: str, images_NHWC: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Run any output of a graph of ours, in one batch of images, uint8 [N, H, W, C]."""
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    (values,) = session.run([name], {"images": images_NHWC})
    return np.asarray(values, np.float32)


def measure_gate(
    expected_NK: NDArray[np.float32],
    content: bytes,
    images_NHWC: NDArray[np.uint8],
    targets_N: NDArray[np.int64],
    golden_NHWC: NDArray[np.uint8],
    max_accuracy_drop: float = MAX_ACCURACY_DROP,
) -> Gate:
    """Compare a graph of lower precision with the fp32 graph on the test split.

    Args:
        expected_NK: float32 [N, K], probabilities that the fp32 graph gives.
        content: The graph of lower precision.
        images_NHWC: uint8 [N, H, W, C] that neither training nor calibration has seen.
        targets_N: int64 [N].
        golden_NHWC: uint8 [G, H, W, C], the golden images as a load decodes them.
        max_accuracy_drop: Share that it may lose; ``check_gate`` compares.
    """
    session = open_session(content)
    _, got_NK = run_images(session, images_NHWC)
    _, golden_GK = run_batches(session.run, golden_NHWC, 1)
    return compare_gate(
        expected_NK,
        got_NK,
        targets_N,
        golden_GK,
        GateTerms("test", max_accuracy_drop),
    )
