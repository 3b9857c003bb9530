"""The progress of a run: a bar on a terminal, else a log line per epoch.

Lightning's own bars start again with each epoch, so they lack the time left of the run; with the
accuracies they need four lines of a terminal with 80 columns.
"""

import logging
import time
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Checkpoint, ProgressBar
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

_LOG = logging.getLogger(__name__)

# Reading a loss from a GPU waits for the GPU, so the bar reads it no more often than this.
_REFRESH_S = 0.25


class EpochLog(Checkpoint):
    """Logs one line per epoch, for runs without a terminal.

    A checkpoint by its class alone: Lightning calls these after all others, in their order, so that
    the line comes when the epoch is kept.
    """

    def on_train_epoch_start(self, *_: Any) -> None:
        """Start the clock."""
        self._started_s = time.monotonic()

    def on_train_epoch_end(self, trainer: pl.Trainer, _module: pl.LightningModule) -> None:
        """Log the figures of the epoch; validation has run before this hook."""
        if not trainer.is_global_zero:
            return
        seen = trainer.callback_metrics
        _LOG.info(
            "epoch %d of %s: loss %.4f, train %.4f, validation %.4f, %.1f s",
            trainer.current_epoch + 1,
            trainer.max_epochs,
            seen["train_loss"],
            seen["train_accuracy"],
            seen["validation_accuracy"],
            time.monotonic() - self._started_s,
        )


class RunBar(ProgressBar):
    """One bar for the whole run: epoch, loss, accuracies, images/s, time left.

    Args:
        batch_size: Rows per step, over all devices.
        console: Console to draw on; None for standard error.
    """

    def __init__(self, batch_size: int, console: Console | None = None):
        super().__init__()
        self._batch_size = batch_size
        self._console = console or Console(stderr=True)
        self._bar: Progress | None = None
        self._drawn_s = 0.0

    def disable(self) -> None:
        """Draw nothing; Lightning calls this in every process but the first."""
        self._console = Console(quiet=True)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Draw the bar, advanced by the steps that a resumed run has already done."""
        super().on_train_start(trainer, pl_module)
        self._bar = Progress(
            TextColumn("{task.fields[epoch]}"),
            BarColumn(bar_width=None),
            # Fits 80 columns; the bar takes the rest.
            TextColumn("{task.fields[figures]}"),
            TimeRemainingColumn(compact=True),
            TextColumn("left"),
            console=self._console,
            refresh_per_second=4,
        )
        self._task = self._bar.add_task(
            "fit",
            total=trainer.estimated_stepping_batches,
            completed=trainer.global_step,
            epoch="",
            figures="",
        )
        self._bar.start()

    def on_train_epoch_start(self, trainer: pl.Trainer, _module: pl.LightningModule) -> None:
        """Restart the count of images/s, which leaves validation out."""
        self._epoch_s, self._first_step = time.monotonic(), trainer.global_step

    def on_train_batch_end(  # Lightning's signature
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        _batch: Any,
        _index: int,
    ) -> None:
        """Advance by one step."""
        now = time.monotonic()
        rows = (trainer.global_step - self._first_step) * self._batch_size
        self._images_s = rows / max(now - self._epoch_s, 1e-9)
        if now - self._drawn_s >= _REFRESH_S:
            self._drawn_s = now
            self._draw(trainer, pl_module, float(outputs["loss"]))

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Show the figures of the whole epoch."""
        self._draw(trainer, pl_module, float(trainer.callback_metrics["train_loss"]))

    def on_train_end(self, *_: Any) -> None:
        """Stop drawing; the last line stays."""
        self._stop()

    def on_exception(self, *_: Any) -> None:
        """Stop drawing, which restores the cursor."""
        self._stop()

    def _draw(self, trainer: pl.Trainer, pl_module: pl.LightningModule, loss: float) -> None:
        if self._bar is None:
            return
        seen: dict[str, Any] = dict(self.get_metrics(trainer, pl_module))
        names = {"train_accuracy": "train", "validation_accuracy": "validation"}
        accuracies = [f"{names[name]} {float(seen[name]):.1%}" for name in names if name in seen]
        figures = [f"loss {loss:.3f}", *accuracies, f"{self._images_s:,.0f} images/s"]
        self._bar.update(
            self._task,
            completed=trainer.global_step,
            epoch=f"{trainer.current_epoch + 1}/{trainer.max_epochs}",
            figures=", ".join(figures),
        )

    def _stop(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
