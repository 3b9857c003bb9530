"""The numbers that the course material works out by hand, asked of our own layers.

Each is compared to the digits that the material prints; where it cuts digits off instead of
rounding, one unit of the last digit is the tolerance.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

import torch
from torch import Tensor, nn

from training.losses import compute_loss
from training.networks import build_network
from training.recipes import resolve

pytestmark = pytest.mark.training

FCNN = resolve("digits", "fcnn", Path("run"), dropout=0.0)


def build(network: str, inputs: int, classes: int, **options: Any) -> nn.Sequential:
    config = replace(FCNN, network=network, **options)
    built = build_network(config, (1, inputs, 1), classes).double()
    assert isinstance(built, nn.Sequential)
    return built


def fill(network: nn.Sequential, *layers: tuple[object, object]) -> nn.Sequential:
    """Set weights and biases of the linear layers, in order."""
    linears = [layer for layer in network if isinstance(layer, nn.Linear)]
    for linear, (weights, biases) in zip(linears, layers, strict=True):
        with torch.no_grad():
            linear.weight.copy_(torch.as_tensor(weights, dtype=torch.float64))
            linear.bias.copy_(torch.as_tensor(biases, dtype=torch.float64))
    return network


def trace(network: nn.Sequential, *inputs: float) -> list[list[float]]:
    """Run one row; return what every layer after the flattening gave."""
    values: Tensor = torch.tensor(inputs, dtype=torch.float64).reshape(1, 1, 1, -1)
    seen = []
    for layer in network:
        values = layer(values)
        seen.append(values.flatten().tolist())
    return seen[1:]


def test_three_hidden_nodes_with_a_sigmoid() -> None:
    network = build("fcnn", 2, 2, hidden=(3,), activation="sigmoid")
    fill(network, ([[0.8, 0.2], [0.4, 0.9], [0.3, 0.1]], 0.0), (0.0, 0.0))
    sums, activations, _ = trace(network, 1, 2)
    assert sums == pytest.approx([1.2, 2.2, 0.5], abs=1e-12)
    assert activations == pytest.approx([0.76852, 0.90025, 0.62246], abs=5e-6)


def test_one_neuron_with_a_sigmoid() -> None:
    network = fill(build("neuron", 3, 2), ([[0.3, 0.5, 0.9]], 0.0))
    (total,), logits = trace(network, 0.77, 0.90, 0.62)
    assert total == pytest.approx(1.239, abs=1e-12)
    probabilities = torch.softmax(torch.tensor(logits), dim=0)
    assert probabilities[1].item() == pytest.approx(0.77539, abs=5e-6)
    assert probabilities[1].item() == pytest.approx(torch.sigmoid(torch.tensor(total)).item())


def test_three_layers_to_a_softmax_and_its_binary_cross_entropy() -> None:
    network = build("fcnn", 3, 2, hidden=(3, 3), activation="sigmoid")
    fill(network, (0.05, [0.01, 0.02, 0.03]), (0.025, [0.01, 0.02, 0.03]), (1.0, [0.01, 0.02]))
    a1, h1, a2, h2, a3 = trace(network, 1.5, 2.5, 3)
    assert a1 == pytest.approx([0.36, 0.37, 0.38], abs=1e-12)
    assert h1 == pytest.approx([0.589, 0.591, 0.593], abs=1e-3)
    assert a2 == pytest.approx([0.054, 0.064, 0.074], abs=1e-3)
    assert h2 == pytest.approx([0.513, 0.516, 0.518], abs=1e-3)
    assert a3 == pytest.approx([1.558, 1.568], abs=1e-3)
    logits_NK = torch.tensor([a3], dtype=torch.float64)
    output = torch.softmax(logits_NK, dim=1)[0].tolist()
    assert output == pytest.approx([0.497, 0.502], abs=1e-3)
    # The target (1, 0) is the class with index 0.
    loss = compute_loss("bce", logits_NK, torch.tensor([0]))
    assert loss.item() == pytest.approx(0.6981, abs=1e-4)


@pytest.mark.parametrize(
    ("activation", "expected", "digit"),
    [("relu", 9, 1e-12), ("identity", 9, 1e-12), ("tanh", 1.2, 0.05)],
)
def test_two_hidden_nodes_by_activation(activation: str, expected: float, digit: float) -> None:
    network = build("fcnn", 2, 1, hidden=(2,), activation=activation)
    fill(network, ([[1, 1], [-1, 1]], 0.0), ([[2, -1]], 0.0))
    sums, _, (output,) = trace(network, 2, 3)
    assert sums == [5, 1]
    assert output == pytest.approx(expected, abs=digit)


def test_slopes_of_the_output_weights_follow_the_nodes() -> None:
    """Target 4 and error 3 with node values 1 and 3: the slopes 2 * error * node are 6 and 18."""
    network = build("fcnn", 2, 1, hidden=(2,), activation="relu")
    # (1, 1) through these gives the nodes 1 and 3, and 1 * 1 + 2 * 3 = 7.
    fill(network, ([[2, -1], [1, 2]], 0.0), ([[1, 2]], 0.0))
    _, nodes, (output,) = trace(network, 1, 1)
    assert (nodes, output) == ([1, 3], 7)
    answer = network(torch.ones(1, 1, 1, 2, dtype=torch.float64))
    nn.functional.mse_loss(answer, torch.tensor([[4.0]], dtype=torch.float64)).backward()
    last = network[-1]
    assert isinstance(last, nn.Linear)
    assert last.weight.grad is not None
    assert last.weight.grad[0].tolist() == pytest.approx([6, 18], abs=1e-12)
