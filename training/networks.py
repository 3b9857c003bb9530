"""The networks, by name, and the module that makes one take images as they are.

A network takes float32 [N, C, H, W], zero mean and unit variance, and gives logits. Then
``ImageNetwork`` puts scaling and layout in front, so that training, evaluation and the exported
graph take the same uint8 images through the same nodes. Knows nothing about losses or files.
Legend: N rows, H height, W width, C channels, K classes.
"""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from training.config import TrainConfig, check_name
from training.errors import ConfigError

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "identity": nn.Identity,
    "sigmoid": nn.Sigmoid,
    "tanh": nn.Tanh,
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
}

ImageShape = tuple[int, int, int]  # H, W, C


class ImageNetwork(nn.Module):
    """A network that takes images as the contract has them.

    Args:
        network: float32 [N, C, H, W] to logits, float32 [N, K].
        mean_C: Mean of the training images, a channel, 0-255.
        std_C: Standard deviation of the training images, a channel, more than 0.
    """

    scale_C: Tensor
    offset_C: Tensor

    def __init__(self, network: nn.Module, mean_C: NDArray[np.float64], std_C: NDArray[np.float64]):
        super().__init__()
        self.network = network
        # x * scale + offset is (x - mean) / std with the constants folded: two nodes, not four.
        self.register_buffer("scale_C", _per_channel(1 / std_C))
        self.register_buffer("offset_C", _per_channel(-mean_C / std_C))

    def forward(self, images: Tensor) -> Tensor:
        """Compute logits.

        Args:
            images: uint8 [N, H, W, C], 0-255. (The name is that of the graph's input.)

        Returns:
            logits_NK: float32 [N, K].
        """
        pixels_NCHW = images.permute(0, 3, 1, 2).float() * self.scale_C + self.offset_C
        logits_NK: Tensor = self.network(pixels_NCHW)
        return logits_NK


class _GlobalMean(nn.Module):
    """Mean over all positions: one node in the graph.

    torch's AdaptiveAvgPool2d and Flatten export as nine, with an as_strided among them (2.13).
    """

    def forward(self, features_NCHW: Tensor) -> Tensor:
        """Reduce float32 [N, C, H, W] to [N, C]."""
        return features_NCHW.mean(dim=(2, 3))


def build_network(config: TrainConfig, image_shape: ImageShape, classes: int) -> nn.Module:
    """Build the network that a configuration names, with fresh weights from torch's generator.

    Args:
        config: Chooses the network and its widths.
        image_shape: H, W, C of the images.
        classes: K, at least 2.

    Raises:
        ConfigError: A name does not exist, or the images are too small for the stages.
    """
    return check_name("network", config.network, NETWORKS)(config, image_shape, classes)


def multiply_adds(network: nn.Module, image_shape: ImageShape) -> int:
    """Count the multiply-adds of convolutions and linear layers for one image.

    Args:
        network: float32 [N, C, H, W] to logits. Left in evaluation mode.
        image_shape: H, W, C of the images.
    """
    total = 0

    def count(layer: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal total
        assert isinstance(layer.weight, Tensor), (
            "only layers with weights are hooked; this is a bug"
        )
        # Each output position uses each kernel value once; a linear layer has one position.
        total += layer.weight.numel() * output[0, 0].numel()

    layers = [m for m in network.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    hooks = [layer.register_forward_hook(count) for layer in layers]
    height, width, channels = image_shape
    with torch.inference_mode():
        network.eval()(torch.zeros(1, channels, height, width))
    for hook in hooks:
        hook.remove()
    return total


def _fcnn(config: TrainConfig, image_shape: ImageShape, classes: int) -> nn.Module:
    """Stack linear layers with an activation between them."""
    activation = check_name("activation", config.activation, ACTIVATIONS)
    layers: list[nn.Module] = [nn.Flatten()]
    width = int(np.prod(image_shape))
    for next_width in config.hidden:
        layers += [nn.Linear(width, next_width), activation()]
        if config.dropout:
            layers.append(nn.Dropout(config.dropout))
        width = next_width
    return nn.Sequential(*layers, nn.Linear(width, classes))


def _cnn(config: TrainConfig, image_shape: ImageShape, classes: int) -> nn.Module:
    """Stack 3x3 convolutions in stages; between stages the image is halved.

    The first stage is one convolution, because at full size each costs the most and sees the least;
    each further stage has ``depth`` of them. A global mean and one linear layer end it.
    """
    height, width, channels = image_shape
    stages = len(config.widths)
    if not stages or min(height, width) >> (stages - 1) < 1:
        raise ConfigError(
            f"widths: expected 1 to {min(height, width).bit_length()} stages "
            f"for images of {height}x{width}, got {stages}"
        )
    layers: list[nn.Module] = _convolution(channels, config.widths[0], config.activation)
    for before, after in zip(config.widths[:-1], config.widths[1:], strict=True):
        layers.append(nn.MaxPool2d(2))
        for index in range(config.depth):
            layers += _convolution(after if index else before, after, config.activation)
    layers.append(_GlobalMean())
    if config.dropout:
        layers.append(nn.Dropout(config.dropout))
    network = nn.Sequential(*layers, nn.Linear(config.widths[-1], classes))
    # Measured on an AMD EPYC: 3x3 convolutions run up to 2.5x faster with channels innermost.
    return network.to(memory_format=torch.channels_last)  # type: ignore[no-any-return,call-overload]  # torch stub


def _convolution(inputs: int, outputs: int, activation: str) -> list[nn.Module]:
    """Convolution, batch normalisation (which brings the bias), activation."""
    return [
        nn.Conv2d(inputs, outputs, kernel_size=3, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
        check_name("activation", activation, ACTIVATIONS)(),
    ]


def _per_channel(values_C: NDArray[np.float64]) -> Tensor:
    return torch.from_numpy(values_C.astype(np.float32)).reshape(1, -1, 1, 1)


NETWORKS: dict[str, Callable[[TrainConfig, ImageShape, int], nn.Module]] = {
    "fcnn": _fcnn,
    "cnn": _cnn,
}
