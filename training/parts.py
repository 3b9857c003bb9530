"""The two parts of a network: the body, which ends in the embedding, and the head, the last layer.

Fine-tuning replaces the head, freezes a part of the body, and lets the first layers learn slower
than the last ones. Knows nothing about where weights come from.
Legend: N rows, H height, W width, C channels, D width of the embedding, K classes.
"""

import torch
from torch import Tensor, nn

from training.errors import ConfigError
from training.layers import ImageShape

# Outputs of a split network may differ from the whole one's by rounding in another order.
_TOLERANCE = 1e-4


class BodyAndHead(nn.Module):
    """A network in two parts.

    Args:
        body: float32 [N, C, H, W] to embeddings, [N, D].
        head: Embeddings to logits, [N, K].
    """

    def __init__(self, body: nn.Module, head: nn.Module):
        super().__init__()
        self.body, self.head = body, head

    def forward(self, images_NCHW: Tensor) -> Tensor:
        """Compute logits, float32 [N, K]."""
        logits_NK: Tensor = self.head(self.body(images_NCHW))
        return logits_NK


def split(network: nn.Module) -> tuple[nn.Module, nn.Module]:
    """Return body and head of a network; they share its layers.

    Raises:
        ConfigError: The network is not a sequence with a linear layer.
    """
    if isinstance(network, BodyAndHead):
        return network.body, network.head
    layers = list(network) if isinstance(network, nn.Sequential) else []
    linear = [at for at, layer in enumerate(layers) if isinstance(layer, nn.Linear)]
    if not linear:
        raise ConfigError(
            "network: expected a linear layer at its end, whose input is the embedding, got "
            f"{type(network).__name__} without one"
        )
    return nn.Sequential(*layers[: linear[-1]]), nn.Sequential(*layers[linear[-1] :])


def replace_head(network: nn.Module, image_shape: ImageShape, classes: int) -> nn.Module:
    """Return a module with a new linear layer of K outputs in place of its last one.

    Args:
        network: float32 [N, C, H, W] to one vector a row. Changed.
        image_shape: H, W, C of the images.
        classes: K.

    Returns:
        The module in two parts; as it is if it has K outputs and its last layer cannot be told.

    Raises:
        ConfigError: Its output is not one vector a row, or has not K values and no linear layer
            makes it.
    """
    was_training = network.training
    before_NX = _run(network.eval(), image_shape)
    found = [(n, m) for n, m in network.named_modules() if n and isinstance(m, nn.Linear)]
    for name, layer in reversed(found):
        if layer.out_features != before_NX.shape[1]:
            continue
        network.set_submodule(name, nn.Identity())
        embedding_ND = _run(network, image_shape)
        if embedding_ND.shape[1] == layer.in_features:
            with torch.inference_mode():
                after_NX = layer(embedding_ND)
            if torch.allclose(before_NX, after_NX, atol=_TOLERANCE, rtol=_TOLERANCE):
                head = layer
                if layer.out_features != classes:
                    head = nn.Linear(layer.in_features, classes, bias=layer.bias is not None)
                return BodyAndHead(network, head).train(was_training)
        network.set_submodule(name, layer)
    if before_NX.shape[1] != classes:
        raise ConfigError(
            f"network: expected {classes} outputs, or a linear layer at its end to replace, got "
            f"{before_NX.shape[1]} outputs of {type(network).__name__}"
        )
    return network.train(was_training)


def embedding_width(body: nn.Module, image_shape: ImageShape) -> int:
    """Return D of a body.

    Raises:
        ConfigError: It does not take images of the shape, or its output is not one vector a row.
    """
    return _run(body.eval(), image_shape).shape[1]


def freeze(network: nn.Module, until: str) -> list[nn.Module]:
    """Stop a part of the body from learning.

    Args:
        network: Changed.
        until: ``none``, ``body``, or the name of a module of the body: it and all before it.

    Returns:
        The modules that are frozen as a whole: they must stay in evaluation mode, or the statistics
        of their batch normalisation would still change.

    Raises:
        ConfigError: There is no such module, or the network has no body.
    """
    if until == "none":
        return []
    body, _ = split(network)
    modules = list(body.named_modules())
    if until == "body":
        last = len(modules)
    else:
        inside = [
            at for at, (n, _) in enumerate(modules) if n == until or n.startswith(until + ".")
        ]
        if not inside or not until:
            names = ", ".join(name for name, _ in modules if name and name.count(".") < 2)
            raise ConfigError(
                f"freeze: expected none, body or a module of the network ({names}), got {until!r}"
            )
        last = inside[-1]
    for _, module in modules[: last + 1]:
        for parameter in module.parameters(recurse=False):
            parameter.requires_grad_(False)
    if until == "body":
        return [body]
    # A module is after those inside it once all of them are frozen.
    whole = [m for n, m in modules if n and not any(p.requires_grad for p in m.parameters())]
    frozen_leaves = {id(m) for _, m in modules[: last + 1]}
    return [m for m in whole if all(id(inner) in frozen_leaves for inner in m.modules())]


def depth_of(module: nn.Module) -> dict[str, int]:
    """Number the layers: every matrix or kernel begins one, vectors belong to the one before.

    Returns:
        Name of each parameter to its layer, from 0; the last one is the head.
    """
    depths, layer = {}, -1
    for name, parameter in module.named_parameters():
        layer += parameter.ndim > 1
        depths[name] = max(0, layer)
    return depths


def _run(network: nn.Module, image_shape: ImageShape) -> Tensor:
    """Run two rows of noise through a network in evaluation mode."""
    height, width, channels = image_shape
    noise = torch.rand((2, channels, height, width), generator=torch.Generator().manual_seed(0))
    try:
        with torch.inference_mode():
            output = network(noise)
    except Exception as error:  # of the network's own code: no narrower class
        reason = " ".join(str(error).split())[:200]
        raise ConfigError(
            f"network: expected one that takes images of {height}x{width}x{channels}, got "
            f"{reason or type(error).__name__}; choose their size with --size"
        ) from error
    if not isinstance(output, Tensor) or output.ndim != 2 or len(output) != 2:
        shape = list(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise ConfigError(f"network: expected one vector an image, [2, D] of two, got {shape}")
    return output
