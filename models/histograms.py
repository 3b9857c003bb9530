"""The statistics of images and answers that training writes down and the service samples.

The same formulas in both places, so that the two can be compared. Legend: N rows, K classes.
"""

import numpy as np
from numpy.typing import NDArray

# Pixels of an image that are sampled: enough for its mean and spread, few enough for the service.
MAX_PIXELS = 4096


def pixel_statistics(image_HWC: NDArray[np.uint8]) -> tuple[float, float]:
    """Return mean and standard deviation of an image's pixels, all channels together.

    Args:
        image_HWC: uint8 [H, W, C], contiguous. Of a large image every n-th value is taken.
    """
    channels = image_HWC.shape[2]
    step = max(1, image_HWC.size // MAX_PIXELS)
    step += channels > 1 and step % channels == 0  # else one channel would be all that is seen
    values = image_HWC.reshape(-1)[::step].astype(np.float32)
    mean = float(values.mean())
    values -= mean
    return mean, float(np.sqrt(values @ values / len(values)))


def entropy(probabilities_NK: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the entropy of each row, float64 [N], in nats, 0 to ln K."""
    rows: NDArray[np.float64] = _surprise(probabilities_NK.astype(np.float64)).sum(axis=1)
    return rows


def entropy_of_labels(probabilities_NK: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the entropy of each row of a multi-label model, float64 [N], in nats, 0 to K ln 2.

    The sum of its labels' own: each is there or not.
    """
    shares_NK = probabilities_NK.astype(np.float64)
    rows: NDArray[np.float64] = (_surprise(shares_NK) + _surprise(1 - shares_NK)).sum(axis=1)
    return rows


def _surprise(shares: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return -p ln p of each share, 0 of 0."""
    logs = np.log(shares, out=np.zeros_like(shares), where=shares > 0)
    return -(shares * logs)
