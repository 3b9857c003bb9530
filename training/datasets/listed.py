"""From a listing to images in memory: which row belongs to which split, then each decoded once.

The splits are chosen by the labels alone, before anything is decoded, so that every split is a part
of one array and no image is held twice. Legend: N rows, H height, W width, C channels.
"""

import logging
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from training.datasets.encoded import AS_THEY_ARE, Reading, decode_rows, without_gaps
from training.datasets.listing import WHOLE, Listing
from training.datasets.splits import (
    TEST_FRACTION,
    TEST_SEED,
    Source,
    Split,
    checksum_of,
    choose_held_out,
    one_against_all,
)
from training.errors import DatasetError

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Parts:
    """A dataset that was read from a listing, see ``sources.Dataset``."""

    labels: tuple[str, ...]
    train: Split
    validation: Split
    test: Split
    sha256: str


@dataclass(frozen=True, slots=True)
class _Rows:
    """Rows of a listing by their official part, int64 each, in the order of the listing."""

    train: NDArray[np.int64]
    validation: NDArray[np.int64]
    test: NDArray[np.int64]


def read_listing(listing: Listing, reading: Reading = AS_THEY_ARE) -> Source:
    """Read the official parts of a dataset.

    Raises:
        DatasetError: A row has no label or no readable image, or a class has no images.
    """
    rows = _divide(listing)
    parts = [rows.train, rows.test, rows.validation]
    _, (train, test, validation) = _decode(listing, parts, listing.targets_N, reading)
    return Source(listing.labels, train, test, validation if len(validation) else None)


def load_listing(
    listing: Listing,
    reading: Reading,
    *,
    validation: float,
    split_seed: int,
    positive: str | None = None,
) -> Parts:
    """Read a dataset in its three splits; for the arguments see ``sources.load_dataset``.

    Raises:
        ConfigError: The share is out of range, or the positive class does not exist.
        DatasetError: A row has no label or no readable image, or a class has no images.
    """
    rows = _divide(listing)
    labels, targets_N = one_against_all(listing.labels, listing.targets_N, positive)
    train, held = rows.train, rows.validation
    if not len(held):
        is_held_N = choose_held_out(targets_N[train], validation, split_seed)
        train, held = train[~is_held_N], train[is_held_N]
    kept, splits = _decode(listing, [train, held, rows.test], targets_N, reading)
    # Rows that were held out count in the checksum where they stood.
    fitted, chosen, measured = splits
    official: list[Split | list[Split]] = [fitted, chosen, measured]
    if not len(rows.validation):
        official = [_merged(kept, splits), measured]
    return Parts(labels, fitted, chosen, measured, checksum_of(labels, official))


def _merged(kept: list[NDArray[np.int64]], splits: list[Split]) -> list[Split]:
    """Return the rows of the first two splits in the order of the listing, one a split."""
    places = [
        (row, split, at)
        for rows, split in zip(kept[:2], splits, strict=False)
        for at, row in enumerate(rows)
    ]
    places.sort(key=lambda place: place[0])
    return [
        Split(split.images_NHWC[at : at + 1], split.targets_N[at : at + 1])
        for _, split, at in places
    ]


def _divide(listing: Listing) -> _Rows:
    """Choose the part of every row that has a label.

    Without a test part the validation part is it, and without both a fifth of each class.

    Raises:
        DatasetError: A row has no label, or a class has no images for training.
    """
    for row, reason in listing.unlabelled.items():
        raise DatasetError(f"{listing.rows[row]}: {reason}")
    targets_N = listing.targets_N
    names = np.array([row.split for row in listing.rows])
    of = {
        name: np.flatnonzero((names == name) & (targets_N >= 0))
        for name in ("train", "validation", "test", WHOLE)
    }
    strays = int((targets_N < 0).sum())
    if strays or listing.passed_over:
        _LOG.info(
            "%s: passed over %d files of the system and %d images without a class",
            listing.where,
            listing.passed_over,
            strays,
        )
    train, held, test = of["train"], of["validation"], of["test"]
    whole = of[WHOLE] if not len(train) else train
    _check_classes(listing, whole)
    if len(test):
        return _Rows(train, held, test)
    if len(held):
        _LOG.info("%s: no test part: the validation part is the test split", listing.where)
        return _Rows(train, held[:0], held)
    is_test_N = choose_held_out(targets_N[whole], TEST_FRACTION, TEST_SEED)
    return _Rows(whole[~is_test_N], held, whole[is_test_N])


def _check_classes(listing: Listing, train: NDArray[np.int64]) -> None:
    counts_K = np.bincount(listing.targets_N[train], minlength=len(listing.labels))
    empty = [label for label, count in zip(listing.labels, counts_K, strict=True) if not count]
    if not len(listing.rows):
        raise DatasetError(f"{listing.where}: expected rows, got none")
    if empty:
        raise DatasetError(
            f"{listing.where}: expected images for training of each class, got none of "
            f"{', '.join(empty[:10])}"
        )
    if len(listing.labels) < 2:
        raise DatasetError(
            f"{listing.where}: expected two or more classes, got {', '.join(listing.labels)}"
        )


def _decode(
    listing: Listing,
    parts: list[NDArray[np.int64]],
    targets_N: NDArray[np.int64],
    reading: Reading,
) -> tuple[list[NDArray[np.int64]], list[Split]]:
    """Decode all parts into one array; return the readable rows of each part, and their split."""
    images_NHWC, good_N = decode_rows(listing, np.concatenate(parts), reading)
    kept, splits = [], []
    start = 0
    for rows in parts:
        stop = start + len(rows)
        good = good_N[start:stop]
        kept.append(rows[good])
        splits.append(Split(without_gaps(images_NHWC[start:stop], good), targets_N[kept[-1]]))
        start = stop
    return kept, splits
