"""The check of a dataset: list -> scan -> copies, oddities -> labels -> page and table.

Every stage is a module of its name; this one only chains them and measures their time.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from models.files import write_atomically
from models.repository import ModelRepository
from training.datasets.listing import Listing, list_arrays
from training.datasets.sources import list_named, read_source
from training.quality.copies import find_copies
from training.quality.cross_validation import FOLDS, CrossValidation
from training.quality.duplicates import SIMILAR
from training.quality.findings import FINDINGS_CSV, Outcome, in_order, to_csv
from training.quality.model import ModelJudge
from training.quality.oddities import find_odd_images, find_small_classes, find_unusable
from training.quality.page import write_page
from training.quality.scan import Scan, scan
from training.quality.suspects import Judge, Verdict, find_wrong_labels

# Fewer rows than this, or fewer than two classes, are too few to learn from.
_LEAST_ROWS = 50

# Called with a stage, what is done of it, and its total.
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class Labels:
    """How labels are checked.

    Attributes:
        model: ``name`` or ``name:version`` of a model that judges; None: cross-validation.
        repository: Holds the model.
        skip: Do not check labels.
    """

    model: str | None = None
    repository: ModelRepository | None = None
    skip: bool = False


def list_dataset(name: str, data_dir: Path | None = None) -> Listing:
    """List a dataset by the name that ``foveal train --dataset`` takes.

    Args:
        name: A key of ``SOURCES``, or a key of ``KINDS`` with its argument: ``folder:photos``.
        data_dir: Folder of the files of a dataset with a name; None for its default.

    Raises:
        ConfigError: The name does not exist.
        DatasetError: There is nothing to list: no folder, no classes, or a damaged table.
    """
    listing = list_named(name, data_dir)
    return list_arrays(name, read_source(name, data_dir)) if listing is None else listing


def check(
    listing: Listing,
    out: Path,
    labels: Labels,
    *,
    similarity: float = SIMILAR,
    command: str = "",
    on_progress: Progress = lambda *_: None,
) -> Outcome:
    """Look through a dataset; write ``findings.csv`` and ``report.html``.

    Args:
        listing: The dataset.
        out: Folder to write into; made if it does not exist.
        labels: How labels are checked.
        similarity: Least correlation of near-duplicates, 0-1.
        command: Repeats the check; shown on the page.
        on_progress: See ``Progress``.

    Raises:
        ArtifactError: The model does not exist, or its files break the contract.
        ConfigError: The model has other labels.
    """
    seconds: dict[str, float] = {}
    with _timed(seconds, "scan"):
        scanned = scan(listing, lambda done, total: on_progress("images", done, total))
    on_progress("duplicates", 0, 1)
    with _timed(seconds, "duplicates"):
        copies = find_copies(listing, scanned, similarity)
    findings = [
        *copies.findings,
        *find_unusable(listing, scanned),
        *find_small_classes(listing),
        *find_odd_images(scanned),
    ]
    with _timed(seconds, "labels"):
        judged, verdict = _check_labels(listing, scanned, copies.groups_N, labels, on_progress)
    if verdict is not None:
        findings += verdict.findings
    turned = sum(facts is not None and facts.orientation > 1 for facts in scanned.facts)
    outcome = Outcome(
        listing,
        in_order(findings),
        turned,
        judged,
        None if verdict is None else verdict.agreement,
        None if verdict is None else verdict.estimate,
        seconds,
    )
    out.mkdir(parents=True, exist_ok=True)
    on_progress("report", 0, 1)
    with _timed(seconds, "report"):
        write_atomically(out / FINDINGS_CSV, to_csv(outcome.findings, listing))
        write_page(out, outcome, command)
    return outcome


def _check_labels(
    listing: Listing,
    scanned: Scan,
    groups_N: NDArray[np.int64],
    labels: Labels,
    on_progress: Progress,
) -> tuple[str, Verdict | None]:
    """Return how labels were checked, and what was found; None: they were not."""
    if labels.skip:
        return "not checked: --skip-labels", None
    targets_N = listing.targets_N
    rows = scanned.readable[targets_N[scanned.readable] >= 0]
    if labels.model is None:
        # A fold must not hold all rows of a class.
        counts_K = np.bincount(targets_N[rows], minlength=len(listing.labels))
        rows = rows[counts_K[targets_N[rows]] >= FOLDS]
    if len(rows) < _LEAST_ROWS or len(np.unique(targets_N[rows])) < 2:
        few = f"{len(rows)} usable images of {len(np.unique(targets_N[rows]))} classes"
        return f"not checked: expected {_LEAST_ROWS} images of 2 classes, got {few}", None

    def report(done: int, total: int) -> None:
        on_progress("labels", done, total)

    judge: Judge
    if labels.model is not None:
        assert labels.repository is not None, "a model comes from a repository; this is a bug"
        judge = ModelJudge(labels.repository, labels.model, listing, rows, report)
        how = f"by the model {labels.model}"
    else:
        judge = CrossValidation(
            scanned.small_NSSC[rows],
            targets_N[rows],
            groups_N[rows],
            len(listing.labels),
            on_progress=report,
        )
        how = f"by cross-validation, {FOLDS} folds"
    verdict = find_wrong_labels(listing, rows, judge)
    classes = len(np.unique(targets_N[rows]))
    if labels.model is None and verdict.balanced < (1 + 1 / classes) / 2:
        # Nearer to chance than to the labels: most of what it doubts would be right.
        poor = f"cross-validation agrees with only {verdict.balanced:.0%} of a class's labels"
        return f"not checked: {poor}; name a model that knows the classes, --model", None
    return f"{how}, which agrees with {verdict.agreement:.1%} of them", verdict


@contextmanager
def _timed(seconds: dict[str, float], stage: str) -> Iterator[None]:
    begun_s = time.monotonic()
    yield
    seconds[stage] = time.monotonic() - begun_s
