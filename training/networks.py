"""The networks, by name, and the module that lets one take uint8 images.

A network takes float32 [N, C, H, W], zero mean and unit variance, and returns logits.
``ImageNetwork`` puts scaling and layout in front, so training, evaluation and the exported graph
pass the same uint8 images through the same nodes. The two networks without convolutions are here,
the others in ``convolutional``. Knows nothing about losses or files.
Legend: N rows, H height, W width, C channels, K classes.
"""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from training.config import TrainConfig
from training.convolutional import cnn, resnet, speednet
from training.layers import ACTIVATIONS, ImageShape, OneLogit, Whitening
from training.options import check_name
from training.own import build_own, is_own
from training.parts import BodyAndHead, embedding_width, freeze, split
from training.pretrained import build_timm, is_timm

# As in airbench94; 5,000 images of 32x32 are 4.8 million patches.
_WHITENING_ROWS = 5000


class ImageNetwork(nn.Module):
    """A network whose input is that of the contract, uint8 images.

    Args:
        network: float32 [N, C, H, W] to logits, float32 [N, K].
        mean_C: Mean of the training images per channel, 0-255.
        std_C: Standard deviation of the training images per channel, more than 0.
    """

    scale_C: Tensor
    offset_C: Tensor

    def __init__(self, network: nn.Module, mean_C: NDArray[np.float64], std_C: NDArray[np.float64]):
        super().__init__()
        self.network = network
        # x * scale + offset is (x - mean) / std with the constants folded: two nodes, not four.
        self.register_buffer("scale_C", _per_channel(1 / std_C))
        self.register_buffer("offset_C", _per_channel(-mean_C / std_C))
        self._frozen: list[nn.Module] = []

    def forward(self, images: Tensor) -> Tensor:
        """Compute logits.

        Args:
            images: uint8 [N, H, W, C], 0-255. (The name is that of the graph's input.)

        Returns:
            logits_NK: float32 [N, K].
        """
        logits_NK: Tensor = self.network(self._normalise(images))
        return logits_NK

    def embed(self, images: Tensor) -> Tensor:
        """Compute embeddings, float32 [N, D]: what the head gets.

        Args:
            images: uint8 [N, H, W, C], 0-255.
        """
        embeddings_ND: Tensor = split(self.network)[0](self._normalise(images))
        return embeddings_ND

    def classify(self, embeddings_ND: Tensor) -> Tensor:
        """Compute logits, float32 [N, K], of embeddings."""
        logits_NK: Tensor = split(self.network)[1](embeddings_ND)
        return logits_NK

    def freeze(self, until: str) -> None:
        """Stop a part of the body from learning; see ``parts.freeze``."""
        self._frozen = freeze(self.network, until)
        self.train(self.training)

    def train(self, mode: bool = True) -> "ImageNetwork":
        """Choose the mode; what is frozen stays in evaluation mode."""
        super().train(mode)
        for module in self._frozen:
            module.eval()
        return self

    def whiten(self, images: Tensor) -> None:
        """Fit the whitening layers of the network, if it has any.

        Args:
            images: uint8 [N, H, W, C], training images; the first 5,000 are used.
        """
        for layer in self.network.modules():
            if isinstance(layer, Whitening):
                layer.fit(self._normalise(images[:_WHITENING_ROWS]))

    def _normalise(self, images_NHWC: Tensor) -> Tensor:
        return images_NHWC.permute(0, 3, 1, 2).float() * self.scale_C + self.offset_C


def build_network(
    config: TrainConfig, image_shape: ImageShape, classes: int, body: nn.Module | None = None
) -> nn.Module:
    """Build the network that a configuration names, with fresh weights from torch's generator.

    Args:
        config: Names the network and its widths.
        image_shape: H, W, C of the images.
        classes: K, at least 2; 1 makes ``fcnn`` a regression.
        body: A network of timm with pretrained weights; None builds it with fresh ones.

    Raises:
        ConfigError: A name does not exist, or the network does not take the images.
    """
    if is_timm(config.network):
        body = build_timm(config.network, image_shape) if body is None else body
        head: nn.Module = nn.Linear(embedding_width(body, image_shape), classes)
        if config.dropout:
            head = nn.Sequential(nn.Dropout(config.dropout), head)
        return BodyAndHead(body, head)
    if is_own(config.network):
        return build_own(config.network, image_shape, classes)
    named = {**NETWORKS, "timm:NAME": None, "MODULE:FUNCTION": None}
    make = check_name("network", config.network, named)
    assert make is not None, "a name with a colon is timm's or one's own; this is a bug"
    return make(config, image_shape, classes)


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


def _neuron(_config: TrainConfig, image_shape: ImageShape, classes: int) -> nn.Module:
    """Build one weighted sum of the pixels per class, or a single sum for two classes.

    A single sum is the neuron of the textbooks; its sigmoid is the second probability.
    """
    pixels = int(np.prod(image_shape))
    if classes == 2:
        return nn.Sequential(nn.Flatten(), nn.Linear(pixels, 1), OneLogit())
    return nn.Sequential(nn.Flatten(), nn.Linear(pixels, classes))


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


def _per_channel(values_C: NDArray[np.float64]) -> Tensor:
    return torch.from_numpy(values_C.astype(np.float32)).reshape(1, -1, 1, 1)


NETWORKS: dict[str, Callable[[TrainConfig, ImageShape, int], nn.Module]] = {
    "neuron": _neuron,
    "fcnn": _fcnn,
    "cnn": cnn,
    "resnet": resnet,
    "speednet": speednet,
}
