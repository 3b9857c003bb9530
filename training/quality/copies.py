"""Copies among the images of a dataset: within a split, across splits, and under other labels."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from training.datasets.listing import Listing
from training.quality.duplicates import SIMILAR, equal_groups, near_pairs
from training.quality.findings import Finding, Kind
from training.quality.scan import Scan

_EXACT: dict[str, Kind] = {
    "label": "duplicate-other-label",
    "split": "duplicate-across-splits",
    "": "duplicate",
}
_NEAR: dict[str, Kind] = {
    "label": "near-duplicate-other-label",
    "split": "near-duplicate-across-splits",
    "": "near-duplicate",
}


@dataclass(frozen=True, slots=True)
class Copies:
    """The copies in a dataset.

    Attributes:
        findings: One for each row that has an equal or a similar one before it; where labels
            differ within a group of equal ones, one for each row of the group.
        groups_N: int64 [N]; equal and similar rows have one number.
    """

    findings: list[Finding]
    groups_N: NDArray[np.int64]


def find_copies(listing: Listing, scan: Scan, least: float = SIMILAR) -> Copies:
    """Find images with the same pixels, and those whose small pictures correlate by ``least``."""
    groups = equal_groups([facts.digest if facts else None for facts in scan.facts])
    findings = [each for rows in groups for each in _equal(listing, rows)]
    repeated = {row for rows in groups for row in rows[1:]}
    single = np.array([row for row in scan.readable if row not in repeated], np.int64)
    pairs_P2, similarity_P = near_pairs(scan.small_NSSC[single], least)
    pairs_P2 = single[pairs_P2]
    findings += _similar(listing, pairs_P2, similarity_P)
    joined = [(rows[0], row) for rows in groups for row in rows[1:]]
    return Copies(findings, _join(len(listing.rows), [*joined, *pairs_P2.tolist()]))


def _equal(listing: Listing, rows: list[int]) -> Iterator[Finding]:
    """Yield the findings of one group of equal images."""
    labelled = [row for row in rows if listing.rows[row].target >= 0]
    if len({listing.rows[row].target for row in labelled}) > 1:
        for row in labelled:
            target = listing.rows[row].target
            other = next(each for each in labelled if listing.rows[each].target != target)
            yield _finding(listing, _EXACT, (other, row), 1.0)
        return
    for row in rows[1:]:
        # Across splits, if there is any such row before it: that is the worse of the two.
        before = [each for each in rows if each < row]
        others = [each for each in before if listing.rows[each].split != listing.rows[row].split]
        yield _finding(listing, _EXACT, ((others or before)[0], row), 1.0)


def _similar(
    listing: Listing, pairs_P2: NDArray[np.int64], similarity_P: NDArray[np.float32]
) -> Iterator[Finding]:
    """Yield a finding for each row with a similar one before it: the most similar one."""
    done: set[int] = set()
    for at in np.argsort(-similarity_P, kind="stable"):
        first, second = map(int, pairs_P2[at])
        if second not in done:
            done.add(second)
            yield _finding(listing, _NEAR, (first, second), float(similarity_P[at]))


def _finding(
    listing: Listing, kinds: dict[str, Kind], pair: tuple[int, int], score: float
) -> Finding:
    other, row = (listing.rows[index] for index in pair)
    difference = (
        "label" if other.target != row.target and min(other.target, row.target) >= 0 else ""
    )
    if not difference and other.split != row.split:
        difference = "split"
    said = "same pixels as" if score == 1 and kinds is _EXACT else "like"
    label = f", labelled {listing.label(pair[0])}" if difference == "label" else ""
    return Finding(kinds[difference], pair[1], f"{said} {other}{label}", score, pair[0])


def _join(count: int, pairs: list[tuple[int, int]]) -> NDArray[np.int64]:
    """Number the rows so that those of each pair have the same number."""
    parents = list(range(count))

    def root(row: int) -> int:
        while parents[row] != row:
            parents[row] = parents[parents[row]]
            row = parents[row]
        return row

    for first, second in pairs:
        parents[root(second)] = root(first)
    return np.array([root(row) for row in range(count)], np.int64)
