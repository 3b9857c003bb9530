from collections.abc import Callable
from dataclasses import replace
from typing import cast

import numpy as np
import pytest
import torch
from torch import nn

from training.config import TrainConfig
from training.datasets.sources import Dataset
from training.fit import fit
from training.initial import untrained
from training.layers import OneLogit, Residual, Whitening
from training.networks import build_network
from training.recipes import resolve

pytestmark = pytest.mark.training

Squares = Callable[..., Dataset]


def test_one_logit_is_a_sigmoid() -> None:
    sums_N1 = torch.linspace(-20, 20, 41)[:, None]
    probabilities_NK = torch.softmax(OneLogit()(sums_N1), dim=1)
    torch.testing.assert_close(probabilities_NK[:, 1:], torch.sigmoid(sums_N1))
    torch.testing.assert_close(probabilities_NK.sum(dim=1), torch.ones(41))


def test_a_neuron_has_one_output_for_two_classes(config: TrainConfig) -> None:
    neuron = replace(config, network="neuron")
    for classes, outputs in ((2, 1), (3, 3)):
        network = build_network(neuron, (4, 5, 1), classes)
        (linear,) = [layer for layer in network.modules() if isinstance(layer, nn.Linear)]
        assert linear.weight.shape == (outputs, 20)
        assert network(torch.zeros(7, 1, 4, 5)).shape == (7, classes)


def test_a_residual_block_can_do_nothing() -> None:
    block = Residual(nn.Conv2d(3, 3, 3, padding=1), nn.Identity(), nn.ReLU())
    for parameter in block.parameters():
        nn.init.zeros_(parameter)
    features = torch.rand(2, 3, 4, 4)
    assert torch.equal(block(features), features)


def test_whitened_patches_are_uncorrelated() -> None:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randn(200, 3, 9, 9, generator=generator)
    # Neighbours and channels that depend on each other, as in photographs.
    pixels = (pixels + pixels.roll(1, 3) + 0.5 * pixels.roll(1, 1)) / 1.5
    layer = Whitening(3)
    layer.fit(pixels)
    with torch.no_grad():
        values = torch.nn.functional.conv2d(pixels, layer.weight).transpose(0, 1).flatten(1)
    torch.testing.assert_close(values[12:], -values[:12])
    covariance = torch.cov(values[:12])
    torch.testing.assert_close(covariance, torch.eye(12), atol=0.05, rtol=0)
    assert not layer.weight.requires_grad
    assert layer.bias is not None
    assert layer.bias.requires_grad


def test_whitening_constant_images_is_harmless() -> None:
    layer = Whitening(1)
    layer.fit(torch.zeros(4, 1, 5, 5))
    assert layer.weight.isfinite().all()


def test_training_leaves_the_whitening_alone(squares: Squares, config: TrainConfig) -> None:
    dataset = squares(channels=3)
    speednet = resolve("squares", "speednet", config.run, widths=(8, 8), epochs=2, batch_size=16)
    before, after = untrained(speednet, dataset), fit(speednet, dataset, show_progress=False)
    first = cast(nn.Sequential, before.network)[0]
    trained = cast(nn.Sequential, after.network)[0]
    assert isinstance(first, Whitening)
    assert isinstance(trained, Whitening)
    assert torch.equal(first.weight, trained.weight)
    assert not torch.equal(cast(torch.Tensor, first.bias), cast(torch.Tensor, trained.bias))
    images_NCHW = before._normalise(torch.from_numpy(dataset.train.images_NHWC))
    values = torch.nn.functional.conv2d(images_NCHW, first.weight).std(dim=(0, 2, 3))
    assert np.all(values.numpy() < 1.1)


@pytest.mark.parametrize(
    ("network", "parameters"),
    [
        ("neuron", 30_730),
        # 312 of the whitening, 2,385,792 of convolutions, 3,072 of batch normalisation (half of
        # them a scale that is not trained), 2,410 of the end.
        ("speednet", 2_391_586),
    ],
)
def test_parameters_on_cifar10(config: TrainConfig, network: str, parameters: int) -> None:
    built = build_network(resolve("cifar10", network, config.run), (32, 32, 3), 10)
    assert sum(parameter.numel() for parameter in built.parameters()) == parameters
