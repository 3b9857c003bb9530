"""What a check finds, kind by kind, and the table of it: ``findings.csv``.

Knows nothing about how anything is found.
"""

import io
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from models.spreadsheet import csv_writer, inert
from training.datasets.listing import Listing

Kind = Literal[
    "label",
    "duplicate-other-label",
    "near-duplicate-other-label",
    "duplicate-across-splits",
    "near-duplicate-across-splits",
    "unreadable",
    "no-label",
    "small-class",
    "rotated",
    "blank",
    "tiny",
    "shape",
    "duplicate",
    "near-duplicate",
]

# In the order of the table and of the page: title, and what to do about it.
KINDS: dict[Kind, tuple[str, str]] = {
    "label": (
        "Labels that may be wrong",
        "Another label is more probable than the given one, the surest first. Difficult images are "
        "here, too, the more the further down.",
    ),
    "duplicate-other-label": (
        "The same image under two labels",
        "One of the labels is wrong, or the image shows both.",
    ),
    "near-duplicate-other-label": (
        "Nearly the same image under two labels",
        "One of the labels is probably wrong.",
    ),
    "duplicate-across-splits": (
        "The same image in two splits",
        "A test on images that were trained on flatters: remove them from the training split.",
    ),
    "near-duplicate-across-splits": (
        "Nearly the same image in two splits",
        "A test on copies of training images flatters.",
    ),
    "unreadable": ("Unreadable files", "Training stops at them: save them again or remove them."),
    "no-label": ("Images without a label", "Their label is empty or names no class."),
    "small-class": (
        "Classes with few images",
        "A class with fewer than 20 training images, or a tenth of the middle class, is learned "
        "badly, and a split without a class does not measure it.",
    ),
    "rotated": (
        "Images that may be turned",
        "Turned by a quarter as said, they look like their label; as they are, they look like "
        "another. Some are no more than wrong labels, and most turned images are not found.",
    ),
    "blank": ("Blank images", "All pixels have nearly one colour."),
    "tiny": ("Tiny images", "Their shorter side is less than a quarter of the middle one."),
    "shape": (
        "Images of an extreme shape",
        "One side is more than four times the other, unlike most images here.",
    ),
    "duplicate": ("The same image twice", "Copies count twice, and may part into two splits."),
    "near-duplicate": (
        "Nearly the same image twice",
        "Frames of a video, or copies that were scaled or compressed again.",
    ),
}
FINDINGS_CSV = "findings.csv"
COLUMNS = ("file", "row", "split", "label", "kind", "suggestion", "score")


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing to look at.

    Attributes:
        kind: A key of ``KINDS``.
        index: Row of the dataset; None if it is about a class.
        suggestion: For ``label`` the more probable label, else what was found.
        score: How sure it is, 0-1.
        beside: Another row to look at beside it.
        label: The class that it is about, if it is not about a row.
        split: Its split.
    """

    kind: Kind
    index: int | None
    suggestion: str
    score: float = 1.0
    beside: int | None = None
    label: str = ""
    split: str = ""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a check found.

    Attributes:
        listing: The dataset.
        findings: In the order of the table.
        orientations: Number of images that EXIF turns.
        judged: How labels were checked, in words; why not, if they were not.
        agreement: Share of the labels that are the judge's first, 0-1; None: not checked.
        estimate: How many labels are wrong, as confident learning estimates; None: not checked.
        seconds: Time of each stage.
    """

    listing: Listing
    findings: list[Finding]
    orientations: int
    judged: str
    agreement: float | None
    estimate: int | None
    seconds: dict[str, float]

    def to_json(self) -> dict[str, Any]:
        """Return the summary: counts, no rows."""
        return {
            "dataset": self.listing.name,
            "images": len(self.listing.rows),
            "splits": dict(Counter(row.split for row in self.listing.rows)),
            "labels": len(self.listing.labels),
            "findings": count_kinds(self.findings),
            "turned_by_exif": self.orientations,
            "passed_over": self.listing.passed_over,
            "label_check": self.judged,
            "agreement": self.agreement,
            "estimated_wrong_labels": self.estimate,
            "seconds": {stage: round(value, 2) for stage, value in self.seconds.items()},
        }


def in_order(findings: Sequence[Finding]) -> list[Finding]:
    """Return findings kind by kind; within a kind the surest first, else in their order."""
    places = {kind: place for place, kind in enumerate(KINDS)}
    return sorted(findings, key=lambda each: (places[each.kind], -each.score))


def count_kinds(findings: Sequence[Finding]) -> dict[Kind, int]:
    """Return the number of findings of every kind, zeros included, in the order of ``KINDS``."""
    counts = dict.fromkeys(KINDS, 0)
    for each in findings:
        counts[each.kind] += 1
    return counts


def to_csv(findings: Sequence[Finding], listing: Listing) -> str:
    """Return the table of findings: a header, and a line for each.

    A text that a spreadsheet would run as a formula has a quote before it; see
    ``models.spreadsheet``.
    """
    text = io.StringIO(newline="")
    writer = csv_writer(text)
    writer.writerow(COLUMNS)
    for each in findings:
        file, row, split, label = "", "", each.split, each.label
        if each.index is not None:
            found = listing.rows[each.index]
            file, split, label = found.file, found.split, listing.label(each.index)
            row = "" if found.row is None else str(found.row)
        cells = (file, row, split, label, each.kind, each.suggestion)
        writer.writerow([*map(inert, cells), f"{each.score:.4f}"])
    return text.getvalue()
