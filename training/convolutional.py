"""The convolutional networks: ``cnn``, ``resnet`` and ``speednet``.

All have stages of 3x3 convolutions, and halve the image between stages. Knows nothing about
losses, files or scaling. Legend: N rows, H height, W width, C channels, K classes.
"""

from itertools import pairwise

import torch
from torch import nn

from training.config import TrainConfig
from training.errors import ConfigError
from training.layers import (
    ACTIVATIONS,
    GlobalMax,
    GlobalMean,
    ImageShape,
    Residual,
    Scaled,
    Whitening,
)
from training.options import check_name

# Batch normalisation of speednet averages over about this many of the last images, so the
# statistics follow the current weights even in a run of few steps (airbench94: 0.4 of batches of
# 1,024).
_STATISTICS_ROWS = 2560


def cnn(config: TrainConfig, image_shape: ImageShape, classes: int) -> nn.Module:
    """Stack 3x3 convolutions in stages.

    The first stage is one convolution, because at full size a convolution costs the most and sees
    the least; each further stage has ``depth`` of them. Then a global mean and one linear layer.
    """
    _check_stages(config.widths, image_shape, min(image_shape[:2]).bit_length())
    layers = _convolution(image_shape[2], config.widths[0], config.activation)
    for before, after in pairwise(config.widths):
        layers.append(nn.MaxPool2d(2))
        for index in range(config.depth):
            layers += _convolution(after if index else before, after, config.activation)
    return _finish([*layers, GlobalMean()], config, classes)


def resnet(config: TrainConfig, image_shape: ImageShape, classes: int) -> nn.Module:
    """Stack residual blocks of two 3x3 convolutions in stages (He et al. 2015, section 4.2).

    One convolution, then ``depth`` blocks per stage; the first block of every stage but the first
    halves the image by stride. Then a global mean and one linear layer.
    """
    _check_stages(config.widths, image_shape, min(image_shape[:2]).bit_length())
    layers = _convolution(image_shape[2], config.widths[0], config.activation)
    before = config.widths[0]
    for stage, width in enumerate(config.widths):
        for index in range(config.depth):
            stride = 2 if stage and not index else 1
            layers.append(_block(before, width, stride, config.activation))
            before = width
    return _finish([*layers, GlobalMean()], config, classes)


def speednet(config: TrainConfig, image_shape: ImageShape, classes: int) -> nn.Module:
    """Build a network in the style of the CIFAR-10 speed records (airbench94, Jordan 2024).

    A frozen whitening layer sees 2x2 pixels; each stage halves the image after the first of its
    ``depth`` 3x3 convolutions; then the maximum over all positions and one linear layer. As in
    airbench94, convolutions start as the identity, normalisation learns a bias and no scale, and
    the logits are divided by 9. From a depth of 3 on, a residual block follows the halving
    (airbench96).
    """
    height, width, channels = image_shape
    # The whitening layer takes one pixel, and every stage halves the rest.
    _check_stages(config.widths, image_shape, (min(height, width) - 1).bit_length() - 1)
    activation = check_name("activation", config.activation, ACTIVATIONS)
    whitening = Whitening(channels)
    layers: list[nn.Module] = [whitening, activation()]
    before = whitening.out_channels
    for after in config.widths:
        first, *rest = _identity_convolution(before, after, config)
        layers += [first, nn.MaxPool2d(2), *rest]
        inner = [
            m for _ in range(config.depth - 1) for m in _identity_convolution(after, after, config)
        ]
        if config.depth > 2:
            # Without its last activation, which comes after the sum.
            inner = [Residual(nn.Sequential(*inner[:-1]), nn.Identity(), activation())]
        layers += inner
        before = after
    network = _finish([*layers, GlobalMax()], config, classes)
    return nn.Sequential(*network, Scaled(1 / 9))


def _finish(layers: list[nn.Module], config: TrainConfig, classes: int) -> nn.Sequential:
    """Add dropout and the linear layer, and put channels innermost."""
    if config.dropout:
        layers.append(nn.Dropout(config.dropout))
    network = nn.Sequential(*layers, nn.Linear(config.widths[-1], classes))
    # Measured on an AMD EPYC: 3x3 convolutions run up to 2.5x faster with channels innermost.
    return network.to(memory_format=torch.channels_last)  # type: ignore[no-any-return,call-overload]  # torch stub


def _block(inputs: int, outputs: int, stride: int, activation: str) -> Residual:
    """Build two convolutions with a shortcut around them, projected if the shape changes."""
    layers = [
        *_convolution(inputs, outputs, activation, stride),
        nn.Conv2d(outputs, outputs, kernel_size=3, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
    ]
    shortcut: nn.Module = nn.Identity()
    if stride != 1 or inputs != outputs:
        shortcut = nn.Sequential(
            nn.Conv2d(inputs, outputs, kernel_size=1, stride=stride, bias=False),
            nn.BatchNorm2d(outputs),
        )
    return Residual(
        nn.Sequential(*layers), shortcut, check_name("activation", activation, ACTIVATIONS)()
    )


def _convolution(inputs: int, outputs: int, activation: str, stride: int = 1) -> list[nn.Module]:
    """Build convolution, batch normalisation (which has the bias) and activation."""
    return [
        nn.Conv2d(inputs, outputs, kernel_size=3, stride=stride, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
        check_name("activation", activation, ACTIVATIONS)(),
    ]


def _identity_convolution(inputs: int, outputs: int, config: TrainConfig) -> list[nn.Module]:
    """Build ``_convolution`` whose first outputs start as its inputs."""
    layers = _convolution(inputs, outputs, config.activation)
    convolution, normalisation = layers[0], layers[1]
    assert isinstance(convolution, nn.Conv2d), "see _convolution; this is a bug"
    assert isinstance(normalisation, nn.BatchNorm2d), "see _convolution; this is a bug"
    nn.init.dirac_(convolution.weight[:inputs].detach())
    normalisation.weight.requires_grad_(False)
    normalisation.momentum = min(0.4, config.batch_size / _STATISTICS_ROWS)
    return layers


def _check_stages(widths: tuple[int, ...], image_shape: ImageShape, most: int) -> None:
    """Refuse more stages than halvings leave at least one pixel."""
    if not 1 <= len(widths) <= most:
        height, width, _ = image_shape
        raise ConfigError(
            f"widths: expected 1 to {most} stages for images of {height}x{width}, got {len(widths)}"
        )
