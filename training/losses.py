"""The loss functions, by name.

Every loss compares the softmax of the logits, which is the served output, with the one-hot target,
smoothed in the same way. Legend: N rows, K classes.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional

from training.options import check_name


def compute_loss(
    name: str,
    logits_NK: Tensor,
    targets_N: Tensor,
    label_smoothing: float = 0.0,
    weights_K: Tensor | None = None,
) -> Tensor:
    """Compute the mean loss of a batch.

    Args:
        name: A key of ``LOSSES``.
        logits_NK: Floating, [N, K]; narrower types than float32 are widened first.
        targets_N: int64 [N], 0 <= target < K.
        label_smoothing: Share of the target spread over all classes, 0 <= share < 1.
        weights_K: Weight of each class, float32 [K], above 0; None: all count alike.

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
        loss_N = loss(wide_NK, wanted_NK)
        if weights_K is None:
            return loss_N.mean()
        weights_N = weights_K[targets_N]
        return (weights_N * loss_N).sum() / weights_N.sum()


def _bce(logits_NK: Tensor, wanted_NK: Tensor) -> Tensor:
    """Compute binary cross-entropy per class; for two classes it equals cross-entropy."""
    answers_NK = torch.softmax(logits_NK, dim=1)
    return functional.binary_cross_entropy(answers_NK, wanted_NK, reduction="none").mean(dim=1)


def _mse(logits_NK: Tensor, wanted_NK: Tensor) -> Tensor:
    answers_NK = torch.softmax(logits_NK, dim=1)
    return functional.mse_loss(answers_NK, wanted_NK, reduction="none").mean(dim=1)


def _cosine(logits_NK: Tensor, wanted_NK: Tensor) -> Tensor:
    """Compute 1 - cos of the angle: 0 for the same direction, 1 for a right angle."""
    return 1 - functional.cosine_similarity(torch.softmax(logits_NK, dim=1), wanted_NK)


# Logits and wanted probabilities, both floating [N, K], to a loss of each row, [N].
LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "bce": _bce,
    "cosine": _cosine,
    "cross_entropy": partial(functional.cross_entropy, reduction="none"),
    "mse": _mse,
}
