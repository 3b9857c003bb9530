"""The network of a run before its fit: its layers, then the weights that it begins with.

The weights are fresh, pretrained (``--weights``), or those of an earlier run (``--init``); then the
head is new. ``fit`` trains the network, and ``load_checkpoint`` puts a run's weights into it.
"""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from training.checkpoints import CHECKPOINT, LAST_CHECKPOINT
from training.config import TrainConfig
from training.data_config import chosen_size
from training.datasets.sources import Dataset
from training.datasets.splits import pixel_statistics
from training.errors import ConfigError, RunError
from training.networks import ImageNetwork, build_network
from training.parts import BodyAndHead, split
from training.pretrained import is_timm, load_timm, read_pretrained, read_weights
from training.runs import read_run

# Images of 64x64 and smaller are whitened by the first 5,000, see ``networks``.
_WHITENING_ROWS = 5000
_WHITENING_PIXELS = _WHITENING_ROWS * 64 * 64
_NAMED = 5  # parameters that a message names


def untrained(config: TrainConfig, dataset: Dataset) -> ImageNetwork:
    """Build the network of a run as its fit begins: initial weights, frozen as asked.

    Raises:
        ConfigError: A name in the configuration does not exist, or weights do not fit.
        RunError: The earlier run is missing or unfinished.
    """
    if is_timm(config.network) and config.init is None:
        body = load_timm(config.network, config.weights, dataset.image_shape)
        network = _wrap(config, dataset, body)
    else:
        network = _wrap(config, dataset)
        if config.init is not None:
            _take(network, read_state(config.init), str(config.init))
        elif config.weights is not None:
            # Of one's own module in two parts the body has the names.
            prefix = "network.body." if isinstance(network.network, BodyAndHead) else "network."
            state = {prefix + n: v for n, v in read_weights(config.weights).items()}
            _take(network, state, str(config.weights))
        else:
            network.whiten(torch.from_numpy(_for_whitening(dataset.train.images_NHWC)))
    network.freeze(config.freeze)
    return network


def _for_whitening(images_NHWC: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return all images, of large ones a few: as many patches, of all classes."""
    height, width = images_NHWC.shape[1:3]
    rows = max(1, _WHITENING_PIXELS // (height * width))
    return (
        images_NHWC if rows >= _WHITENING_ROWS else images_NHWC[:: max(1, len(images_NHWC) // rows)]
    )


def load_checkpoint(config: TrainConfig, dataset: Dataset) -> ImageNetwork:
    """Load the checkpoint that a run keeps, in evaluation mode.

    Raises:
        FileNotFoundError: The run has no checkpoint.
        RunError: The network has changed since: its code, or the version of its package.
    """
    network = _wrap(config, dataset)
    try:
        network.load_state_dict(_read_checkpoint(config))
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise RunError(
            f"{config.run}: expected the weights of {config.network} as it is now, got {reason}"
        ) from error
    return network.eval()


def read_state(run: Path) -> dict[str, Tensor]:
    """Read the weights that an earlier run keeps, by the names of ``ImageNetwork``.

    Raises:
        RunError: The folder holds no finished run.
    """
    record, _ = read_run(run)
    try:
        return _read_checkpoint(record.config)
    except OSError as error:
        raise RunError(f"{run}: expected its checkpoint, got {error.strerror}") from error


def _wrap(
    config: TrainConfig, dataset: Dataset, body: torch.nn.Module | None = None
) -> ImageNetwork:
    """Build the layers with the network's own normalisation, or the training split's."""
    network = build_network(config, dataset.image_shape, len(dataset.labels), body)
    if is_timm(config.network):
        grey = dataset.image_shape[2] == 1
        own = read_pretrained(config.network, config.weights, chosen_size(config), grey=grey)
        return ImageNetwork(network, own.mean_C, own.std_C)
    return ImageNetwork(network, *pixel_statistics(dataset.train))


def _read_checkpoint(config: TrainConfig) -> dict[str, Tensor]:
    kept = config.run / (CHECKPOINT if config.keep == "best" else LAST_CHECKPOINT)
    checkpoint = torch.load(kept, map_location="cpu", weights_only=True)
    prefix = "network."
    return {
        name.removeprefix(prefix): value
        for name, value in checkpoint["state_dict"].items()
        if name.startswith(prefix)
    }


def _take(network: ImageNetwork, state: dict[str, Tensor], where: str) -> None:
    """Copy weights into a network by name; its head stays fresh.

    Raises:
        ConfigError: A weight of the body is missing, or has another shape.
    """
    own = network.state_dict()
    of_head = {id(value) for value in split(network.network)[1].state_dict(keep_vars=True).values()}
    named = network.state_dict(keep_vars=True)
    wanted = [name for name in own if id(named[name]) not in of_head]
    # Weights from elsewhere have no normalisation: that of the images stays.
    optional = ("scale_C", "offset_C", ".num_batches_tracked")
    wrong = [
        f"{name} {list(own[name].shape)}"
        + (f" (there {list(state[name].shape)})" if name in state else "")
        for name in wanted
        if (name not in state and not name.endswith(optional))
        or (name in state and state[name].shape != own[name].shape)
    ]
    if wrong:
        more = ", …" if len(wrong) > _NAMED else ""
        raise ConfigError(
            f"{where}: expected the weights of this network, got none for "
            f"{', '.join(wrong[:_NAMED])}{more}; only the last layer may differ"
        )
    network.load_state_dict({n: state[n] for n in wanted if n in state}, strict=False)
