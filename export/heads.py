"""The head: what the numbers that a foreign graph answers mean, as logits and probabilities.

Once in NumPy, the reference of the proof, and once in nodes, which are published. Legend: N rows,
K classes.
"""

from collections.abc import Iterator, Mapping

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from export.errors import AdoptError
from export.proof import Answers
from export.scores import GraphAnswer

# Keeps the logarithm of a probability of 0 finite (-87); about the smallest normal float32.
TINY = 1e-38
# How far rows of probabilities may be from a sum of 1: a clamp, or fp16, moves them a little.
SUM_TOLERANCE = 1e-2


def columns(answer: GraphAnswer, classes: int) -> int:
    """Return how many numbers a row of the graph's answer has."""
    return 1 if answer.task == "binary" else classes


def check_classes(answer: GraphAnswer, classes: int) -> None:
    """Check the number of labels of a binary model.

    Raises:
        AdoptError: There are not two.
    """
    if answer.task == "binary" and classes != 2:
        raise AdoptError(
            f"expected 2 labels of a graph with one number a row, the second one's probability, "
            f"got {classes}"
        )


def complete(
    answer: GraphAnswer, outputs: Mapping[str, NDArray[np.float32]], *, is_checked: bool = True
) -> Answers:
    """Compute logits and probabilities from a graph's own numbers.

    Args:
        answer: What they mean.
        outputs: Its tensors by name, float32, [N, K]; of a binary model [N, 1].
        is_checked: Whether numbers that cannot be right are refused.

    Raises:
        AdoptError: The numbers are not what they should be, or only an option can say what they
            are.
    """
    logits = outputs.get(answer.logits or "")
    probabilities = outputs.get(answer.probabilities or "")
    if is_checked and answer.is_guess and logits is not None:
        _ask_whether_logits(logits, answer)
    if is_checked and probabilities is not None:
        _check_probabilities(probabilities, answer)
    if answer.task == "binary":
        if logits is not None:
            logits = np.concatenate([np.zeros_like(logits), logits], axis=1)
        if probabilities is not None:
            probabilities = np.concatenate([1 - probabilities, probabilities], axis=1)
    if probabilities is None:
        assert logits is not None, "a graph has logits or probabilities; this is a bug"
        is_many = answer.task == "multi-label"
        probabilities = _sigmoid(logits) if is_many else _softmax(logits)
    if logits is None:
        logits = np.log(probabilities + np.float32(TINY))
        if answer.task == "multi-label":
            logits -= np.log(1 - probabilities + np.float32(TINY))
    return logits, probabilities


def nodes_after(
    answer: GraphAnswer, names: Mapping[str, str], graph: onnx.GraphProto
) -> Iterator[onnx.NodeProto]:
    """Yield the nodes from a graph's own numbers to ``logits`` and ``probabilities``.

    Args:
        answer: What they mean.
        names: Its tensors to theirs in ``graph``, float32, as in ``complete``.
        graph: Gets the constants.
    """
    own = {"logits": answer.logits, "probabilities": answer.probabilities}
    for title, name in own.items():
        if name is None:
            continue
        if answer.task != "binary":
            yield helper.make_node("Identity", [names[name]], [title])
            continue
        first = f"first_{title}"
        if title == "logits":
            yield helper.make_node("Sub", [names[name], names[name]], [first])
        else:
            yield helper.make_node("Sub", [_number(graph, "one", 1), names[name]], [first])
        yield helper.make_node("Concat", [first, names[name]], [title], axis=1)
    if answer.probabilities is None:
        kind = "Sigmoid" if answer.task == "multi-label" else "Softmax"
        axis = {"axis": 1} if kind == "Softmax" else {}
        yield helper.make_node(kind, ["logits"], ["probabilities"], None, None, None, None, **axis)
    if answer.logits is None:
        tiny, is_many = _number(graph, "tiny", TINY), answer.task == "multi-label"
        yield helper.make_node("Add", ["probabilities", tiny], ["positive"])
        yield helper.make_node("Log", ["positive"], ["log" if is_many else "logits"])
        if is_many:
            yield helper.make_node("Sub", [_number(graph, "one", 1), "probabilities"], ["rest"])
            yield helper.make_node("Add", ["rest", tiny], ["positive_rest"])
            yield helper.make_node("Log", ["positive_rest"], ["log_rest"])
            yield helper.make_node("Sub", ["log", "log_rest"], ["logits"])


def _number(graph: onnx.GraphProto, title: str, value: float) -> str:
    if all(tensor.name != title for tensor in graph.initializer):
        graph.initializer.append(numpy_helper.from_array(np.array(value, np.float32), title))
    return title


def _ask_whether_logits(values_NK: NDArray[np.float32], answer: GraphAnswer) -> None:
    """Refuse to take numbers for logits that look like probabilities."""
    if not values_NK.min() >= -1e-6:
        return
    sums_N = values_NK.sum(axis=1)
    is_inside = values_NK.max() <= 1 + 1e-6
    unknown = (
        f'output "{answer.logits}": expected to know what its numbers are, got '
        f"{values_NK.min():.3g} to {values_NK.max():.3g}"
    )
    if is_inside and np.abs(sums_N - 1).max() <= 5 * SUM_TOLERANCE:
        raise AdoptError(
            f"{unknown}, rows that sum to 1 but no softmax: give --gives probabilities to keep "
            "them, --gives logits if a softmax is to follow"
        )
    if is_inside and answer.task == "single-label" and np.ptp(values_NK) > 0:
        raise AdoptError(
            f"{unknown} in every row but no sigmoid: give --task multi-label --gives probabilities "
            "to keep them, --gives logits if a softmax is to follow"
        )
    if np.abs(sums_N - 100).max() <= 5 * SUM_TOLERANCE * 100:
        raise AdoptError(
            f"{unknown}, rows that sum to 100, as percentages do: divide them by 100 in the graph "
            "and give --gives probabilities, or --gives logits if a softmax is to follow"
        )


def _check_probabilities(values: NDArray[np.float32], answer: GraphAnswer) -> None:
    sums = values.sum(axis=1) if answer.task == "single-label" else np.ones(1)
    # Written so that NaN, which compares as false, is refused too.
    if not (np.abs(sums - 1).max() <= 5 * SUM_TOLERANCE):
        raise AdoptError(
            f'output "{answer.probabilities}": expected probabilities that sum to 1, got '
            f"{sums.min():.4g} to {sums.max():.4g}; give --gives logits if the output is before "
            "the softmax, --task multi-label if an image can have several labels"
        )
    if not (values.min() >= -1e-6 and values.max() <= 1 + 1e-3):
        raise AdoptError(
            f'output "{answer.probabilities}": expected probabilities from 0 to 1, got '
            f"{values.min():.4g} to {values.max():.4g}; give --gives logits if a "
            f"{'softmax' if answer.task == 'single-label' else 'sigmoid'} is to follow"
        )


def _softmax(logits_NK: NDArray[np.float32]) -> NDArray[np.float32]:
    values = logits_NK.astype(np.float64)
    powers = np.exp(values - values.max(axis=1, keepdims=True))
    probabilities: NDArray[np.float32] = powers / powers.sum(axis=1, keepdims=True)
    return probabilities.astype(np.float32)


def _sigmoid(logits_NK: NDArray[np.float32]) -> NDArray[np.float32]:
    values = logits_NK.astype(np.float64)
    powers = np.exp(-np.abs(values))
    probabilities = np.where(values >= 0, 1 / (1 + powers), powers / (1 + powers))
    return probabilities.astype(np.float32)
