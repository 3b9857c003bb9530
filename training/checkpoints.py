"""What of a run survives a kill: its checkpoints, written so that one is always whole.

``best.ckpt`` has the weights that were best on validation, ``last.ckpt`` everything that the next
epoch depends on: weights, optimizer, schedule, moving average, patience, best score so far, and the
rows of ``metrics.csv``. A run is exported from the one that it keeps. Random numbers need no state:
each epoch draws its own from the seed and its number. So at worst the epoch that was cut off is
done again, and it comes out the same.
"""

import os
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from lightning_fabric.plugins.io import TorchCheckpointIO
from pytorch_lightning.callbacks import Checkpoint, EarlyStopping

from models.files import replacing

CHECKPOINT = Path("checkpoints") / "best.ckpt"
LAST_CHECKPOINT = CHECKPOINT.with_name("last.ckpt")

# What the best checkpoint, early stopping and the reader of the curves go by.
MONITOR = "validation_accuracy"


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes beside the target and renames.

    Lightning's own writer goes through ``/tmp``; when that is another file system, its move is a
    copy, and a kill in the middle of it leaves half a checkpoint.
    """

    def save_checkpoint(
        self,
        checkpoint: dict[str, Any],
        path: str | os.PathLike[str],
        storage_options: Any | None = None,  # noqa: ARG002  # Lightning's signature
    ) -> None:
        """Write a checkpoint; whoever looks sees the old one or the new one."""
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        with replacing(target) as file:
            torch.save(checkpoint, file)


class BestAndLast(Checkpoint):
    """Keeps both checkpoints, once an epoch, after everything else about the epoch is known.

    Lightning's ModelCheckpoint would write the last one only with a new best one (2.6), and would
    forget the best score when the run folder is moved.

    Args:
        run: The run folder.
    """

    def __init__(self, run: Path):
        self._run = run
        self._best: float | None = None

    def on_train_epoch_end(self, trainer: pl.Trainer, _module: pl.LightningModule) -> None:
        """Save; if killed between the two, the epoch is done again and gives both again."""
        score = float(trainer.callback_metrics[MONITOR])
        if self._best is None or score > self._best:
            self._best = score
            trainer.save_checkpoint(self._run / CHECKPOINT)
        trainer.save_checkpoint(self._run / LAST_CHECKPOINT)

    def state_dict(self) -> dict[str, Any]:
        """Return the best score so far."""
        return {"best": self._best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up the best score."""
        self._best = state_dict["best"]


class Patience(EarlyStopping):
    """Stops after so many epochs without a better validation accuracy.

    Args:
        epochs: How many, at least 1.
    """

    def __init__(self, epochs: int):
        super().__init__(MONITOR, patience=epochs, mode="max")

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stop again where the run had already stopped when it was killed."""
        super().on_train_start(trainer, pl_module)
        trainer.should_stop = trainer.should_stop or self.wait_count >= self.patience
