"""Run a graph of ours: in this process, by the service's session on the CPU.

A foreign graph runs in ``sandbox`` instead.
"""

import numpy as np
from numpy.typing import NDArray

from export.proof import Answers, run_batches
from models.machine import available_cpus
from service.session.plans import Plan
from service.session.session import Session

# Rows of a batch over a whole split: large enough that the cost of a call does not show.
_ROWS = 256


def open_session(content: bytes) -> Session:
    """Open a serialized graph of the contract on all available cores."""
    return Session(content, Plan(threads=available_cpus()))


def run_images(session: Session, images_NHWC: NDArray[np.uint8]) -> Answers:
    """Run any number of images, uint8 [N, H, W, C]; return logits and probabilities [N, K]."""
    return run_batches(session.run, images_NHWC, _ROWS)
