"""What is looked at to tell whether images still are what a model was trained on.

The one formula that training writes down and the service watches. Legend: N rows, K classes.
"""

import numpy as np
from numpy.typing import NDArray

# Pixels of an image that are looked at: enough for its mean and spread, few enough for the service.
MAX_PIXELS = 4096


def pixel_statistics(image_HWC: NDArray[np.uint8]) -> tuple[float, float]:
    """Return mean and standard deviation of an image's pixels, all channels together.

    Args:
        image_HWC: uint8 [H, W, C], contiguous. Of a large one every n-th value is taken.
    """
    channels = image_HWC.shape[2]
    step = max(1, image_HWC.size // MAX_PIXELS)
    step += channels > 1 and step % channels == 0  # else one channel would be all that is seen
    values = image_HWC.reshape(-1)[::step].astype(np.float32)
    mean = float(values.mean())
    values -= mean
    return mean, float(np.sqrt(values @ values / len(values)))


def entropy(probabilities_NK: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the entropy of each row, nats, 0 to ln K: float64 [N]."""
    shares = probabilities_NK.astype(np.float64)
    logs = np.log(shares, out=np.zeros_like(shares), where=shares > 0)
    rows: NDArray[np.float64] = -(shares * logs).sum(axis=1)
    return rows
