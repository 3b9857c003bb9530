"""Why a model's own pipeline answers otherwise: try what usually differs, name what makes it agree.

Pixels first (order of the channels, scale, mean, std, geometry, filter, loader), one change at a
time and up to five together, on the files that differ most; then labels and graph.
Legend: N files, H height, W width, C channels, K classes.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

from export.agreement import Rule, differences
from export.answers import Expected
from export.pictures import class_indices, decode_chunks, decode_file
from export.proof import Answers
from export.sandbox import Bounds, run_prepared
from export.setups import Setup, alternatives, describe_change
from export.wrap import Foreign
from models.labels import are_given

_SAMPLE = 8
_ROUNDS = 5
# Prepared pixels of one process.
_RUN_BYTES = 64 << 20
# Images whose answers must become right before another order of the labels is believed.
_LEAST_MOVED = 5
_LEAST_OF_CLASS = 3

Told = NDArray[np.float32]
"""Probabilities, float32 [N, K]."""


@dataclass(frozen=True, slots=True)
class Case:
    """What differs.

    Attributes:
        foreign: The graph, with the options that it was given.
        expected: The user's own answers.
        answers: What the wrapped graph answers to the same files.
        labels: Label of each class.
        bounds: Resources that the graph may use.
        rule: What counts as the same answer.
        weights: Folder of the graph's weights; None: they are inside it.
    """

    foreign: Foreign
    expected: Expected
    answers: Answers
    labels: Sequence[str]
    bounds: Bounds
    rule: Rule
    weights: Path | None


def diagnose(case: Case) -> str:
    """Return where the first difference arises and how to mend it, for the end of a message."""
    said = _outputs(case) or _training_mode(case)
    if said is None and case.expected.max_pixel_difference is not None:
        return (
            f"graph: the pixels differ by {case.expected.max_pixel_difference:.3g} of 255 at most, "
            "so the rest arises behind them: check --gives, --task and --output"
        )
    return said or _pixels(case)


def check_folders(
    targets_N: NDArray[np.int64],
    got_NK: Told,
    labels: Sequence[str],
    thresholds: Sequence[float] = (),
) -> str | None:
    """Return what the folders' names say about the order of the labels; None: nothing.

    Args:
        targets_N: int64 [N], from the names of folders.
        got_NK: The model's answers.
        labels: Label of each class, in the order that was given.
        thresholds: Of a multi-label model: least probability of each label. A folder's label is
            answered wherever it is among the labels of the image, the most probable one or not.
    """
    answered_N = got_NK.argmax(axis=1)
    if thresholds:
        has_target_N = are_given(got_NK, thresholds)[np.arange(len(targets_N)), targets_N]
        answered_N = np.where(has_target_N, targets_N, answered_N)
    moved: dict[int, int] = {}
    for target in np.unique(targets_N):
        counts = np.bincount(answered_N[targets_N == target], minlength=len(labels))
        if 2 * counts.max() > counts.sum() >= _LEAST_OF_CLASS:
            moved[int(target)] = int(counts.argmax())
    wrong = {target: answer for target, answer in moved.items() if target != answer}
    while set(wrong.values()) != set(wrong):  # only labels that change places with each other
        wrong = {t: a for t, a in wrong.items() if a in wrong and t in wrong.values()}
    places_N = np.array([wrong.get(int(target), target) for target in targets_N])
    before, after = int((answered_N == targets_N).sum()), int((answered_N == places_N).sum())
    if after - before < _LEAST_MOVED:
        return None
    return (
        f"labels: {_order(wrong, labels)}, {after} of the {len(targets_N)} images in folders are "
        f"right, in the given order {before}; correct the order of --labels"
    )


def _order(places: dict[int, int], labels: Sequence[str]) -> str:
    names = list(class_indices(labels))
    told = [f"{names[label]!r} at {place}" for label, place in sorted(places.items())]
    return f"in another order ({', '.join(told[:6])}{', ...' if len(told) > 6 else ''})"


def _outputs(case: Case) -> str | None:
    """Look for the same numbers elsewhere: in another column, or before our softmax."""
    expected, (logits_NK, got_NK) = case.expected, case.answers
    images = len(got_NK)
    if case.rule.agreeing(expected, logits_NK).all() and not expected.is_labels_only:
        return (
            "graph: its output holds probabilities already: with --gives probabilities "
            f"all {images} agree"
        )
    with np.errstate(over="ignore"):
        sigmoids_NK = (1 / (1 + np.exp(-logits_NK))).astype(np.float32)
    if not expected.is_labels_only and case.rule.agreeing(expected, sigmoids_NK).all():
        return (
            "graph: the answers are sigmoids of its output, each label by itself: with --task "
            f"multi-label all {images} agree"
        )
    wrong = np.flatnonzero(_differ(case, got_NK))
    if len(wrong) < 2 or expected.is_labels_only:
        return None
    places = {}
    for label in map(int, wrong):
        column_N = expected.probabilities_NK[:, label : label + 1]
        costs = np.abs(column_N - got_NK[:, wrong]).max(axis=0)
        places[label] = int(wrong[costs.argmin()])
    order = np.arange(got_NK.shape[1])
    order[list(places)] = list(places.values())
    if (
        len(set(places.values())) == len(places)
        and case.rule.agreeing(expected, got_NK[:, order]).all()
    ):
        return (
            f"labels: {_order(places, case.labels)}, all {images} agree; correct the order of "
            "--labels"
        )
    return None


def _differ(case: Case, got_NK: Told) -> NDArray[np.bool_]:
    """Return which columns differ by more than the tolerance, bool [K]."""
    differences_K = np.abs(case.expected.probabilities_NK - got_NK).max(axis=0)
    is_other_K: NDArray[np.bool_] = differences_K > case.rule.tolerance
    return is_other_K


def _training_mode(case: Case) -> str | None:
    """Try batch norms as they are in training, with one image a batch: normalised by itself."""
    model = onnx.ModelProto()
    model.CopyFrom(case.foreign.model)
    norms = [node for node in model.graph.node if node.op_type == "BatchNormalization"]
    if not norms:
        return None
    for node in norms:
        node.op_type = "InstanceNormalization"
        del node.input[3:]
        kept = [attribute for attribute in node.attribute if attribute.name == "epsilon"]
        del node.attribute[:]
        node.attribute.extend(kept)
    rows = _worst(case)
    foreign = replace(case.foreign, model=model)
    setup = Setup(foreign.options, foreign.given.image)
    (got_NK,) = _run(case, foreign, _files(case, rows), [setup])
    if not case.rule.agreeing(case.expected, got_NK, rows).all():
        return None
    return (
        "graph: batch norm: the answers are those of a model in training mode, the file is not; "
        "call model.eval() in your pipeline"
    )


def _pixels(case: Case) -> str:
    rows = _worst(case)
    files = _files(case, rows)
    wanted_NK = case.expected.probabilities_NK[rows]

    def cost(got_NK: Told) -> float:
        return float(np.nan_to_num(np.abs(wanted_NK - got_NK), nan=1.0).sum(axis=1).mean())

    first = best = Setup(case.foreign.options, case.foreign.given.image)
    lowest = cost(case.answers[1][rows])
    tried = {first}
    for _ in range(_ROUNDS):
        setups = [s for s in alternatives(best, case.foreign.given.elem_type) if s not in tried]
        tried.update(setups)
        start = best
        runs = _run(case, case.foreign, files, setups)
        for setup, got_NK in zip(setups, runs, strict=False):
            if case.rule.agreeing(case.expected, got_NK, rows).all():
                return _confirm(case, first, setup)
            if cost(got_NK) < lowest:
                best, lowest = setup, cost(got_NK)
        if best is start:
            break
    closest = ""
    if best != first:
        _, flags = describe_change(first, best)
        closest = f"; nearest with {flags}"
    return (
        "pixels or graph: no order of channels, scale, mean, std, resize, crop or filter tried "
        f"makes them agree{closest}; check that file and answers are of the same weights, and "
        "give the transform's own values"
    )


def _confirm(case: Case, first: Setup, setup: Setup) -> str:
    """Say what the change is, and how many of all files agree with it."""
    foreign = replace(case.foreign, options=setup.options)
    parts = []
    for images_NHWC in decode_chunks(case.expected.files, setup.spec, "diagnosis"):
        prepared = foreign.given.prepare(images_NHWC, setup.options)
        parts.append(run_prepared(foreign, prepared, case.bounds, case.weights)[1])
    agree = int(case.rule.agreeing(case.expected, np.concatenate(parts)).sum())
    images = len(case.expected.files)
    what, flags = describe_change(first, setup)
    count = f"all {images}" if agree == images else f"{agree} of {images}"
    return f"pixels: {what}: with {flags} {count} agree"


def _run(
    case: Case, foreign: Foreign, files: Sequence[Path], setups: Sequence[Setup]
) -> Iterator[Told]:
    """Yield the probabilities of the files under each setup, some setups a process."""
    if not setups:
        return
    row_bytes = 4 * int(np.prod(foreign.given.image.shape_HWC))
    size = max(1, _RUN_BYTES // (row_bytes * len(files)))
    rows: dict[object, NDArray[np.uint8]] = {}
    for start in range(0, len(setups), size):
        prepared = []
        for setup in setups[start : start + size]:
            if setup.spec not in rows:
                rows[setup.spec] = np.stack([decode_file(file, setup.spec) for file in files])
            prepared.append(foreign.given.prepare(rows[setup.spec], setup.options))
        _, got_NK = run_prepared(foreign, np.concatenate(prepared), case.bounds, case.weights)
        yield from np.split(got_NK, len(prepared))


def _worst(case: Case) -> list[int]:
    """Return the files to try on: those that differ most."""
    differences_N = differences(case.expected.probabilities_NK, case.answers[1])
    return [int(row) for row in np.argsort(-differences_N, kind="stable")[:_SAMPLE]]


def _files(case: Case, rows: Sequence[int]) -> list[Path]:
    return [case.expected.files[row] for row in rows]
