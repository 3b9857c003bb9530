"""From decoded pixels to the size that a model takes: resize, crop and pad.

Layout legend: H height, W width, C channels (1 grey, 3 RGB).
"""

import cv2
import numpy as np
from numpy.typing import NDArray

from models.artifact import ImageSpec

Pixels = NDArray[np.uint8]

_INTERPOLATION = {
    "nearest": cv2.INTER_NEAREST,
    "linear": cv2.INTER_LINEAR,
    "cubic": cv2.INTER_CUBIC,
    "area": cv2.INTER_AREA,
}


def fit(image: NDArray[np.uint8], spec: ImageSpec) -> Pixels:
    """Resize decoded pixels by the spec's rule; the same size comes back untouched.

    Args:
        image: uint8 [H, W] or [H, W, C], any H and W.
        spec: Target size, rule (``stretch``: both sides to target; ``crop``: the centre of the
            target's proportions; ``pad``: the longer side to target, then black), interpolation.

    Returns:
        uint8 [spec.height, spec.width] or with C, 0-255, contiguous.
    """
    height, width = image.shape[:2]
    if (height, width) == (spec.height, spec.width):
        return image
    scales = spec.height / height, spec.width / width
    size = spec.height, spec.width
    if spec.resize == "crop":
        # Cut, then resize: a strip enlarged first, to be cut, would take any amount of memory.
        kept = [max(1, round(side / max(scales))) for side in size]
        top, left = (height - kept[0]) // 2, (width - kept[1]) // 2
        image = image[top : top + kept[0], left : left + kept[1]]
    elif spec.resize == "pad":
        size = max(1, round(height * min(scales))), max(1, round(width * min(scales)))
    resized = cv2.resize(image, size[::-1], interpolation=_INTERPOLATION[spec.interpolation])
    if spec.resize == "pad":
        top, left = (spec.height - size[0]) // 2, (spec.width - size[1]) // 2
        bottom, right = spec.height - size[0] - top, spec.width - size[1] - left
        resized = cv2.copyMakeBorder(resized, top, bottom, left, right, cv2.BORDER_CONSTANT)
    return np.ascontiguousarray(resized, dtype=np.uint8)
