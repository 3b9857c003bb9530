"""The loss functions, by name.

Every loss compares the softmax of the logits, which is the served output, with the one-hot target,
smoothed in the same way. Legend: N rows, K classes.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from training.options import check_name


def compute_loss(
    name: str, logits_NK: Tensor, targets_N: Tensor, label_smoothing: float = 0.0
) -> Tensor:
    """Compute the mean loss of a batch.

    Args:
        name: A key of ``LOSSES``.
        logits_NK: Floating, [N, K]; narrower types than float32 are widened first.
        targets_N: int64 [N], 0 <= target < K.
        label_smoothing: Share of the target spread over all classes, 0 <= share < 1.

    Returns:
        A scalar, >= 0.

    Raises:
        ConfigError: The name does not exist; the message lists those that do.
    """
    loss = check_name("loss", name, LOSSES)
    classes = logits_NK.shape[1]
    # bfloat16 is too coarse for a logarithm, and torch forbids binary cross-entropy in it.
    with torch.autocast(logits_NK.device.type, enabled=False):
        wide_NK = logits_NK if logits_NK.dtype == torch.float64 else logits_NK.float()
        wanted_NK = functional.one_hot(targets_N, classes).to(wide_NK.dtype)
        wanted_NK = wanted_NK * (1 - label_smoothing) + label_smoothing / classes
        return loss(wide_NK, wanted_NK)


def _bce(logits_NK: Tensor, wanted_NK: Tensor) -> Tensor:
    """Compute binary cross-entropy per class; for two classes it equals cross-entropy."""
    return functional.binary_cross_entropy(torch.softmax(logits_NK, dim=1), wanted_NK)


def _mse(logits_NK: Tensor, wanted_NK: Tensor) -> Tensor:
    return functional.mse_loss(torch.softmax(logits_NK, dim=1), wanted_NK)


def _cosine(logits_NK: Tensor, wanted_NK: Tensor) -> Tensor:
    """Compute 1 - cos of the angle: 0 for the same direction, 1 for a right angle."""
    return (1 - functional.cosine_similarity(torch.softmax(logits_NK, dim=1), wanted_NK)).mean()


# Logits and wanted probabilities, both floating [N, K], to a scalar.
LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "bce": _bce,
    "cosine": _cosine,
    "cross_entropy": functional.cross_entropy,
    "mse": _mse,
}
