"""What the user's own images show of an adopted graph, from the encoded file to the probabilities.

The proof against the user's own answers, scores on labelled images, and what is fitted on them: a
temperature, a threshold to abstain, files of lower precision. What is fitted on one half of the
images is measured on the other. Legend: N files, H height, W width, C channels, K classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx
from numpy.typing import NDArray

from export.abstain import check_share, choose_abstain
from export.answers import Expected
from export.calibrate import divide_logits, fit_temperature
from export.diagnose import (
    TOLERANCE,
    Case,
    agreeing,
    check_folders,
    diagnose,
    differences,
)
from export.draft import LowerGraph
from export.errors import AdoptError, ParityError
from export.figures import evaluate, halves, softmax
from export.pictures import Pictures, decode_chunks
from export.precision import (
    CALIBRATION_IMAGES,
    MAX_ACCURACY_DROP,
    check_gate,
    compare_gate,
    convert,
)
from export.proof import Answers
from export.sandbox import Bounds, run_wrapped
from export.wrap import Foreign
from models.artifact import ImageSpec, Precision
from models.evidence import Abstain, Metrics, Proof

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
    """

    calibrate: bool = False
    abstain_precision: float | None = None
    precisions: Sequence[Precision] = ()
    max_accuracy_drop: float = MAX_ACCURACY_DROP


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
    """

    graph: onnx.ModelProto
    temperature: float | None = None
    proof: Proof | None = None
    metrics: Metrics | None = None
    abstain: Abstain | None = None
    lower: Sequence[LowerGraph] = ()


@dataclass(frozen=True, slots=True)
class Subject:
    """What is examined.

    Attributes:
        foreign: The graph as it came.
        wrapped: The graph of the contract around it.
        labels: Label of each class.
        golden_NHWC: The golden images as a load decodes them, uint8.
        bounds: Resources that it may use.
    """

    foreign: Foreign
    wrapped: onnx.ModelProto
    labels: tuple[str, ...]
    golden_NHWC: NDArray[np.uint8]
    bounds: Bounds


def check_wanted(wanted: Wanted, pictures: Pictures) -> None:
    """Refuse what cannot be fitted on these images.

    Raises:
        AdoptError: There are too few, or their labels are unknown.
        ExportError: The share of right labels is none.
    """
    names = {"--calibrate": wanted.calibrate, "--abstain-precision": wanted.abstain_precision}
    for name, value in names.items():
        if value and (pictures.targets_N is None or len(pictures.files) < 2):
            raise AdoptError(
                f"{name}: expected labelled images, got none: give --images a folder with a "
                "folder for each label, or --expected a CSV with a column truth"
            )
    if wanted.abstain_precision is not None:
        check_share(wanted.abstain_precision)
    if wanted.precisions and len(pictures.files) < 2 * _LEAST_GATE_IMAGES:
        raise AdoptError(
            f"precision {wanted.precisions[0]}: expected at least {2 * _LEAST_GATE_IMAGES} "
            f"--images to measure it on, got {len(pictures.files)}"
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
        GateError: A file of lower precision loses too much.
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
        said = check_folders(targets_N, probabilities_NK, subject.labels)
        if said:
            raise AdoptError(f"not published: {said}")
    graph, temperature, abstain = subject.wrapped, None, None
    metrics = None
    if targets_N is not None:
        fit, measured = halves(targets_N)
        before = None
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
        figures = evaluate(probabilities_NK[rows], targets_N[rows])
        metrics = Metrics(
            "given",
            figures.images,
            figures.accuracy,
            figures.per_class,
            figures.calibration_error,
            before,
        )
    lower = [
        _lower(subject, graph, precision, pictures, probabilities_NK, wanted.max_accuracy_drop)
        for precision in wanted.precisions
    ]
    return Findings(graph, temperature, proof, metrics, abstain, lower)


def run_files(subject: Subject, graph: onnx.ModelProto, pictures: Pictures, title: str) -> Answers:
    """Decode files and run a graph of the contract on them, in a process of its own.

    Raises:
        AdoptError: A file is no image, or the graph exceeds its bounds.
    """
    content = graph.SerializeToString()
    runs = [
        run_wrapped(content, images_NHWC, _ROWS, subject.bounds)
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
    is_same_N = agreeing(expected, got_NK)
    labels_only = replace(expected, is_labels_only=True)
    agreement = float(agreeing(labels_only, got_NK).mean())
    differences_N = differences(expected.probabilities_NK, got_NK)
    if not is_same_N.all():
        worst = np.argsort(-np.where(is_same_N, -1, differences_N), kind="stable")[:_WORST]
        named = ", ".join(
            f"{expected.files[row].name} ({differences_N[row]:.2g})"
            for row in worst
            if not is_same_N[row]
        )
        case = Case(subject.foreign, expected, answers, subject.labels, subject.bounds)
        also = "" if expected.is_labels_only else f" and probabilities within {TOLERANCE:g}"
        got = "" if expected.is_labels_only else f" and a difference of {differences_N.max():.3g}"
        raise ParityError(
            f"{len(got_NK)} files against {expected.reference}: expected the same labels{also}, "
            f"got {agreement:.2%} of the labels{got}, most for {named}; not published: "
            f"{diagnose(case)}"
        )
    if expected.is_labels_only:  # a tolerance of 1: probabilities are not compared
        return Proof(f"{expected.reference} (labels)", len(got_NK), agreement, 1.0, 1.0)
    return Proof(expected.reference, len(got_NK), agreement, float(differences_N.max()), TOLERANCE)


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
    _, got_NK = run_files(subject, converted, chosen, precision)
    content = converted.SerializeToString()
    _, golden_GK = run_wrapped(content, subject.golden_NHWC, 1, subject.bounds)
    gate = compare_gate(
        probabilities_NK[measured],
        got_NK,
        None if targets_N is None else targets_N[measured],
        golden_GK,
        split="given",
        max_accuracy_drop=max_accuracy_drop,
    )
    check_gate(gate, precision)
    return LowerGraph(precision, converted, gate)
