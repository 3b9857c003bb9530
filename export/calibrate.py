"""Fit the temperature that calibrates a model's probabilities, and put it into a graph.

Guo et al. 2017, "On Calibration of Modern Neural Networks": one number, fitted on images that are
not measured on, that divides every logit; labels cannot change. Legend: N rows, K classes.
"""

import copy

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

# Far beyond what a trained network needs; a degenerate one would overflow without these limits.
_LOWEST, _HIGHEST = 0.05, 20.0
# Halvings of the interval's logarithm, ln 400 wide: its last digit is beyond float32's.
_STEPS = 40


def fit_temperature(logits_NK: NDArray[np.floating], targets_N: NDArray[np.int64]) -> float:
    """Return the temperature with the smallest negative log-likelihood.

    The targets are softened as in Platt 1999 (the right class gets (N + 1) / (N + 2)): with a small
    split and no mistake in it, the likelihood alone is best at infinite confidence. The likelihood
    is convex in 1 / temperature, so its slope is searched for its only zero.

    Args:
        logits_NK: float [N, K], of images that are not measured on.
        targets_N: int64 [N].

    Returns:
        The temperature, 0.05 to 20, rounded to float32.
    """
    rows, classes = logits_NK.shape
    right = (rows + 1) / (rows + 2)
    wanted_NK = np.full((rows, classes), (1 - right) / (classes - 1))
    wanted_NK[np.arange(rows), targets_N] = right
    values_NK = logits_NK.astype(np.float64)
    values_NK -= values_NK.max(axis=1, keepdims=True)
    wanted = float((wanted_NK * values_NK).sum())
    low, high = np.log(_LOWEST), np.log(_HIGHEST)
    for _ in range(_STEPS):
        middle = (low + high) / 2
        powers_NK = np.exp(values_NK / np.exp(middle))
        expected_N = (powers_NK * values_NK).sum(axis=1) / powers_NK.sum(axis=1)
        if float(expected_N.sum()) > wanted:  # more confident than right: a higher temperature
            low = middle
        else:
            high = middle
    return float(np.float32(np.exp((low + high) / 2)))


def divide_logits(graph: onnx.ModelProto, temperature: float) -> onnx.ModelProto:
    """Return a graph of the contract whose probabilities are softmax(logits / temperature).

    Args:
        graph: Its outputs are ``logits`` and ``probabilities``. Not modified; its weights may lie
            outside.
        temperature: Takes the place of one that the graph has.
    """
    divided = copy.deepcopy(graph)
    body = divided.graph
    for node in body.node:
        for names in (node.input, node.output):
            names[:] = ["uncalibrated" if name == "probabilities" else name for name in names]
    number = numpy_helper.from_array(np.array(temperature, np.float32), "fitted_temperature")
    body.initializer.append(number)
    body.node.extend(
        (
            helper.make_node("Div", ["logits", number.name], ["divided"]),
            helper.make_node("Softmax", ["divided"], ["probabilities"], axis=1),
        )
    )
    used = {name for node in body.node for name in node.input}
    if "uncalibrated" not in used:
        kept = [node for node in body.node if "uncalibrated" not in node.output]
        del body.node[:]
        body.node.extend(kept)
    return divided
