"""Oddities that one look at each image, or a count of them, shows: no classifier is needed."""

import statistics
from collections import Counter
from collections.abc import Iterator

from training.datasets.listing import WHOLE, Listing
from training.quality.findings import Finding
from training.quality.scan import Facts, Scan

# Training images below which a class is small, and its share of the middle class.
_FEW, _FEW_SHARE = 20, 0.1
# Standard deviation of all pixels of a blank image: scanners and JPEG leave a level or two.
_BLANK = 2.5
_TINY_SHARE = 0.25
# Proportion of the sides that is extreme, and how far from that of the middle image.
_LONG, _LONG_SHARE = 4.0, 2.0


def find_unusable(listing: Listing, scan: Scan) -> Iterator[Finding]:
    """Yield the rows whose image cannot be read, or that have no label."""
    for index, row in enumerate(listing.rows):
        if index in scan.errors:
            yield Finding("unreadable", index, scan.errors[index])
        if row.target < 0:
            yield Finding("no-label", index, "expected one of the classes")


def find_small_classes(listing: Listing) -> Iterator[Finding]:
    """Yield the classes with few training images, and those that a split has none of."""
    counts = Counter((row.split, row.target) for row in listing.rows)
    for split in listing.splits:
        of_class = [counts[split, target] for target in range(len(listing.labels))]
        is_fitted = split in ("train", WHOLE)
        least = max(_FEW, _FEW_SHARE * statistics.median(of_class)) if is_fitted else 1
        for label, count in zip(listing.labels, of_class, strict=True):
            if count < least:
                said = f"{count} images; expected {least:.0f} or more"
                yield Finding("small-class", None, said, 1 - count / least, None, label, split)


def find_odd_images(scan: Scan) -> Iterator[Finding]:
    """Yield blank and tiny images, and those of an extreme shape."""
    known = [(index, facts) for index, facts in enumerate(scan.facts) if facts is not None]
    if not known:
        return
    middle_side = statistics.median(min(facts.width, facts.height) for _, facts in known)
    middle_shape = statistics.median(_proportion(facts) for _, facts in known)
    for index, facts in known:
        size = f"{facts.width} x {facts.height} pixels"
        if facts.spread < _BLANK:
            yield Finding("blank", index, "all pixels have nearly one colour")
        if min(facts.width, facts.height) < _TINY_SHARE * middle_side:
            yield Finding("tiny", index, size)
        if _proportion(facts) > max(_LONG, _LONG_SHARE * middle_shape):
            yield Finding("shape", index, size)


def _proportion(facts: Facts) -> float:
    return max(facts.width, facts.height) / min(facts.width, facts.height)
