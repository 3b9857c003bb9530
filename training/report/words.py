"""What the plots of a run show, in words: for those who do not see them. Legend: K classes."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from training.report.curves import Epoch


def curve_words(epochs: Sequence[Epoch], kept: Epoch) -> str:
    """Return loss and accuracy at the first and at the kept epoch."""
    first = epochs[0]
    return (
        f"Over {len(epochs)} epochs the validation accuracy goes from "
        f"{first.validation_accuracy:.1%} to {kept.validation_accuracy:.1%} at the kept epoch, "
        f"{kept.epoch}; the training loss from {first.train_loss:.3g} to {kept.train_loss:.3g}."
    )


def learning_rate_words(epochs: Sequence[Epoch]) -> str:
    """Return where the learning rate begins, its highest value, and where it ends."""
    top = max(epochs, key=lambda epoch: epoch.lr)
    return (
        f"The learning rate is {epochs[0].lr:.3g} after the first epoch, at most {top.lr:.3g} "
        f"after epoch {top.epoch}, and {epochs[-1].lr:.3g} at the end."
    )


def confusion_words(confusion_KK: NDArray[np.int64], labels: Sequence[str]) -> str:
    """Return how many images are on the diagonal, and the most frequent confusion."""
    right, total = int(np.trace(confusion_KK)), int(confusion_KK.sum())
    wrong_KK = confusion_KK - np.diag(np.diag(confusion_KK))
    said = f"{right:,} of {total:,} test images are on the diagonal"
    if not wrong_KK.any():
        return f"{said}."
    true, given = divmod(int(wrong_KK.argmax()), wrong_KK.shape[1])
    count = f"{wrong_KK.max():,} of {confusion_KK[true].sum():,} times"
    return f"{said}; most often {labels[true]} is taken for {labels[given]}, {count}."


def reliability_words(before: float, after: float, temperature: float) -> str:
    """Return the calibration error without and with the temperature, both 0-1."""
    return (
        f"The calibration error is {before:.2%} without the temperature, {after:.2%} with "
        f"{temperature:.3g}."
    )
