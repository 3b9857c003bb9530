"""Activations by name, and layers that torch lacks.

Knows nothing about configurations. Legend: N rows, H height, W width, C channels, K classes.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

ImageShape = tuple[int, int, int]  # H, W, C

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "identity": nn.Identity,
    "sigmoid": nn.Sigmoid,
    "tanh": nn.Tanh,
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
}

# Added to the variances along the principal directions of normalised pixels. Without it the weakest
# direction (the borders of digits have no variance) would become amplified noise. The value is that
# of airbench94 (Jordan 2024, "94% on CIFAR-10 in 3.29 seconds on a single GPU").
_WHITENING_EPSILON = 5e-4
_WHITENING_CHUNK = 256  # rows


class GlobalMean(nn.Module):
    """Mean over all positions: one node in the graph.

    torch's AdaptiveAvgPool2d and Flatten export as nine, with an as_strided among them (2.13).
    """

    def forward(self, features_NCHW: Tensor) -> Tensor:
        """Reduce float32 [N, C, H, W] to [N, C]."""
        return features_NCHW.mean(dim=(2, 3))


class GlobalMax(nn.Module):
    """Maximum over all positions."""

    def forward(self, features_NCHW: Tensor) -> Tensor:
        """Reduce float32 [N, C, H, W] to [N, C]."""
        return features_NCHW.amax(dim=(2, 3))


class Scaled(nn.Module):
    """Multiplication by a constant; before the loss it limits how fast logits grow."""

    def __init__(self, factor: float):
        super().__init__()
        self.factor = factor

    def forward(self, values: Tensor) -> Tensor:
        """Multiply."""
        return values * self.factor


class OneLogit(nn.Module):
    """A second class for a single sum: softmax of (0, z) is (1 - sigmoid(z), sigmoid(z))."""

    def forward(self, sums_N1: Tensor) -> Tensor:
        """Widen float32 [N, 1] to logits, [N, 2]."""
        return functional.pad(sums_N1, (1, 0))


class Residual(nn.Module):
    """A shortcut around a few layers, then the activation (He et al. 2015).

    The layers learn the difference to their input. A further block can learn to change nothing, so
    a deeper network is no worse.

    Args:
        layers: float32 [N, C, H, W] to [N, C', H', W'].
        shortcut: To the same shape; ``nn.Identity`` if the layers keep the shape.
        activation: Applied to the sum.
    """

    def __init__(self, layers: nn.Module, shortcut: nn.Module, activation: nn.Module):
        super().__init__()
        self.layers, self.shortcut, self.activation = layers, shortcut, activation

    def forward(self, features_NCHW: Tensor) -> Tensor:
        """Compute activation(layers(x) + shortcut(x))."""
        summed: Tensor = self.layers(features_NCHW) + self.shortcut(features_NCHW)
        activated: Tensor = self.activation(summed)
        return activated


class Whitening(nn.Conv2d):
    """A frozen 2x2 convolution whose outputs are uncorrelated and of unit variance.

    Its kernels are the principal directions of 2x2 patches, divided by their deviation, and their
    negatives, so an activation after it loses no information. Random until ``fit``.

    Args:
        channels: C of the images; there are 2 * 4 * C outputs.
    """

    def __init__(self, channels: int):
        super().__init__(channels, 8 * channels, kernel_size=2)
        self.weight.requires_grad_(False)

    @torch.no_grad()
    def fit(self, pixels_NCHW: Tensor) -> None:
        """Compute the kernels.

        Args:
            pixels_NCHW: float32 [N, C, H, W], normalised; a few thousand rows.
        """
        channels = pixels_NCHW.shape[1]
        count = 0
        sums = torch.zeros(4 * channels, dtype=torch.float64)
        products = torch.zeros(4 * channels, 4 * channels, dtype=torch.float64)
        # In chunks: the patches of 5,000 images of 32x32 would be half a gigabyte.
        for chunk_NCHW in torch.split(pixels_NCHW, _WHITENING_CHUNK):
            # [N, C, H-1, W-1, 2, 2]: every patch, at every position.
            patches = chunk_NCHW.unfold(2, 2, 1).unfold(3, 2, 1).permute(0, 2, 3, 1, 4, 5)
            values = patches.reshape(-1, 4 * channels).double()
            count += len(values)
            sums += values.sum(dim=0)
            products += values.T @ values
        mean = sums / count
        variances, directions = torch.linalg.eigh(products / count - torch.outer(mean, mean))
        # eigh returns variances in rising order and one direction per column.
        kernels = directions.T / (variances.clamp(min=0) + _WHITENING_EPSILON).sqrt()[:, None]
        kernels = kernels.flip(0).reshape(4 * channels, channels, 2, 2)
        self.weight.copy_(torch.cat([kernels, -kernels]))
