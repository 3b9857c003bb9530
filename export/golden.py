"""Golden images: a few images with known answers that every load replays.

Legend: N rows, H height, W width, C channels, K classes.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from export.draft import DraftGolden
from models.artifact import ImageSpec
from models.image import decode, encode_png

GOLDEN_IMAGES = 8
# Where they are looked for: enough rows to see every class, and the same ones for every split size.
_CANDIDATES = 1024


def choose_golden(
    probabilities_NK: NDArray[np.float32], targets_N: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Choose up to 8 rows: the first right answer of each class, then the next right ones.

    Args:
        probabilities_NK: float32 [N, K], answers to the test split.
        targets_N: int64 [N], its targets.

    Returns:
        Row numbers, int64, one for each class as far as 8 rows reach.
    """
    targets_N = targets_N[:_CANDIDATES]
    is_right_N = probabilities_NK[:_CANDIDATES].argmax(axis=1) == targets_N
    # Without a right answer take wrong ones: a self-test needs known answers, not right ones.
    right = np.flatnonzero(is_right_N) if is_right_N.any() else np.arange(len(is_right_N))
    _, first_of_class = np.unique(targets_N[right], return_index=True)
    firsts = right[np.sort(first_of_class)]
    others = np.setdiff1d(right, firsts)
    return np.concatenate([firsts, others])[:GOLDEN_IMAGES]


def draft_golden(
    images_NHWC: NDArray[np.uint8],
    spec: ImageSpec,
    labels_N: Sequence[str],
    probabilities_NK: NDArray[np.float32],
) -> tuple[DraftGolden, ...]:
    """Encode golden images and keep their answers.

    Args:
        images_NHWC: uint8 [N, H, W, C], of the model's size.
        spec: How a load decodes them.
        labels_N: Label of each.
        probabilities_NK: float32 [N, K], the graph's answer to each image alone.
    """
    golden = []
    for image, label, probabilities in zip(images_NHWC, labels_N, probabilities_NK, strict=True):
        encoded = encode_png(image)
        # The answers were computed from the pixels, a load computes them from the file.
        same = np.array_equal(decode(encoded, spec), image)
        assert same, "a PNG of the model's size decodes to its own pixels; this is a bug"
        golden.append(DraftGolden(encoded, label, tuple(map(float, probabilities))))
    return tuple(golden)
