from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from export.publish import check_contract
from export.run import open_session
from training.config import TrainConfig
from training.datasets.encoded import image_spec
from training.datasets.sources import Dataset
from training.errors import ConfigError
from training.fit import FitModule
from training.graph import ServedNetwork, export_onnx
from training.initial import untrained
from training.layers import ACTIVATIONS, Residual
from training.networks import NETWORKS, ImageNetwork, build_network, multiply_adds
from training.publish import prove

pytestmark = pytest.mark.training

Squares = Callable[..., Dataset]


@pytest.fixture(params=sorted(NETWORKS))
def any_network(request: pytest.FixtureRequest, config: TrainConfig) -> TrainConfig:
    return replace(config, network=request.param, hidden=(32, 16), lr=3e-3)


def test_overfits_one_batch_of_32(any_network: TrainConfig) -> None:
    """Random labels: only a network whose gradients reach every layer can learn them by heart."""
    torch.manual_seed(0)
    images_NHWC = torch.randint(0, 256, (32, 8, 8, 1), dtype=torch.uint8)
    targets_N = torch.randint(0, 10, (32,))
    network = build_network(any_network, (8, 8, 1), classes=10)
    module = FitModule(ImageNetwork(network, np.array([127.0]), np.array([74.0])), any_network, 10)
    # speednet divides its logits by 9, so it needs larger and more steps to be as sure.
    rate, steps = (2e-2, 600) if any_network.network == "speednet" else (5e-3, 300)
    optimizer = torch.optim.AdamW(module.parameters(), lr=rate)
    for _ in range(steps):
        logits_NK = module.network(images_NHWC)
        loss = torch.nn.functional.cross_entropy(logits_NK, targets_N)
        if loss < 0.05 and (logits_NK.argmax(dim=1) == targets_N).all():
            return
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    pytest.fail(f"after {steps} steps the loss is {loss:.3f}")


@pytest.mark.parametrize("channels", [1, pytest.param(3, marks=pytest.mark.thorough)])
def test_exports_and_verifies(any_network: TrainConfig, squares: Squares, channels: int) -> None:
    dataset = squares(channels)
    torch.manual_seed(0)
    served = ServedNetwork(untrained(any_network, dataset), temperature=1.7)
    content = export_onnx(served, dataset.image_shape).SerializeToString()
    check_contract(content, image_spec(dataset.mode, *dataset.image_shape[:2]), classes=4)
    parity = prove(served, open_session(content).run, dataset.train.images_NHWC)
    assert parity.label_agreement == 1


def test_images_enter_scaled_and_channels_first() -> None:
    images_NHWC = torch.randint(0, 256, (2, 4, 5, 3), dtype=torch.uint8)
    mean_C, std_C = np.array([10.0, 20.0, 30.0]), np.array([2.0, 3.0, 4.0])
    got = ImageNetwork(torch.nn.Identity(), mean_C, std_C)(images_NHWC).numpy()
    expected = ((images_NHWC.numpy() - mean_C) / std_C).transpose(0, 3, 1, 2)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("activation", sorted(ACTIVATIONS))
def test_every_activation_by_name(config: TrainConfig, activation: str) -> None:
    named = replace(config, network="fcnn", activation=activation, hidden=(4,))
    network = build_network(named, (2, 2, 1), classes=2)
    assert network(torch.zeros(3, 1, 2, 2)).shape == (3, 2)


def test_multiply_adds_are_those_on_paper(config: TrainConfig) -> None:
    fcnn = build_network(replace(config, network="fcnn", hidden=(512, 512)), (28, 28, 1), 10)
    assert multiply_adds(fcnn, (28, 28, 1)) == 784 * 512 + 512 * 512 + 512 * 10
    cnn = build_network(replace(config, widths=(8, 16), depth=2), (28, 28, 1), 10)
    convolutions = 9 * (1 * 8 * 28 * 28 + (8 * 16 + 16 * 16) * 14 * 14)
    assert multiply_adds(cnn, (28, 28, 1)) == convolutions + 16 * 10


@pytest.mark.parametrize("depth", [1, 2, 3, 4])
def test_a_deeper_speednet_is_residual_and_begins_as_the_identity(
    config: TrainConfig, depth: int
) -> None:
    deep = replace(config, network="speednet", widths=(16, 32), depth=depth, activation="relu")
    network = build_network(deep, (8, 8, 1), 10)
    kernels = [m for m in network.modules() if isinstance(m, torch.nn.Conv2d)]
    assert len(kernels) == 1 + 2 * depth
    blocks = [m for m in network.modules() if isinstance(m, Residual)]
    assert len(blocks) == (2 if depth > 2 else 0)
    features_NCHW = torch.rand(2, 16, 4, 4)
    for block in blocks[:1]:
        # Fresh normalisation statistics are 0 and 1, so each layer passes its input on.
        got = block.eval()(features_NCHW)
        torch.testing.assert_close(got, 2 * features_NCHW, rtol=1e-4, atol=1e-6)


def test_images_too_small_for_the_stages_of_speednet(config: TrainConfig) -> None:
    with pytest.raises(ConfigError, match="widths: expected 1 to 2 stages for images of 8x8"):
        build_network(replace(config, network="speednet", widths=(8, 8, 8)), (8, 8, 1), 10)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"network": "vgg"},
            "network: expected one of MODULE:FUNCTION, .*, timm:NAME, got 'vgg'",
        ),
        ({"activation": "mish"}, "activation: expected one of .*relu.*, got 'mish'"),
        ({"widths": (8, 8, 8, 8, 8)}, "widths: expected 1 to 4 stages for images of 8x8, got 5"),
        ({"widths": ()}, "widths: expected 1 to 4 stages for images of 8x8, got 0"),
    ],
)
def test_what_does_not_exist_is_refused(
    config: TrainConfig, change: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        build_network(replace(config, **change), (8, 8, 1), classes=10)
