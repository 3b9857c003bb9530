"""Images that look like their label once they are turned: few are named, and those rightly."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from sklearn.datasets import load_digits

from training.datasets.listing import Listing, Row
from training.quality.cross_validation import CrossValidation
from training.quality.findings import Finding
from training.quality.suspects import find_wrong_labels

DIGITS = load_digits()
IMAGES: NDArray[np.uint8] = (DIGITS.images[..., None] * 15.9).astype(np.uint8)
TARGETS: NDArray[np.int64] = DIGITS.target.astype(np.int64)


def turned(images_NHWC: NDArray[np.uint8]) -> Sequence[Finding]:
    rows = np.arange(len(images_NHWC))
    judge = CrossValidation(images_NHWC, TARGETS, rows, 10)
    listed = [Row("digits", int(row), "all", int(TARGETS[row])) for row in rows]
    listing = Listing("digits", tuple("0123456789"), listed, lambda _: iter(()), 0)
    findings = find_wrong_labels(listing, rows, judge).findings
    return [each for each in findings if each.kind == "rotated"]


def test_no_clean_digit_is_named() -> None:
    """A 6 turned by half is a 9, and a 1 turned by a quarter looks like a 4."""
    assert turned(IMAGES) == []


def test_digits_that_are_turned_by_a_quarter_are_named_with_the_turn_back() -> None:
    images = IMAGES.copy()
    quarters = {int(row): 1 + 2 * (row % 2) for row in range(0, len(images), 50)}
    for row, quarter in quarters.items():
        images[row] = np.rot90(images[row], -quarter)
    found = {each.index: each.suggestion for each in turned(images)}
    assert len(found) >= 5
    back = {
        row: f"turn it by {90 * quarter} degrees to the left" for row, quarter in quarters.items()
    }
    assert found.items() <= back.items()
