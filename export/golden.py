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


def encode_golden(
    images_NHWC: NDArray[np.uint8], spec: ImageSpec
) -> tuple[list[bytes], NDArray[np.uint8]]:
    """Encode golden images.

    Args:
        images_NHWC: uint8 [N, H, W, C], of the model's size.
        spec: How a load decodes them.

    Returns:
        The files, and uint8 [N, H, W, C] that a load decodes them to: the images themselves, unless
        the geometry also changes pictures of the model's own size.
    """
    files = [encode_png(image) for image in images_NHWC]
    decoded_NHWC = np.stack([decode(file, spec) for file in files])
    same = np.array_equal(decoded_NHWC, images_NHWC)
    assert same or not spec.keeps_own_size, (
        "a PNG of the model's size decodes to its own pixels; this is a bug"
    )
    return files, decoded_NHWC


def draft_golden(
    files: Sequence[bytes], labels: Sequence[str], probabilities_NK: NDArray[np.float32]
) -> tuple[DraftGolden, ...]:
    """Join golden images with their answers.

    Args:
        files: N PNG files.
        labels: Label of each class, K.
        probabilities_NK: float32 [N, K], the graph's answer to each image alone.
    """
    return tuple(
        DraftGolden(file, labels[int(row.argmax())], tuple(map(float, row)))
        for file, row in zip(files, probabilities_NK, strict=True)
    )
