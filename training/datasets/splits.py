"""Images with their targets, and how a part of them is held out.

Knows nothing about files or names of datasets. Legend: N rows, H height, W width, C channels.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from training.errors import ConfigError

# The test part of datasets that have no official one. Not configurable: all runs share it.
TEST_FRACTION = 0.2
TEST_SEED = 0
# Values that are counted at once; numpy makes 8 bytes of each.
_COUNTED_VALUES = 1 << 22


@dataclass(frozen=True, slots=True)
class Split:
    """Images with their targets.

    Attributes:
        images_NHWC: uint8 [N, H, W, C], grey (C = 1) or RGB (C = 3), 0-255.
        targets_N: int64 [N], index into the labels.
    """

    images_NHWC: NDArray[np.uint8]
    targets_N: NDArray[np.int64]

    def __len__(self) -> int:
        """Return N."""
        return len(self.targets_N)

    def take(self, indices: NDArray[np.int64]) -> "Split":
        """Return the rows at ``indices`` (int64 [n], 0 <= index < N), in that order, as a copy."""
        return Split(self.images_NHWC[indices], self.targets_N[indices])


@dataclass(frozen=True, slots=True)
class Source:
    """What the reader of a dataset returns: the labels and the two official parts.

    Attributes:
        labels: The class names; a target is an index into them.
        train: The official training part, before validation rows are held out.
        test: The official test part.
        validation: The official validation part; None if there is none.
    """

    labels: tuple[str, ...]
    train: Split
    test: Split
    validation: Split | None = None


def hold_out(split: Split, fraction: float, seed: int) -> tuple[Split, Split]:
    """Divide a split in two, class by class, so both keep the shares of the classes.

    Args:
        split: What to divide. Not modified.
        fraction: Share of each class to hold out, 0 < fraction < 1; at least one row a class.
        seed: The same seed, fraction and split give the same two parts.

    Returns:
        The rest and the held-out part, both in the order of ``split``.

    Raises:
        ConfigError: ``fraction`` is out of range.
    """
    is_held_N = choose_held_out(split.targets_N, fraction, seed)
    return split.take(np.flatnonzero(~is_held_N)), split.take(np.flatnonzero(is_held_N))


def choose_held_out(targets_N: NDArray[np.int64], fraction: float, seed: int) -> NDArray[np.bool_]:
    """Choose which rows ``hold_out`` holds out, bool [N]; the targets are int64 [N].

    Raises:
        ConfigError: ``fraction`` is out of range.
    """
    if not 0 < fraction < 1:
        raise ConfigError(f"validation: expected a share between 0 and 1, got {fraction}")
    generator = np.random.default_rng(seed)
    is_held_N = np.zeros(len(targets_N), dtype=np.bool_)
    for target in np.unique(targets_N):
        rows = np.flatnonzero(targets_N == target)
        count = max(1, round(fraction * len(rows)))
        is_held_N[generator.permutation(rows)[:count]] = True
    return is_held_N


def one_against_all(
    labels: tuple[str, ...], targets_N: NDArray[np.int64], positive: str | None
) -> tuple[tuple[str, ...], NDArray[np.int64]]:
    """Reduce a problem to two classes, of which the second is ``positive``; None: do not.

    Raises:
        ConfigError: There is no such class.
    """
    if positive is None:
        return labels, targets_N
    if positive not in labels:
        raise ConfigError(
            f"positive: expected one of {', '.join(sorted(labels))}, got {positive!r}"
        )
    return (f"not {positive}", positive), (targets_N == labels.index(positive)).astype(np.int64)


def split_off_test(labels: tuple[str, ...], everything: Split) -> Source:
    """Hold out a fifth of each class as the test part, the same rows in every run."""
    return Source(labels, *hold_out(everything, TEST_FRACTION, TEST_SEED))


def checksum(source: Source) -> str:
    """Return the sha256 of the data itself, as hex; see ``checksum_of``."""
    return checksum_of(source.labels, (source.train, source.test))


def checksum_of(labels: tuple[str, ...], splits: Sequence[Split | list[Split]]) -> str:
    """Return the sha256 of data, as hex: labels, shapes, pixels and targets.

    Independent of compression: two packagings of the same dataset have the same checksum.

    Args:
        labels: The class names.
        splits: The parts, or of each part its rows in splits of any length.
    """
    digest = hashlib.sha256("\n".join(labels).encode())
    for part in splits:
        pieces = [part] if isinstance(part, Split) else part
        rows = sum(map(len, pieces))
        digest.update(str((rows, *pieces[0].images_NHWC.shape[1:])).encode())
        for piece in pieces:
            digest.update(np.ascontiguousarray(piece.images_NHWC).data)
        for piece in pieces:
            digest.update(np.ascontiguousarray(piece.targets_N.astype("<i8")).data)
    return digest.hexdigest()


def pixel_statistics(split: Split) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Compute the mean and the standard deviation of each channel.

    Counts values in chunks, because numpy's own functions make a float64 copy of all images.

    Returns:
        mean_C and std_C: float64 [C], 0-255; a constant channel gets a std of 1, which
        is safe to divide by.
    """
    counts = np.zeros((split.images_NHWC.shape[3], 256), dtype=np.int64)
    rows = max(1, _COUNTED_VALUES // max(1, split.images_NHWC[:1].size))
    for start in range(0, len(split), rows):
        chunk = split.images_NHWC[start : start + rows]
        for channel in range(len(counts)):
            counts[channel] += np.bincount(chunk[..., channel].ravel(), minlength=256)
    shares = counts / counts.sum(axis=1, keepdims=True)
    values = np.arange(256, dtype=np.float64)
    mean_C = shares @ values
    std_C = np.sqrt((shares * (values - mean_C[:, None]) ** 2).sum(axis=1))
    return mean_C, np.where(std_C > 0, std_C, 1.0)


def balancing_weights(targets_N: NDArray[np.int64], classes: int) -> NDArray[np.float64]:
    """Return a weight for each class, so that all classes count alike: float64 [K], mean row 1.

    scikit-learn's ``balanced``: N / (K * rows of the class). A class without rows weighs 1.
    """
    counts_K = np.bincount(targets_N, minlength=classes)
    return np.where(counts_K > 0, len(targets_N) / (classes * np.maximum(counts_K, 1)), 1.0)


def describe_imbalance(labels: tuple[str, ...], targets_N: NDArray[np.int64]) -> str:
    """Return how unbalanced classes are, "" if none has more than twice the rows of another."""
    counts_K = np.bincount(targets_N, minlength=len(labels))
    most, fewest = int(counts_K.argmax()), int(counts_K.argmin())
    if counts_K[most] <= 2 * counts_K[fewest]:
        return ""
    return (
        f"{labels[most]!r} has {counts_K[most]:,} training images, {labels[fewest]!r} "
        f"{counts_K[fewest]:,}"
    )
