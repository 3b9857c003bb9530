"""The page of a check: every kind of finding with pictures, self-contained.

Knows the outcome, not how anything is found.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from models.files import write_atomically
from models.image import ImageError, encode_png
from report.page import Card, Table, Thumbnail, render
from training.datasets.listing import Listing
from training.quality.findings import KINDS, Finding, Outcome, count_kinds
from training.quality.scan import shown

REPORT_HTML = "report.html"

_TEMPLATE = Path(__file__).with_name("check.html")
# Findings of a kind that are shown; the table has all.
_SHOWN = 24
# Largest side of a picture, in pixels.
_SIDE = 112
# Rows of the table of confusions.
_CONFUSIONS = 10


@dataclass(frozen=True, slots=True)
class Section:
    """One kind of finding."""

    title: str
    note: str
    count: int
    cards: Sequence[Card]


def write_page(folder: Path, outcome: Outcome, command: str) -> Path:
    """Write ``report.html``.

    Args:
        folder: Where to.
        outcome: What was found.
        command: Repeats the check.

    Returns:
        The path of the page.
    """
    listing = outcome.listing
    picked = {
        kind: [each for each in outcome.findings if each.kind == kind][:_SHOWN] for kind in KINDS
    }
    wanted = {
        index
        for findings in picked.values()
        for each in findings
        for index in (each.index, each.beside)
        if index is not None
    }
    pictures = _read_pictures(listing, wanted)
    counts = count_kinds(outcome.findings)
    sections = [
        Section(
            title, note, counts[kind], [_card(each, listing, pictures) for each in picked[kind]]
        )
        for kind, (title, note) in KINDS.items()
    ]
    text = render(
        _TEMPLATE,
        title=f"Check of {listing.name}",
        summary=_summary(outcome),
        judged=outcome.judged,
        found=Table(
            ("finding", "rows"),
            [(each.title, f"{each.count:,}") for each in sections],
            numbers=[1],
        ),
        sections=[each for each in sections if each.count],
        confusions=_confusions(outcome),
        classes=_class_table(outcome),
        turned=outcome.orientations,
        command=command,
    )
    path = folder / REPORT_HTML
    write_atomically(path, text)
    return path


def _read_pictures(listing: Listing, wanted: set[int]) -> dict[int, Thumbnail]:
    pictures = {}
    for index, content in listing.read(wanted):
        label = listing.label(index)
        text = f"{listing.rows[index]}, {f'labelled {label}' if label else 'without a label'}"
        try:
            pictures[index] = Thumbnail(text, encode_png(shown(content, _SIDE)))
        except ImageError:
            pictures[index] = Thumbnail(text, None)
    return pictures


def _card(finding: Finding, listing: Listing, pictures: dict[int, Thumbnail]) -> Card:
    if finding.index is None:
        return Card([], [f"{finding.label} ({finding.split})", finding.suggestion])
    label = listing.label(finding.index) or "no label"
    said = f"rather {finding.suggestion}" if finding.kind == "label" else finding.suggestion
    # A blank card says nothing: the picture beside it comes first where there is one.
    shown_rows = [row for row in (finding.index, finding.beside) if row is not None]
    lines = [label, said, str(listing.rows[finding.index])]
    if finding.score < 1:
        lines[1] += f" ({finding.score:.2f})"
    return Card([pictures[row] for row in shown_rows], lines)


def _summary(outcome: Outcome) -> dict[str, str]:
    listing = outcome.listing
    splits = Counter(row.split for row in listing.rows)
    summary = {
        "images": f"{len(listing.rows):,}",
        "classes": f"{len(listing.labels):,}",
        "splits": ", ".join(f"{split} {count:,}" for split, count in splits.items()),
        "findings": f"{len(outcome.findings):,}",
    }
    if outcome.estimate is not None:
        summary["wrong labels, estimated"] = f"{outcome.estimate:,}"
    return summary


def _confusions(outcome: Outcome) -> Table:
    listing = outcome.listing
    pairs = Counter(
        (listing.label(each.index), each.suggestion)
        for each in outcome.findings
        if each.kind == "label" and each.index is not None
    )
    rows = [
        (given, other, f"{count:,}") for (given, other), count in pairs.most_common(_CONFUSIONS)
    ]
    return Table(("labelled", "rather", "images"), rows, numbers=[2])


def _class_table(outcome: Outcome) -> Table:
    listing = outcome.listing
    counts = Counter((row.target, row.split) for row in listing.rows)
    suspects = Counter(
        listing.rows[each.index].target
        for each in outcome.findings
        if each.kind == "label" and each.index is not None
    )
    rows = [
        (
            label,
            *(f"{counts[target, split]:,}" for split in listing.splits),
            f"{suspects[target]:,}",
        )
        for target, label in enumerate(listing.labels)
    ]
    names = ("class", *listing.splits, "suspected labels")
    return Table(names, rows, numbers=range(1, len(names)))
