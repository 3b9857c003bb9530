"""Batches from tensors that are already in memory: one index operation per batch.

A per-image Dataset with workers and a collate function costs more than the networks here: 60,000
Python calls per epoch. The order and the augmentation of an epoch depend only on the seed and the
number of the epoch, so an interrupted run can continue exactly. Each of several devices takes its
share of the rows of every batch: a step sees the same rows as with one. On a GPU the whole split is
in its memory as uint8 and is augmented there, so no step waits for a transfer.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from pytorch_lightning import LightningDataModule
from torch import Tensor

from training.augment import Augment
from training.datasets.splits import Split
from training.devices import fits

Batch = tuple[Tensor, Tensor]

# Rows per batch in evaluation; only memory limits the size: of photographs there are fewer.
EVALUATION_ROWS = 512
_EVALUATION_PIXELS = 512 * 64 * 64


@dataclass(frozen=True, slots=True)
class Shard:
    """Which rows of a batch belong to a process: every ``count``-th, from ``index``.

    Attributes:
        index: Rank of the process, 0 <= index < count.
        count: Number of processes.
    """

    index: int = 0
    count: int = 1

    def rows(self) -> slice:
        """Return the rows of this shard."""
        return slice(self.index, None, self.count)


WHOLE = Shard()


def mix_seed(*words: int) -> int:
    """Combine several numbers, none negative, into one seed; trailing zeros do not count.

    Their sum would not do: epoch 1 of seed 0 would equal epoch 0 of seed 1.
    """
    return int(np.random.SeedSequence(words).generate_state(1)[0])


class Batches:
    """An iterable over the batches of one epoch.

    Args:
        split: The images and targets, not modified.
        batch_size: Rows per batch, over all shards.
        seed: None keeps the order and every row; a sequence of integers shuffles and augments by
            it and drops the last, smaller batch (its noisier step would weigh as much as a full
            one) unless it is the only one.
        augment: Applied to each batch when shuffling.
        shard: Which rows of each batch to yield; an epoch has as many batches for every shard.
        tensors: The split's images and targets if they are on a device already.
        weights_K: Draw rows by the weights of their classes, with replacement; None: each row once.
    """

    def __init__(  # noqa: PLR0913 - all that makes a batch
        self,
        split: Split,
        batch_size: int,
        seed: tuple[int, ...] | None = None,
        augment: Augment | None = None,
        shard: Shard = WHOLE,
        *,
        tensors: Batch | None = None,
        weights_K: Tensor | None = None,
    ):
        self._images_NHWC, self._targets_N = tensors or place(split, torch.device("cpu"))
        self._batch_size = min(batch_size, len(split))
        self._seed = seed
        self._augment = augment or Augment()
        self._shard = shard
        self._weights_K = weights_K

    def __len__(self) -> int:
        """Return the number of batches."""
        batches = len(self._targets_N) / self._batch_size
        return math.ceil(batches) if self._seed is None else int(batches)

    def __iter__(self) -> Iterator[Batch]:
        """Yield (uint8 [n, H, W, C], int64 [n]); every iteration yields the same batches."""
        if self._seed is None:
            for images_NHWC, targets_N in zip(
                torch.split(self._images_NHWC, self._batch_size),
                torch.split(self._targets_N, self._batch_size),
                strict=True,
            ):
                mine = self._shard.rows()
                if len(targets_N[mine]):  # the last batch may have fewer rows than there are shards
                    yield images_NHWC[mine], targets_N[mine]
            return
        generator = torch.Generator()
        generator.manual_seed(mix_seed(*self._seed))
        device = self._targets_N.device
        # Drawn on the CPU: an epoch has the same order on every device.
        order = self._draw(generator).to(device)
        if device.type != "cpu":
            generator = torch.Generator(device)
        if device.type != "cpu" or self._shard.count > 1:
            # All shards share the order; each augments its rows with numbers of its own.
            generator.manual_seed(mix_seed(*self._seed, self._shard.index + 1))
        for batch in torch.split(order, self._batch_size)[: len(self)]:
            rows = batch[self._shard.rows()]
            yield self._augment(self._images_NHWC[rows], generator), self._targets_N[rows]

    def _draw(self, generator: torch.Generator) -> Tensor:
        """Return the order of the rows in an epoch, int64 [N]."""
        rows = len(self._targets_N)
        if self._weights_K is None:
            return torch.randperm(rows, generator=generator)
        weights_N = self._weights_K[self._targets_N.cpu()]
        return torch.multinomial(weights_N, rows, replacement=True, generator=generator)


def evaluation_rows(split: Split) -> int:
    """Return the rows per batch in evaluation."""
    pixels = math.prod(split.images_NHWC.shape[1:3])
    return max(1, min(EVALUATION_ROWS, _EVALUATION_PIXELS // pixels))


def place(split: Split, device: torch.device) -> Batch:
    """Return the images and targets of a split on a device, or on the CPU if they do not fit.

    Args:
        split: The images and targets, shared with the tensors on the CPU.
        device: Device of the network.
    """
    images_NHWC, targets_N = torch.from_numpy(split.images_NHWC), torch.from_numpy(split.targets_N)
    if not fits(images_NHWC.nbytes, device):
        return images_NHWC, targets_N
    return images_NHWC.to(device), targets_N.to(device)


class InMemoryData(LightningDataModule):
    """The batches for Lightning's trainer; never holds the test split.

    Args:
        train: The training split.
        validation: The validation split.
        batch_size: Rows per training batch.
        seed: Seed of the run.
        augment: Applied to training batches.
        weights_K: Draw training rows by the weights of their classes; None: each once an epoch.
    """

    def __init__(
        self,
        train: Split,
        validation: Split,
        *,
        batch_size: int,
        seed: int,
        augment: Augment,
        weights_K: Tensor | None = None,
    ):
        super().__init__()
        self._weights_K = weights_K
        self._train, self._validation = train, validation
        self._batch_size, self._seed, self._augment = batch_size, seed, augment
        self._placed: dict[str, Batch] = {}

    def train_dataloader(self) -> Batches:
        """Return the batches of the current epoch; the trainer calls this for each epoch."""
        epoch = self.trainer.current_epoch if self.trainer else 0
        seed = (self._seed, epoch)
        return Batches(
            self._train,
            self._batch_size,
            seed,
            self._augment,
            self._shard(),
            tensors=self._place("train", self._train),
            weights_K=self._weights_K,
        )

    def val_dataloader(self) -> Batches:
        """Return the validation batches, in order."""
        placed = self._place("validation", self._validation)
        rows = evaluation_rows(self._validation)
        return Batches(self._validation, rows, shard=self._shard(), tensors=placed)

    def _place(self, name: str, split: Split) -> Batch:
        """Return a split on the trainer's device; it is moved once per run."""
        if name not in self._placed:
            device = torch.device("cpu")
            if self.trainer is not None:
                device = self.trainer.strategy.root_device
            self._placed[name] = place(split, device)
        return self._placed[name]

    def _shard(self) -> Shard:
        if self.trainer is None:
            return Shard()
        return Shard(self.trainer.global_rank, self.trainer.world_size)
