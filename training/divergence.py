"""When a run has diverged: its loss is not a number, or it answers the same whatever it sees.

Such a run ends with one line, writes no results, and is never exported.
"""

import math
from typing import Any

import numpy as np
import pytorch_lightning as pl
from numpy.typing import NDArray
from pytorch_lightning.callbacks import Callback

from training.config import TrainConfig
from training.errors import RunError

# Batches between two looks at the loss within an epoch; on a GPU a look waits for the GPU.
_EVERY = 50
# Epochs with the same logits for every image before a run ends: such a network does not recover.
_CONSTANT_EPOCHS = 2
# Logits that differ by less are the same.
_SAME = 1e-6


class Divergence(Callback):
    """Ends a run whose loss is not finite, or whose logits are the same for all images.

    It is asked before a checkpoint is saved, so the last checkpoint has finite weights.

    Args:
        config: Named in the message.
    """

    def __init__(self, config: TrainConfig):
        self._config = config
        self._constant = 0

    def on_train_batch_end(  # Lightning's signature
        self,
        trainer: pl.Trainer,
        _module: pl.LightningModule,
        outputs: Any,
        _batch: Any,
        index: int,
    ) -> None:
        """Look at the loss now and then; with several devices only after the epoch."""
        if index % _EVERY == 0 and trainer.world_size == 1:
            self._check(trainer, float(outputs["loss"]))

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Look at the figures of the epoch; validation has run before this hook."""
        for name in ("train_loss", "validation_loss"):
            self._check(trainer, float(trainer.callback_metrics[name]))
        self._constant = self._constant + 1 if pl_module.spread < _SAME else 0  # type: ignore[operator]
        if self._constant >= _CONSTANT_EPOCHS:
            raise RunError(
                f"{self._config.run}: expected answers that depend on the image, got the same for "
                f"all validation images in {_CONSTANT_EPOCHS} epochs; {_advice(self._config)}"
            )

    def _check(self, trainer: pl.Trainer, loss: float) -> None:
        if not math.isfinite(loss):
            raise RunError(
                f"{self._config.run}: expected a finite loss, got {loss} in epoch "
                f"{trainer.current_epoch + 1}, step {trainer.global_step}; {_advice(self._config)}"
            )

    def state_dict(self) -> dict[str, Any]:
        """Return the number of constant epochs."""
        return {"constant": self._constant}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the number."""
        self._constant = state_dict["constant"]


def check_answers(
    config: TrainConfig, answers_N: NDArray[np.int64], labels: tuple[str, ...]
) -> None:
    """Refuse a network that has one answer for all images.

    Args:
        config: Named in the message.
        answers_N: int64 [N], the predicted label of each image of all splits that are measured.
        labels: The class names.

    Raises:
        RunError: All answers are the same.
    """
    if len(np.unique(answers_N)) == 1:
        raise RunError(
            f"{config.run}: expected answers that depend on the image, got "
            f"{labels[answers_N[0]]!r} for all {len(answers_N)} validation and test images; "
            f"{_advice(config)}"
        )


def _advice(config: TrainConfig) -> str:
    weights = "" if config.class_weights != "none" else ", or --class-weights balanced"
    clip = "--clip 1, " if not config.clip else ""
    return (
        f"try a lower --lr (now {config.lr:g}), {clip}more --epochs{weights}; nothing was measured"
    )
