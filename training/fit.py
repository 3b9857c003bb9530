"""The fit stage: weights from the training split, the checkpoint from the validation split.

Lightning drives the loop; this file says what one step is and what is written down. It is never
given the test split.
"""

import logging
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import (
    Callback,
    EMAWeightAveraging,
    ModelCheckpoint,
    TQDMProgressBar,
)
from pytorch_lightning.loggers import CSVLogger
from torch import Tensor
from torch.nn import functional
from torchmetrics.classification import MulticlassAccuracy

from training.augment import Augment
from training.batches import Batch, InMemoryData
from training.config import TrainConfig
from training.datasets import Dataset
from training.networks import ImageNetwork, build_network
from training.optimizers import build_optimizer, build_schedule
from training.splits import pixel_statistics

_LOG = logging.getLogger(__name__)

CHECKPOINT = Path("checkpoints") / "best.ckpt"


class FitModule(pl.LightningModule):
    """One training step, one validation step, and the optimizer.

    Args:
        network: What to fit.
        config: Chooses the loss, the optimizer and the schedule.
        classes: K.
    """

    def __init__(self, network: ImageNetwork, config: TrainConfig, classes: int):
        super().__init__()
        self.network = network
        self.config = config
        self.train_accuracy = MulticlassAccuracy(num_classes=classes, average="micro")
        self.validation_accuracy = MulticlassAccuracy(num_classes=classes, average="micro")

    def training_step(self, batch: Batch, _index: int) -> Tensor:
        """Return the loss of one batch, uint8 [N, H, W, C] and int64 [N]."""
        images_NHWC, targets_N = batch
        logits_NK = self.network(images_NHWC)
        loss = functional.cross_entropy(
            logits_NK, targets_N, label_smoothing=self.config.label_smoothing
        )
        self.train_accuracy(logits_NK, targets_N)
        self.log("train_loss", loss, on_step=False, on_epoch=True, batch_size=len(targets_N))
        self.log("train_accuracy", self.train_accuracy, on_step=False, on_epoch=True, prog_bar=True)
        return loss

    def validation_step(self, batch: Batch, _index: int) -> None:
        """Measure one batch, in float32 as served, without label smoothing."""
        images_NHWC, targets_N = batch
        with torch.autocast(self.device.type, enabled=False):
            logits_NK = self.network(images_NHWC)
        loss = functional.cross_entropy(logits_NK, targets_N)
        self.validation_accuracy(logits_NK, targets_N)
        self.log("validation_loss", loss, batch_size=len(targets_N))
        self.log("validation_accuracy", self.validation_accuracy, prog_bar=True)

    def on_train_epoch_end(self) -> None:
        """Write down the learning rate that the epoch ended with."""
        self.log("lr", self.trainer.optimizers[0].param_groups[0]["lr"])

    def configure_optimizers(self) -> Any:
        """Build the optimizer and a schedule that steps with each batch."""
        optimizer = build_optimizer(self.config, self.network)
        steps = int(self.trainer.estimated_stepping_batches)
        schedule = build_schedule(self.config, optimizer, steps)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }


class _EpochLog(Callback):
    """One log line an epoch, for runs whose progress bar nobody watches."""

    def on_train_epoch_start(self, *_: Any) -> None:
        """Start the clock."""
        self._started_s = time.monotonic()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Say how the epoch went; validation has run by now."""
        assert isinstance(pl_module, FitModule), "fitted something else; this is a bug"
        seen = trainer.callback_metrics
        _LOG.info(
            "epoch %d of %d: loss %.4f, train %.4f, validation %.4f, %.1f s",
            trainer.current_epoch + 1,
            pl_module.config.epochs,
            seen["train_loss"],
            seen["train_accuracy"],
            seen["validation_accuracy"],
            time.monotonic() - self._started_s,
        )


def fit(config: TrainConfig, dataset: Dataset, *, show_progress: bool) -> ImageNetwork:
    """Fit a network and return it with the weights of the best checkpoint.

    Writes ``metrics.csv`` and the checkpoint under ``config.run``.

    Args:
        config: Says everything about the run.
        dataset: Only its training and validation splits are read.
        show_progress: Whether to draw a progress bar on stderr.

    Returns:
        The network with the weights that were best on validation, in evaluation mode.

    Raises:
        ConfigError: A name in the configuration does not exist.
    """
    with _quiet_lightning():
        pl.seed_everything(config.seed, verbose=False)
        network = untrained(config, dataset)
        module = FitModule(network, config, len(dataset.labels))
        augment = Augment(config.shift, config.flip, config.cutout)
        data = InMemoryData(
            dataset.train,
            dataset.validation,
            batch_size=config.batch_size,
            seed=config.seed,
            augment=augment,
        )
        _trainer(config, show_progress=show_progress).fit(module, data)
    return load_checkpoint(config, dataset)


def untrained(config: TrainConfig, dataset: Dataset) -> ImageNetwork:
    """Build the network of a run, with fresh weights and the training split's mean and deviation.

    Raises:
        ConfigError: A name in the configuration does not exist.
    """
    network = build_network(config, dataset.image_shape, len(dataset.labels))
    return ImageNetwork(network, *pixel_statistics(dataset.train))


def load_checkpoint(config: TrainConfig, dataset: Dataset) -> ImageNetwork:
    """Load the best checkpoint of a run, in evaluation mode.

    Raises:
        FileNotFoundError: The run has no checkpoint.
    """
    network = untrained(config, dataset)
    checkpoint = torch.load(config.run / CHECKPOINT, map_location="cpu", weights_only=True)
    prefix = "network."
    network.load_state_dict(
        {
            name.removeprefix(prefix): value
            for name, value in checkpoint["state_dict"].items()
            if name.startswith(prefix)
        }
    )
    return network.eval()


def _trainer(config: TrainConfig, *, show_progress: bool) -> pl.Trainer:
    best = ModelCheckpoint(
        config.run / CHECKPOINT.parent,
        CHECKPOINT.stem,
        monitor="validation_accuracy",
        mode="max",
        enable_version_counter=False,
    )
    callbacks: list[Callback] = [best, _EpochLog()]
    if config.ema:
        callbacks.append(EMAWeightAveraging(decay=config.ema))
    if show_progress:
        callbacks.append(TQDMProgressBar())
    return pl.Trainer(
        max_epochs=config.epochs,
        precision="bf16-mixed" if config.autocast == "bfloat16" else "32-true",
        # An empty version leaves metrics.csv in the run folder itself.
        logger=CSVLogger(config.run.parent, name=config.run.name, version=""),
        callbacks=callbacks,
        enable_progress_bar=show_progress,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        # Only epochs are logged; a larger number makes Lightning warn about short epochs.
        log_every_n_steps=1,
        # Each epoch has its own order and augmentation, see batches.
        reload_dataloaders_every_n_epochs=1,
    )


# The run folder holds run.json already; Lightning 2.6 calls a part of torch 2.13 by its old name.
_IRRELEVANT = (r"Experiment logs directory .* exists and is not empty", r".*LeafSpec")


@contextmanager
def _quiet_lightning() -> Iterator[None]:
    """Keep advertisements and advice for other programs out of the user's terminal."""
    logger = logging.getLogger("pytorch_lightning")
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            for message in _IRRELEVANT:
                warnings.filterwarnings("ignore", message)
            yield
    finally:
        logger.setLevel(level)
