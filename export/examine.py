"""What the user's own images show of an adopted graph, from the encoded file to the probabilities.

The proof against the user's own answers, scores on labelled images, and what is fitted on them: a
temperature, a threshold to abstain, files of lower precision. What is fitted on one half of the
images is measured on the other. Legend: N files, H height, W width, C channels, K classes.
"""

import logging
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

from export.abstain import check_share, choose_abstain
from export.agreement import Rule, differences
from export.answers import Expected
from export.calibrate import divide_logits, fit_temperature
from export.diagnose import Case, check_folders, diagnose
from export.draft import LowerGraph
from export.errors import AdoptError, ParityError
from export.figures import confusion, evaluate, halves, softmax
from export.interface import find_precision
from export.pictures import Pictures, decode_chunks
from export.precision import (
    CALIBRATION_IMAGES,
    MAX_ACCURACY_DROP,
    GateTerms,
    check_gate,
    compare_gate,
    convert,
)
from export.proof import Answers
from export.sandbox import Bounds, run_wrapped
from export.weights import MAX_BYTES, size_bytes, write_whole
from export.wrap import Foreign
from models.artifact import ImageSpec, Precision
from models.evidence import Abstain, Metrics, Proof

logger = logging.getLogger("foveal.adopt")

_ROWS = 8
# Images that a gate is measured on at least: of fewer, one changed label is beyond its limit.
_LEAST_GATE_IMAGES = 50
_WORST = 3


@dataclass(frozen=True, slots=True)
class Wanted:
    """What to fit on the user's images.

    Attributes:
        calibrate: Fit a temperature; else the probabilities stay those of the user's model.
        abstain_precision: Wanted share of right labels among the answers; None: it always answers.
        precisions: Files of lower precision to write.
        max_accuracy_drop: Accuracy that each of them may lose, as a share.
        scaled_decoding: Decode JPEGs much larger than the model at a scale, which may lose as much.
    """

    calibrate: bool = False
    abstain_precision: float | None = None
    precisions: Sequence[Precision] = ()
    max_accuracy_drop: float = MAX_ACCURACY_DROP
    scaled_decoding: bool = False


@dataclass(frozen=True, slots=True)
class Findings:
    """What the images show.

    Attributes:
        graph: The graph to publish: the wrapped one, with a temperature if one was fitted.
        temperature: What was fitted; None: nothing.
        proof: Agreement with the user's own answers, if there are any.
        metrics: Scores, if labels are known.
        abstain: When the model abstains, if it may.
        lower: The same graph in other precisions.
        image: How images are decoded, where not as the subject's.
    """

    graph: onnx.ModelProto
    temperature: float | None = None
    proof: Proof | None = None
    metrics: Metrics | None = None
    abstain: Abstain | None = None
    lower: Sequence[LowerGraph] = ()
    image: ImageSpec | None = None


@dataclass(frozen=True, slots=True)
class Subject:
    """What is examined.

    Attributes:
        foreign: The graph as it came.
        wrapped: The graph of the contract around it.
        labels: Label of each class.
        golden_NHWC: The golden images as a load decodes them, uint8.
        bounds: Resources that it may use.
        weights: Folder of the weights of both graphs; None: they are inside them.
        rule: What counts as the same answer; its thresholds are the model's.
    """

    foreign: Foreign
    wrapped: onnx.ModelProto
    labels: tuple[str, ...]
    golden_NHWC: NDArray[np.uint8]
    bounds: Bounds
    weights: Path | None = None
    rule: Rule = field(default_factory=Rule)


def check_wanted(wanted: Wanted, pictures: Pictures, foreign: Foreign) -> None:
    """Refuse what cannot be fitted on these images.

    Raises:
        AdoptError: There are too few, their labels are unknown, or the graph is of another task or
            precision.
        ExportError: The share of right labels is none.
    """
    names = {"--calibrate": wanted.calibrate, "--abstain-precision": wanted.abstain_precision}
    for name, value in names.items():
        if value and foreign.answer.task == "multi-label":
            raise AdoptError(
                f"{name}: expected one label of many, got a multi-label model, whose thresholds "
                "say what it answers: leave it out, or see --threshold"
            )
        if value and (pictures.targets_N is None or len(pictures.files) < 2):
            raise AdoptError(
                f"{name}: expected labelled images, got none: give --images a folder with a "
                "folder for each label, or --expected a CSV with a column truth"
            )
    if wanted.abstain_precision is not None:
        check_share(wanted.abstain_precision)
    own = find_precision(foreign.model)
    if wanted.precisions and own != "fp32":
        raise AdoptError(
            f"precision {wanted.precisions[0]}: expected a file in fp32, got one in {own}; leave "
            "--precision out, or adopt the file before it was converted"
        )
    if wanted.precisions and size_bytes(foreign.model) >= MAX_BYTES:
        raise AdoptError(
            f"precision {wanted.precisions[0]}: expected less than {MAX_BYTES >> 20} MiB with all "
            f"weights, got {size_bytes(foreign.model) >> 20}; leave --precision out"
        )
    if wanted.precisions and len(pictures.files) < 2 * _LEAST_GATE_IMAGES:
        raise AdoptError(
            f"precision {wanted.precisions[0]}: expected at least {2 * _LEAST_GATE_IMAGES} "
            f"--images to measure it on, got {len(pictures.files)}"
        )
    if wanted.scaled_decoding and len(pictures.files) < _LEAST_GATE_IMAGES:
        raise AdoptError(
            f"scaled decoding: expected at least {_LEAST_GATE_IMAGES} --images to measure it on, "
            f"got {len(pictures.files)}"
        )


def examine(
    subject: Subject, pictures: Pictures, expected: Expected | None, wanted: Wanted
) -> Findings:
    """Run the wrapped graph on all files, prove it, score it and fit what is wanted.

    Args:
        subject: What is examined.
        pictures: The user's images.
        expected: Their own answers to these files; None: unknown.
        wanted: What to fit.

    Raises:
        AdoptError: A file is no image, or the labels are in another order than the folders say.
        ParityError: The user's own pipeline answers otherwise.
        GateError: A file of lower precision, or scaled decoding, loses too much.
        ExportError: No threshold is as precise as asked, or nothing can be converted.
    """
    if not pictures.files:
        return Findings(subject.wrapped)
    logits_NK, probabilities_NK = run_files(subject, subject.wrapped, pictures, "proof")
    proof = None
    if expected is not None:
        proof = prove_files(subject, expected, (logits_NK, probabilities_NK))
    targets_N = pictures.targets_N
    if targets_N is not None:
        said = check_folders(targets_N, probabilities_NK, subject.labels, subject.rule.thresholds)
        if said:
            raise AdoptError(f"not published: {said}")
    scored = Findings(subject.wrapped, proof=proof)
    if wanted.scaled_decoding:
        answers = logits_NK, probabilities_NK
        subject, (logits_NK, probabilities_NK) = _at_scale(subject, pictures, answers, wanted)
        scored = replace(scored, image=subject.foreign.given.image)
    if targets_N is not None:
        scored, probabilities_NK = _score(
            subject, (logits_NK, probabilities_NK), targets_N, wanted, scored
        )
    if not wanted.precisions:
        return scored
    whole = _whole(subject, scored.graph)
    lower = [
        _lower(subject, whole, precision, pictures, probabilities_NK, wanted.max_accuracy_drop)
        for precision in wanted.precisions
    ]
    return replace(scored, lower=lower)


def _at_scale(
    subject: Subject, pictures: Pictures, whole: Answers, wanted: Wanted
) -> tuple[Subject, Answers]:
    """Answer JPEGs that are decoded at a scale, and compare with what they got decoded whole."""
    given = subject.foreign.given
    image = replace(given.image, scaled_decoding=True)
    scaled = replace(subject, foreign=replace(subject.foreign, given=replace(given, image=image)))
    logits_NK, probabilities_NK = run_files(scaled, subject.wrapped, pictures, "scaled decoding")
    # The same pixels in the same batch give the same bits.
    is_other_N = (logits_NK != whole[0]).any(axis=1)
    if is_other_N.sum() < _LEAST_GATE_IMAGES:
        raise AdoptError(
            f"scaled decoding: expected at least {_LEAST_GATE_IMAGES} JPEGs among --images that it "
            f"changes, whose shorter side is {4 * max(image.resized)} pixels or more, got "
            f"{is_other_N.sum()}"
        )
    gate = compare_gate(
        whole[1][is_other_N],
        probabilities_NK[is_other_N],
        None if pictures.targets_N is None else pictures.targets_N[is_other_N],
        np.empty((0, len(subject.labels)), np.float32),
        GateTerms("given", wanted.max_accuracy_drop, subject.rule.thresholds),
    )
    check_gate(gate, "scaled decoding", "whole decoding's")
    return scaled, (logits_NK, probabilities_NK)


def _score(
    subject: Subject,
    answers: Answers,
    targets_N: NDArray[np.int64],
    wanted: Wanted,
    findings: Findings,
) -> tuple[Findings, NDArray[np.float32]]:
    """Score answers and fit what is wanted on them.

    Returns:
        The findings, completed, and the probabilities with the temperature, float32 [N, K].
    """
    logits_NK, probabilities_NK = answers
    thresholds = subject.rule.thresholds
    graph, temperature, abstain, before = subject.wrapped, None, None, None
    fit, measured = halves(targets_N)
    if wanted.calibrate:
        before = evaluate(probabilities_NK[measured], targets_N[measured]).calibration_error
        temperature = fit_temperature(logits_NK[fit], targets_N[fit])
        graph = divide_logits(subject.wrapped, temperature)
        probabilities_NK = softmax(logits_NK / temperature)
    if wanted.abstain_precision is not None:
        abstain = choose_abstain(
            probabilities_NK[fit],
            targets_N[fit],
            probabilities_NK[measured],
            targets_N[measured],
            wanted.abstain_precision,
            splits=("given", "given"),
        )
    rows = measured if wanted.calibrate else np.arange(len(targets_N))
    figures = evaluate(probabilities_NK[rows], targets_N[rows], thresholds)
    metrics = Metrics(
        "given",
        figures.images,
        figures.accuracy,
        figures.per_class,
        figures.calibration_error,
        before,
        None
        if thresholds
        else confusion(probabilities_NK[rows].argmax(axis=1), targets_N[rows], len(subject.labels)),
    )
    found = replace(
        findings, graph=graph, temperature=temperature, metrics=metrics, abstain=abstain
    )
    return found, probabilities_NK


def _whole(subject: Subject, graph: onnx.ModelProto) -> onnx.ModelProto:
    """Return a graph with its weights inside, as its conversion needs it."""
    if subject.weights is None:
        return graph
    with tempfile.TemporaryDirectory(prefix="foveal-whole-") as folder:
        write_whole(graph, subject.weights, Path(folder) / "model.onnx")
        return onnx.load(Path(folder) / "model.onnx")


def run_files(subject: Subject, graph: onnx.ModelProto, pictures: Pictures, title: str) -> Answers:
    """Decode files and run a graph of the contract on them, in processes of its own.

    Raises:
        AdoptError: A file is no image, or the graph exceeds its bounds.
    """
    content = graph.SerializeToString()
    runs = [
        run_wrapped(content, images_NHWC, _ROWS, subject.bounds, subject.weights)
        for images_NHWC in decode_chunks(pictures.files, subject.foreign.given.image, title)
    ]
    logits_NK, probabilities_NK = (np.concatenate(parts) for parts in zip(*runs, strict=True))
    return logits_NK, probabilities_NK


def prove_files(subject: Subject, expected: Expected, answers: Answers) -> Proof:
    """Compare what the user's own pipeline answers to files with what we answer to them.

    Raises:
        ParityError: Another first label, or a probability that differs by more than the tolerance;
            the message says why.
    """
    _, got_NK = answers
    rule = subject.rule
    is_same_N = rule.agreeing(expected, got_NK)
    is_same_label_N = rule.same_labels(expected.probabilities_NK, got_NK)
    agreement = float(is_same_label_N.mean())
    differences_N = differences(expected.probabilities_NK, got_NK)
    if not is_same_N.all():
        text = _differing(expected, rule, is_same_N, agreement, differences_N)
        if not expected.is_difference_accepted:
            case = Case(
                subject.foreign,
                expected,
                answers,
                subject.labels,
                subject.bounds,
                rule,
                subject.weights,
            )
            raise ParityError(f"{text}; not published: {diagnose(case)}")
        logger.warning("%s; accepted", text)
    if expected.is_labels_only:  # a tolerance of 1: probabilities are not compared
        return Proof(f"{expected.reference} (labels)", len(got_NK), agreement, 1.0, 1.0)
    return Proof(
        expected.reference,
        len(got_NK),
        agreement,
        float(differences_N.max()),
        rule.tolerance,
        expected.max_pixel_difference,
    )


def _differing(
    expected: Expected,
    rule: Rule,
    is_same_N: NDArray[np.bool_],
    agreement: float,
    differences_N: NDArray[np.float32],
) -> str:
    """Say how much answers differ, and on which files most."""
    worst = np.argsort(-np.where(is_same_N, -1, differences_N), kind="stable")[:_WORST]
    named = ", ".join(
        f"{expected.files[row].name} ({differences_N[row]:.2g})"
        for row in worst
        if not is_same_N[row]
    )
    also = "" if expected.is_labels_only else f" and probabilities within {rule.tolerance:g}"
    got = "" if expected.is_labels_only else f" and a difference of {differences_N.max():.3g}"
    return (
        f"{len(is_same_N)} files against {expected.reference}: expected the same labels{also}, "
        f"got {agreement:.2%} of the labels{got}, most for {named}"
    )


def _lower(
    subject: Subject,
    graph: onnx.ModelProto,
    precision: Precision,
    pictures: Pictures,
    probabilities_NK: NDArray[np.float32],
    max_accuracy_drop: float,
) -> LowerGraph:
    """Convert a graph that has run within its bounds on all images, and measure it."""
    files, targets_N = pictures.files, pictures.targets_N
    fit, measured = halves(np.zeros(len(files), np.int64) if targets_N is None else targets_N)
    sample = np.random.default_rng(0).permutation(fit)[:CALIBRATION_IMAGES]
    spec: ImageSpec = subject.foreign.given.image
    ranges_NHWC = np.concatenate(list(decode_chunks([files[row] for row in sample], spec)))
    converted = convert(graph, precision, ranges_NHWC)
    chosen = Pictures(tuple(files[row] for row in measured))
    _, got_NK = run_files(replace(subject, weights=None), converted, chosen, precision)
    content = converted.SerializeToString()
    _, golden_GK = run_wrapped(content, subject.golden_NHWC, 1, subject.bounds)
    gate = compare_gate(
        probabilities_NK[measured],
        got_NK,
        None if targets_N is None else targets_N[measured],
        golden_GK,
        GateTerms("given", max_accuracy_drop, subject.rule.thresholds),
    )
    check_gate(gate, precision)
    return LowerGraph(precision, converted, gate)
