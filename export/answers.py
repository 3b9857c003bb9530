"""The answers that a model's own pipeline gives to image files: what adoption must reach.

Legend: N files, K classes.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Expected:
    """The answers of the model's own pipeline, from encoded files to probabilities.

    Attributes:
        files: The image files.
        probabilities_NK: float32 [N, K], 0-1; a row a file, a column a label.
        reference: Whose answers these are, for people: a command, or a file of answers.
        max_pixel_difference: Largest difference of the pixels, 0-255; None: not compared.
        is_difference_accepted: Whether the user accepts that the answers differ.
    """

    files: tuple[Path, ...]
    probabilities_NK: NDArray[np.float32]
    reference: str
    max_pixel_difference: float | None = None
    is_difference_accepted: bool = False


def probabilities(outputs_NK: NDArray[np.float32], gives: str | None) -> NDArray[np.float32]:
    """Turn the outputs of a network into probabilities.

    Args:
        outputs_NK: float32 [N, K].
        gives: What the outputs are; None: ``probabilities`` if all rows are, else ``logits``.

    Returns:
        float32 [N, K]; of one output, [N, 2]: its rest and itself.
    """
    values = outputs_NK.astype(np.float64)
    if gives is None and are_probabilities(outputs_NK):
        gives = "probabilities"
    if gives != "probabilities":
        if values.shape[1] == 1:
            values = 1 / (1 + np.exp(-values))
        else:
            powers = np.exp(values - values.max(axis=1, keepdims=True))
            values = powers / powers.sum(axis=1, keepdims=True)
    if values.shape[1] == 1:
        values = np.concatenate([1 - values, values], axis=1)
    return values.astype(np.float32)


def are_probabilities(outputs_NK: NDArray[np.float32]) -> bool:
    """Return whether every row lies in 0-1 and sums to 1."""
    inside = outputs_NK.min() >= 0 and outputs_NK.max() <= 1
    return bool(inside and np.abs(outputs_NK.sum(axis=1) - 1).max() < 1e-3)
