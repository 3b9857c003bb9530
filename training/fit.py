"""The fit stage: weights from the training split, the checkpoint from the validation split.

Lightning runs the loop; this module defines a step and the metrics. It never gets the test split.
"""

import logging
import math
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import pytorch_lightning as pl
import torch
from lightning_fabric.utilities.exceptions import MisconfigurationException
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.loggers import Logger
from torch import Tensor
from torchmetrics.classification import MulticlassAccuracy

from training.augment import Augment, mixup
from training.averaging import MovingAverage
from training.batches import Batch, InMemoryData, mix_seed
from training.checkpoints import (
    LAST_CHECKPOINT,
    MONITOR,
    AtomicCheckpointIO,
    BestAndLast,
    Patience,
)
from training.config import TrainConfig
from training.datasets.sources import Dataset
from training.datasets.splits import balancing_weights
from training.devices import PRECISIONS
from training.divergence import Divergence
from training.errors import ConfigError
from training.features import are_cached, features_of
from training.initial import load_checkpoint, untrained
from training.loggers import LoggerName, build_logger
from training.losses import compute_loss
from training.networks import ImageNetwork
from training.optimizers import build_optimizer, build_schedule
from training.progress import EpochLog, RunBar
from training.report.curves import Curves

# Called with the number of an epoch, from 0, and its validation accuracy.
Watch = Callable[[int, float], None]


class FitModule(pl.LightningModule):
    """One training step, one validation step, and the optimizer.

    Args:
        network: The network to fit.
        config: Names the loss, the optimizer and the schedule.
        classes: K.
        weights_K: Weight of each class in the loss, float32 [K]; None: all count alike.
        on_features: Whether batches hold the embeddings of images, float32 [N, D], in their place.
    """

    weights_K: Tensor | None

    def __init__(
        self,
        network: ImageNetwork,
        config: TrainConfig,
        classes: int,
        weights_K: Tensor | None = None,
        *,
        on_features: bool = False,
    ):
        super().__init__()
        self.network = network
        self.config = config
        # Not part of checkpoints: it follows from the data.
        self.register_buffer("weights_K", weights_K, persistent=False)
        self._range_2K: Tensor | None = None
        self.on_features = on_features
        self.train_accuracy = MulticlassAccuracy(num_classes=classes, average="micro")
        # What makes classes count alike in training also chooses the best epoch.
        average: Literal["micro", "macro"] = "micro" if config.class_weights == "none" else "macro"
        self.validation_accuracy = MulticlassAccuracy(num_classes=classes, average=average)

    def on_train_epoch_start(self) -> None:
        """Seed dropout by the epoch, so a resumed run draws the same masks."""
        torch.manual_seed(mix_seed(self.config.seed, self.current_epoch, self.global_rank + 1, 1))

    def training_step(self, batch: Batch, _index: int) -> Tensor:
        """Return the loss of one batch, uint8 [N, H, W, C] and int64 [N]."""
        images, targets_N = batch
        blend = mixup(images, self.config.mixup) if self.config.mixup else None
        logits_NK = self._compute(images if blend is None else blend.images)
        loss = self._loss(logits_NK, targets_N)
        if blend is not None:
            other = self._loss(logits_NK, targets_N[blend.order])
            loss = blend.share * loss + (1 - blend.share) * other
        self.train_accuracy(logits_NK, targets_N)
        self._log_loss("train_loss", loss, len(targets_N))
        self.log("train_accuracy", self.train_accuracy, on_step=False, on_epoch=True, prog_bar=True)
        return loss

    def validation_step(self, batch: Batch, _index: int) -> None:
        """Measure one batch, in float32 as served, without label smoothing."""
        images, targets_N = batch
        with torch.autocast(self.device.type, enabled=False):
            logits_NK = self._compute(images)
        loss = compute_loss(self.config.loss, logits_NK, targets_N)
        self.validation_accuracy(logits_NK, targets_N)
        self._see(logits_NK)
        self._log_loss("validation_loss", loss, len(targets_N))
        self.log("validation_accuracy", self.validation_accuracy, prog_bar=True)

    def on_validation_epoch_start(self) -> None:
        """Forget the logits of the last epoch."""
        self._range_2K = None

    @property
    def spread(self) -> float:
        """Largest difference of a class's logits between validation images; infinite before."""
        if self._range_2K is None:
            return float("inf")
        return float((self._range_2K[1] - self._range_2K[0]).max())

    def _see(self, logits_NK: Tensor) -> None:
        low_K, high_K = logits_NK.float().aminmax(dim=0)
        if self._range_2K is not None:
            low_K, high_K = (
                torch.minimum(low_K, self._range_2K[0]),
                torch.maximum(high_K, self._range_2K[1]),
            )
        self._range_2K = torch.stack((low_K, high_K))

    def _compute(self, images: Tensor) -> Tensor:
        """Compute logits of images, or of their features."""
        logits_NK: Tensor = (self.network.classify if self.on_features else self.network)(images)
        return logits_NK

    def _loss(self, logits_NK: Tensor, targets_N: Tensor) -> Tensor:
        smoothing = self.config.label_smoothing
        return compute_loss(self.config.loss, logits_NK, targets_N, smoothing, self.weights_K)

    def _log_loss(self, name: str, loss: Tensor, rows: int) -> None:
        # A float: over several devices Lightning 2.6 averages the rows in the type it is given, and
        # as integers 72 and 71 would make 71.
        weight: Any = float(rows)
        self.log(name, loss, on_step=False, on_epoch=True, batch_size=weight, sync_dist=True)

    def on_train_epoch_end(self) -> None:
        """Log the learning rate at the end of the epoch."""
        # All devices have the same rate; without sync_dist Lightning warns.
        self.log("lr", self.trainer.optimizers[0].param_groups[0]["lr"], sync_dist=True)

    def configure_optimizers(self) -> Any:
        """Build the optimizer and a schedule that steps with each batch."""
        optimizer = build_optimizer(self.config, self.network)
        steps = int(self.trainer.estimated_stepping_batches)
        schedule = build_schedule(self.config, optimizer, steps)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }


def fit(
    config: TrainConfig,
    dataset: Dataset,
    *,
    show_progress: bool,
    resume: bool = False,
    logger: LoggerName = "tensorboard",
    watch: Watch | None = None,
) -> ImageNetwork:
    """Fit a network and return it with the weights that the run keeps.

    Writes ``metrics.csv`` and the checkpoints under ``config.run``.

    Args:
        config: Configuration of the run.
        dataset: Only its training and validation splits are read.
        show_progress: Whether to draw a progress bar on stderr.
        resume: Continue from the run's last checkpoint, if there is one. The weights are those of a
            run that never stopped.
        logger: Where the figures of each epoch also go.
        watch: Called after each epoch; what it raises ends the fit.

    Returns:
        The network with the weights of ``config.keep``, in evaluation mode; in any process but the
        first, which may have no access to the run folder, those of the last epoch.

    Raises:
        ConfigError: A name in the configuration or a device does not exist, or a shift is larger
            than the images.
    """
    last = config.run / LAST_CHECKPOINT
    _check_shift(config, dataset)
    with _quiet_lightning():
        pl.seed_everything(config.seed, verbose=False)
        network = untrained(config, dataset)
        weights_K = torch.from_numpy(
            balancing_weights(dataset.train.targets_N, len(dataset.labels)).astype(np.float32)
        )
        balanced = weights_K if config.class_weights == "balanced" else None
        on_features = are_cached(config)
        classes = len(dataset.labels)
        module = FitModule(network, config, classes, balanced, on_features=on_features)
        augment = Augment(config.shift, config.flip, config.cutout, config.border)
        parts = [dataset.train, dataset.validation]
        if on_features:
            parts = [features_of(network, part) for part in parts]
        data = InMemoryData(
            *parts,
            batch_size=config.batch_size,
            seed=config.seed,
            augment=augment,
            weights_K=weights_K if config.class_weights == "sampler" else None,
        )
        steps = max(1, len(dataset.train) // config.batch_size)
        enough = replace(config, epochs=max(config.epochs, math.ceil(config.least_steps / steps)))
        written = build_logger(logger, config)
        trainer = _trainer(enough, written, show_progress=show_progress, watch=watch)
        found = os.fspath(last) if resume and last.exists() else None
        module.train()
        trainer.fit(module, data, ckpt_path=found, weights_only=True)
    if not trainer.is_global_zero:
        return network.eval()
    return load_checkpoint(config, dataset)


def _check_shift(config: TrainConfig, dataset: Dataset) -> None:
    side = min(dataset.image_shape[:2])
    if config.shift >= side:
        raise ConfigError(
            f"shift: expected less than the {side} pixels of an image, got {config.shift}"
        )


class _Watched(Callback):
    """Calls ``watch`` after each epoch, when all its metrics are known."""

    def __init__(self, watch: Watch):
        self._watch = watch

    def on_train_epoch_end(self, trainer: pl.Trainer, _module: pl.LightningModule) -> None:
        self._watch(trainer.current_epoch, float(trainer.callback_metrics[MONITOR]))


def _trainer(
    config: TrainConfig, logger: Logger | bool, *, show_progress: bool, watch: Watch | None
) -> pl.Trainer:
    seen: Callback = RunBar(config.batch_size) if show_progress else EpochLog()
    callbacks: list[Callback] = [
        Divergence(config),
        Curves(config.run),
        BestAndLast(config.run),
        seen,
    ]
    if config.patience:
        callbacks.append(Patience(config.patience))
    if watch is not None:
        callbacks.append(_Watched(watch))
    if config.ema:
        callbacks.append(MovingAverage(config.ema))
    try:
        return pl.Trainer(
            max_epochs=config.epochs,
            precision=PRECISIONS[config.autocast],  # type: ignore[arg-type]  # Lightning's words
            gradient_clip_val=config.clip or None,
            devices=config.devices,
            num_nodes=config.nodes,
            strategy="ddp" if config.devices * config.nodes > 1 else "auto",
            # Batches shard themselves.
            use_distributed_sampler=False,
            plugins=[AtomicCheckpointIO()],
            logger=logger,
            # Training batches are all of one size: a GPU searches the best convolution once.
            benchmark=torch.cuda.is_available(),
            callbacks=callbacks,
            enable_progress_bar=show_progress,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            # Only epochs are logged; a larger number makes Lightning warn about short epochs.
            log_every_n_steps=1,
            # Each epoch has its own order and augmentation, see batches.
            reload_dataloaders_every_n_epochs=1,
        )
    except MisconfigurationException as error:
        message = " ".join(str(error).split())
        raise ConfigError(
            f"devices: expected {config.nodes} x {config.devices} to train on: {message}"
        ) from error


# Lightning 2.6 uses an old name of torch 2.13; what is frozen is in evaluation mode on purpose.
_IRRELEVANT = (r".*LeafSpec", r"Found \d+ module\(s\) in eval mode")


@contextmanager
def _quiet_lightning() -> Iterator[None]:
    """Hide Lightning's advertisements and advice."""
    loggers = [logging.getLogger(name) for name in ("pytorch_lightning", "lightning_fabric")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            for message in _IRRELEVANT:
                warnings.filterwarnings("ignore", message)
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
