"""A network written down once more, in NumPy alone, with backpropagation by hand.

It shares no line with torch: where both give the same gradients, both are right. Legend: rows are
rows, columns are features; a layer computes x @ W.T + b.
"""

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

pytest.importorskip("torch")

import torch
from torch import nn

from training.losses import compute_loss
from training.networks import build_network
from training.recipes import resolve

pytestmark = pytest.mark.training

Array = NDArray[np.float64]


def sigmoid(sums: Array) -> Array:
    return 1 / (1 + np.exp(-sums))


# Each with its derivative.
ACTIVATIONS: dict[str, tuple[Callable[[Array], Array], Callable[[Array], Array]]] = {
    "identity": (lambda a: a, np.ones_like),
    "sigmoid": (sigmoid, lambda a: sigmoid(a) * (1 - sigmoid(a))),
    "tanh": (np.tanh, lambda a: 1 - np.tanh(a) ** 2),
    "relu": (lambda a: np.maximum(a, 0), lambda a: (a > 0).astype(np.float64)),
    "leaky_relu": (lambda a: np.where(a > 0, a, 0.01 * a), lambda a: np.where(a > 0, 1, 0.01)),
    "silu": (lambda a: a * sigmoid(a), lambda a: sigmoid(a) * (1 + a * (1 - sigmoid(a)))),
}


class NumpyNetwork:
    """Linear layers with an activation between them."""

    def __init__(self, widths: list[int], activation: str, seed: int = 0):
        generator = np.random.default_rng(seed)
        self.weights = [
            generator.normal(0, 1 / np.sqrt(fan_in), (fan_out, fan_in))
            for fan_in, fan_out in pairwise(widths)
        ]
        self.biases = [generator.normal(0, 0.1, fan_out) for fan_out in widths[1:]]
        self.activation, self.derivative = ACTIVATIONS[activation]

    def forward(self, rows: Array) -> tuple[list[Array], list[Array]]:
        """Return what enters each layer, and the sums that leave it."""
        entering, sums = [rows], []
        for weight, bias in zip(self.weights, self.biases, strict=True):
            sums.append(entering[-1] @ weight.T + bias)
            entering.append(self.activation(sums[-1]))
        return entering[:-1], sums

    def predict(self, rows: Array) -> Array:
        return self.forward(rows)[1][-1]

    def backward(
        self, entering: list[Array], sums: list[Array], slope: Array
    ) -> list[tuple[Array, Array]]:
        """Carry the slope of the loss by the last sums back; return it by weights and biases."""
        gradients = []
        for layer in reversed(range(len(self.weights))):
            gradients.append((slope.T @ entering[layer], slope.sum(axis=0)))
            if layer:
                slope = (slope @ self.weights[layer]) * self.derivative(sums[layer - 1])
        return gradients[::-1]

    def step(self, gradients: list[tuple[Array, Array]], lr: float) -> None:
        for layer, (weight, bias) in enumerate(gradients):
            self.weights[layer] -= lr * weight
            self.biases[layer] -= lr * bias


def twin(network: NumpyNetwork, hidden: tuple[int, ...], activation: str) -> nn.Module:
    """Build our fcnn with the same weights."""
    config = resolve("digits", "fcnn", Path("run"), hidden=hidden, activation=activation)
    inputs, outputs = network.weights[0].shape[1], network.weights[-1].shape[0]
    built = build_network(replace(config, dropout=0.0), (1, inputs, 1), outputs).double()
    linears = [layer for layer in built.modules() if isinstance(layer, nn.Linear)]
    with torch.no_grad():
        for linear, weight, bias in zip(linears, network.weights, network.biases, strict=True):
            linear.weight.copy_(torch.from_numpy(weight))
            linear.bias.copy_(torch.from_numpy(bias))
    return built


def assert_same_gradients(network: nn.Module, gradients: list[tuple[Array, Array]]) -> None:
    flat = [array for pair in gradients for array in pair]
    for parameter, expected in zip(network.parameters(), flat, strict=True):
        assert parameter.grad is not None
        np.testing.assert_allclose(parameter.grad.numpy(), expected, rtol=0, atol=1e-10)


def softmax(logits: Array) -> Array:
    powers: Array = np.exp(logits - logits.max(axis=1, keepdims=True))
    sums: Array = powers.sum(axis=1, keepdims=True)
    return powers / sums


def cross_entropy_slope(p: Array, y: Array) -> Array:
    return (p - y) / len(p)


def through_softmax(p: Array, slope_p: Array) -> Array:
    """Multiply by the derivative of the softmax: p_i * (delta_ij - p_j)."""
    mean: Array = (slope_p * p).sum(axis=1, keepdims=True)
    return p * (slope_p - mean)


def mse_slope(p: Array, y: Array) -> Array:
    return through_softmax(p, 2 * (p - y) / p.size)


def bce_slope(p: Array, y: Array) -> Array:
    return through_softmax(p, (p - y) / (p * (1 - p)) / p.size)


def cosine_slope(p: Array, y: Array) -> Array:
    norm_p = np.linalg.norm(p, axis=1, keepdims=True)
    norm_y = np.linalg.norm(y, axis=1, keepdims=True)
    cosine = (p * y).sum(axis=1, keepdims=True) / (norm_p * norm_y)
    return through_softmax(p, -(y / (norm_p * norm_y) - cosine * p / norm_p**2) / len(p))


LOSS_SLOPES = {
    "cross_entropy": cross_entropy_slope,
    "mse": mse_slope,
    "bce": bce_slope,
    "cosine": cosine_slope,
}


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("loss", sorted(LOSS_SLOPES))
@pytest.mark.parametrize("activation", sorted(ACTIVATIONS))
def test_backpropagation_agrees_with_torch(activation: str, loss: str, smoothing: float) -> None:
    hidden, classes = (7, 6), 4
    by_hand = NumpyNetwork([5, *hidden, classes], activation)
    ours = twin(by_hand, hidden, activation)
    generator = np.random.default_rng(1)
    rows, targets = generator.normal(0, 1, (9, 5)), generator.integers(0, classes, 9)
    wanted = np.eye(classes)[targets] * (1 - smoothing) + smoothing / classes

    entering, sums = by_hand.forward(rows)
    slope = LOSS_SLOPES[loss](softmax(sums[-1]), wanted)
    logits_NK = ours(torch.from_numpy(rows).reshape(9, 1, 1, 5))
    np.testing.assert_allclose(logits_NK.detach().numpy(), sums[-1], rtol=0, atol=1e-12)
    compute_loss(loss, logits_NK, torch.from_numpy(targets), smoothing).backward()
    assert_same_gradients(ours, by_hand.backward(entering, sums, slope))


def test_per_sample_descent_fits_the_root_of_the_mean() -> None:
    """y = sqrt(mean(x)) as in the course material, by hand and by torch, step by step alike."""
    generator = np.random.default_rng(2)
    rows = generator.uniform(0, 1, (250, 3))
    wanted = np.sqrt(rows.mean(axis=1, keepdims=True))
    train, validation = slice(0, 200), slice(200, 250)
    by_hand = NumpyNetwork([3, 8, 1], "sigmoid", seed=3)
    ours = twin(by_hand, (8,), "sigmoid")
    optimizer = torch.optim.SGD(ours.parameters(), lr=0.1)

    def loss(part: slice) -> float:
        return float(((by_hand.predict(rows[part]) - wanted[part]) ** 2).mean())

    curves = [(loss(train), loss(validation))]
    for epoch in range(20):
        for index in generator.permutation(200):
            row, target = rows[index : index + 1], wanted[index : index + 1]
            entering, sums = by_hand.forward(row)
            gradients = by_hand.backward(entering, sums, 2 * (sums[-1] - target))
            if not epoch:
                answer = ours(torch.from_numpy(row).reshape(1, 1, 1, 3))
                optimizer.zero_grad()
                nn.functional.mse_loss(answer, torch.from_numpy(target)).backward()
                assert_same_gradients(ours, gradients)
                optimizer.step()
            by_hand.step(gradients, lr=0.1)
        curves.append((loss(train), loss(validation)))
    for curve in zip(*curves, strict=True):
        # The noise of single rows may lift an epoch a little, the way is down.
        quarters = [np.mean(curve[start : start + 5]) for start in range(0, 20, 5)]
        assert quarters == sorted(quarters, reverse=True)
        assert curve[-1] < 0.02 * curve[0]
        assert curve[-1] < 1e-3
