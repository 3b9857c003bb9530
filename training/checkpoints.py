"""Checkpoints, written atomically: after a kill at any moment one is complete.

``best.ckpt`` has the best weights on validation, ``last.ckpt`` everything that the next epoch
depends on: weights, optimizer, schedule, moving average, patience, best score so far, and the
rows of ``metrics.csv``. ``keep`` chooses the one that is exported. Random numbers need no state:
each epoch derives its own from the seed and its number. So at worst the interrupted epoch runs
again, with the same result.
"""

import os
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from lightning_fabric.plugins.io import TorchCheckpointIO
from pytorch_lightning.callbacks import Checkpoint, EarlyStopping

from models.files import replacing
from training.early import OF_AN_INTERRUPTED_RUN

LAST_CHECKPOINT = Path(OF_AN_INTERRUPTED_RUN)
CHECKPOINT = LAST_CHECKPOINT.with_name("best.ckpt")

# The metric that chooses the best checkpoint and stops early.
MONITOR = "validation_accuracy"


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes checkpoints atomically: beside the target, then renamed.

    Lightning's own writer goes through ``/tmp``; when that is another file system, its move is a
    copy, and a kill during the copy leaves half a checkpoint.
    """

    def save_checkpoint(
        self,
        checkpoint: dict[str, Any],
        path: str | os.PathLike[str],
        storage_options: Any | None = None,  # noqa: ARG002  # Lightning's signature
    ) -> None:
        """Write a checkpoint; a reader sees the old one or the new one."""
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        with replacing(target) as file:
            torch.save(checkpoint, file)


class BestAndLast(Checkpoint):
    """Saves both checkpoints at the end of each epoch, after all its metrics are known.

    Lightning's ModelCheckpoint writes the last one only together with a new best one (2.6), and
    forgets the best score when the run folder is moved.

    Args:
        run: The run folder.
    """

    def __init__(self, run: Path):
        self._run = run
        self._best: float | None = None

    def on_train_epoch_end(self, trainer: pl.Trainer, _module: pl.LightningModule) -> None:
        """Save both; after a kill between the two, the epoch runs again and saves both again."""
        score = float(trainer.callback_metrics[MONITOR])
        if self._best is None or score > self._best:
            self._best = score
            trainer.save_checkpoint(self._run / CHECKPOINT)
        trainer.save_checkpoint(self._run / LAST_CHECKPOINT)

    def state_dict(self) -> dict[str, Any]:
        """Return the best score so far."""
        return {"best": self._best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the best score."""
        self._best = state_dict["best"]


class Patience(EarlyStopping):
    """Stops after a number of epochs without a better validation accuracy.

    Args:
        epochs: The number, at least 1.
    """

    def __init__(self, epochs: int):
        super().__init__(MONITOR, patience=epochs, mode="max")

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stop at once if the run had already stopped early when it was killed."""
        super().on_train_start(trainer, pl_module)
        trainer.should_stop = trainer.should_stop or self.wait_count >= self.patience
