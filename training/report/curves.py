"""The curves of a run: ``metrics.csv``, a row per epoch.

Lightning's CSV logger loses the earlier rows when a run resumes; these rows are part of the
checkpoint, so the file always matches the weights.
"""

import csv
import io
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback

from models.files import write_atomically

METRICS_CSV = "metrics.csv"


@dataclass(frozen=True, slots=True)
class Epoch:
    """One row of ``metrics.csv``.

    Attributes:
        epoch: Number of the epoch, from 1.
        step: Optimizer steps since the start of the run.
        lr: Learning rate at the end of the epoch.
        train_loss: Mean over the batches, as trained on (augmented, smoothed).
        train_accuracy: Share of the augmented training rows that were right, 0-1.
        validation_loss: Cross-entropy on the validation split.
        validation_accuracy: Share of the validation rows that were right, 0-1.
        seconds: Wall time, validation included.
    """

    epoch: int
    step: int
    lr: float
    train_loss: float
    train_accuracy: float
    validation_loss: float
    validation_accuracy: float
    seconds: float


class Curves(Callback):
    """Records each epoch.

    Args:
        run: The run folder.
    """

    def __init__(self, run: Path):
        self._path = run / METRICS_CSV
        self._rows: list[dict[str, Any]] = []
        self._started_s = 0.0

    def on_train_epoch_start(self, *_: Any) -> None:
        """Start the clock."""
        self._started_s = time.monotonic()

    def on_train_epoch_end(self, trainer: pl.Trainer, _module: pl.LightningModule) -> None:
        """Add a row; validation runs before this hook, the checkpoint is written after it."""
        seen = trainer.callback_metrics
        names = ("train_loss", "train_accuracy", "validation_loss", "validation_accuracy")
        epoch = Epoch(
            epoch=trainer.current_epoch + 1,
            step=trainer.global_step,
            lr=float(trainer.optimizers[0].param_groups[0]["lr"]),
            seconds=round(time.monotonic() - self._started_s, 3),
            **{name: float(seen[name]) for name in names},
        )
        self._rows.append(asdict(epoch))
        if trainer.is_global_zero:
            write_curves(self._path, self._rows)

    def state_dict(self) -> dict[str, Any]:
        """Return the rows so far."""
        return {"rows": self._rows}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the rows of the checkpoint."""
        self._rows = list(state_dict["rows"])


def write_curves(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write all rows, atomically."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, [field.name for field in fields(Epoch)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, text.getvalue())


def read_curves(run: Path) -> list[Epoch]:
    """Read the rows of a run folder, oldest first."""
    with (run / METRICS_CSV).open(encoding="utf-8", newline="") as file:
        return [
            Epoch(
                **{  # type: ignore[arg-type]  # each value goes through its field's own type
                    field.name: (int if field.name in ("epoch", "step") else float)(row[field.name])
                    for field in fields(Epoch)
                }
            )
            for row in csv.DictReader(file)
        ]


def kept_epoch(epochs: Sequence[Epoch], keep: str) -> Epoch:
    """Return the epoch whose weights a run keeps: ``last``, or the first of the ``best``."""
    if keep == "last":
        return epochs[-1]
    return max(epochs, key=lambda epoch: epoch.validation_accuracy)
