"""What one run of a graph gives; imports neither onnxruntime nor CUDA.

Layout legend: N rows, K classes.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Outputs(NamedTuple):
    """The outputs of one run: logits_NK and probabilities_NK, both float32 [N, K]."""

    logits: NDArray[np.float32]
    probabilities: NDArray[np.float32]
