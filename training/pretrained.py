"""The networks of timm, by name, with pretrained weights and the geometry that they were made with.

timm and torchvision, which it imports, are the extra ``timm``. Weights come from a file, a folder,
or timm's own download. Legend: N rows, H height, W width, C channels, D width of the embedding.
"""

import dataclasses
import importlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from export.errors import AdoptError
from export.geometry import image_spec
from export.options import Options
from models.artifact import Filter, ImageSpec
from models.installation import how_to_add
from training.config import TrainConfig
from training.data_config import chosen_size
from training.errors import ConfigError
from training.layers import ImageShape

PREFIX = "timm:"

# Files of a folder of weights, the likeliest first.
_FILES = ("model.safetensors", "pytorch_model.bin", "*.safetensors", "*.pth", "*.bin")
# What of a ``config.json`` beside the weights comes before timm's own values.
_KEYS = ("input_size", "interpolation", "crop_pct", "crop_mode", "mean", "std", "num_classes")
# timm's rules of the crop, in the words of ``export.options``.
_RULES: Mapping[str, Any] = {"center": "crop", "squash": "stretch", "border": "pad"}
_NAMED = 5  # parameters that a message names
# Kinds of datasets whose files are decoded as the network wants them; others are arrays.
_OF_FILES = ("folder", "parquet")


@dataclass(frozen=True, slots=True)
class Pretrained:
    """How a network's own pixels are made.

    Attributes:
        image: From files to pixels.
        mean_C: Mean that is subtracted, float64 [C], 0-255.
        std_C: Deviation that is divided by, float64 [C], more than 0.
    """

    image: ImageSpec
    mean_C: NDArray[np.float64]
    std_C: NDArray[np.float64]


def is_timm(network: str | None) -> bool:
    """Return whether a name is that of a network of timm."""
    return network is not None and network.startswith(PREFIX)


def check_torchvision() -> None:
    """Import torchvision where it is installed: Lightning's metrics do, and so does timm.

    Raises:
        ConfigError: It is made for another torch; the message names the wheel to install.
    """
    if find_spec("torchvision") is None:
        return
    try:
        importlib.import_module("torchvision")
    except Exception as error:  # a RuntimeError, an OSError or an ImportError, by what is missing
        reason = " ".join(str(error).split())[:120]
        raise ConfigError(
            f"torchvision: expected one made for torch {torch.__version__}, got {reason}; install "
            f"its wheel: {_wheel()}"
        ) from error


def _wheel() -> str:
    """Return the command that installs the torchvision of this torch."""
    build = torch.__version__.partition("+")[2]
    # torchvision 0.N goes with torch 2.(N - 15), see its README's table.
    try:
        wanted = f"torchvision=={version('torchvision').partition('+')[0]}"
    except PackageNotFoundError:
        wanted = "torchvision"
    index = f" --index-url https://download.pytorch.org/whl/{build}" if build else ""
    return f"pip install --force-reinstall --no-deps {wanted}{index}"


def read_pretrained(
    network: str, weights: Path | None, size: tuple[int, int] | None, *, grey: bool
) -> Pretrained:
    """Read how a network of timm wants its pixels.

    Args:
        network: ``timm:NAME``.
        weights: A folder's ``config.json`` comes before timm's own values.
        size: (height, width) in place of its own; None for its own.
        grey: Whether images are grey.

    Raises:
        ConfigError: There is no such network, or its geometry cannot be said.
    """
    cfg = _config(network, weights)
    _, height, width = cfg["input_size"]
    if size:
        height, width = size
    rule = _RULES.get(cfg["crop_mode"])
    if rule is None:
        known = ", ".join(_RULES)
        raise ConfigError(f"{network}: expected a crop of {known}, got {cfg['crop_mode']!r}")
    if cfg["interpolation"] not in get_args(Filter):
        known = ", ".join(get_args(Filter))
        raise ConfigError(f"{network}: expected a filter of {known}, got {cfg['interpolation']!r}")
    options = Options(resize=rule, crop_share=float(cfg["crop_pct"]), filter=cfg["interpolation"])
    try:
        exact = image_spec(options, "L" if grey else "RGB", height, width)
    except AdoptError as error:
        raise ConfigError(f"{network}: {error}") from error
    # The network goes on learning on these pixels: large JPEGs may be decoded at a scale.
    image = dataclasses.replace(exact, scaled_decoding=True)
    mean_C, std_C = (255 * np.array(cfg[name], np.float64) for name in ("mean", "std"))
    if grey:
        mean_C, std_C = mean_C.mean(keepdims=True), std_C.mean(keepdims=True)
    return Pretrained(image, mean_C, std_C)


def build_timm(network: str, image_shape: ImageShape) -> nn.Module:
    """Build the body of a network of timm, with fresh weights from torch's generator.

    Args:
        network: ``timm:NAME``.
        image_shape: H, W, C of the images.

    Returns:
        float32 [N, C, H, W] to embeddings, [N, D].

    Raises:
        ConfigError: There is no such network, or it does not take images of the shape.
    """
    return _create(network, _config(network, None), image_shape, None)


def load_timm(network: str, weights: Path | None, image_shape: ImageShape) -> nn.Module:
    """Build the body of a network of timm with pretrained weights.

    Args:
        network: ``timm:NAME``.
        weights: A file or a folder; None for timm's own download.
        image_shape: H, W, C of the images.

    Returns:
        float32 [N, C, H, W] to embeddings, [N, D].

    Raises:
        ConfigError: There are no such weights, or they are of another network.
    """
    cfg = _config(network, weights)
    where = "timm's download" if weights is None else str(_file(weights))
    source: Mapping[str, Any] = {} if weights is None else {"state_dict": read_weights(weights)}
    bodies = []
    for seed in (0, 1):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            bodies.append(_create(network, cfg, image_shape, dict(source), where))
    # What differs between two of other seeds is random: the weights did not have it.
    first, second = (dict(body.named_parameters()) for body in bodies)
    missing = [name for name in first if not torch.equal(first[name], second[name])]
    if missing:
        more = ", …" if len(missing) > _NAMED else ""
        raise ConfigError(
            f"{where}: expected the weights of {network}, got none for {len(missing)} of its "
            f"{len(first)} parameters: {', '.join(missing[:_NAMED])}{more}"
        )
    return bodies[0]


def _timm() -> Any:
    try:
        return importlib.import_module("timm")
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"network: expected timm, got no package {error.name}; {how_to_add('timm')}"
        ) from error


def _config(network: str, weights: Path | None) -> dict[str, Any]:
    """Return the pretrained configuration of a network, as a dictionary."""
    name = network.removeprefix(PREFIX)
    timm = _timm()
    models = timm.models
    if not models.is_model(name):
        near = timm.list_models(f"{name[:5]}*")[:8] if name else []
        hint = f"; near it: {', '.join(near)}" if near else ""
        raise ConfigError(
            f"network: expected a name of timm {timm.__version__}, got {name!r}{hint}"
        )
    found = models.get_pretrained_cfg(name)
    cfg = dict(found.to_dict()) if found is not None else models.PretrainedCfg().to_dict()
    beside = weights / "config.json" if weights is not None and weights.is_dir() else None
    if beside is not None and beside.is_file():
        try:
            read = json.loads(beside.read_text(encoding="utf-8"))
            own = read.get("pretrained_cfg", read)
            cfg |= {key: own[key] for key in _KEYS if own.get(key) is not None}
        except (OSError, ValueError, AttributeError) as error:
            raise ConfigError(f"{beside}: expected timm's config.json, got {error}") from error
        architecture = read.get("architecture")
        if architecture is not None and architecture != name.partition(".")[0]:
            raise ConfigError(
                f"{beside}: expected weights of {name}, got those of {architecture}; "
                f"give --network timm:{architecture}"
            )
    return dict(cfg)


def _create(
    network: str,
    cfg: dict[str, Any],
    image_shape: ImageShape,
    source: dict[str, Any] | None,
    where: str = "",
) -> nn.Module:
    """Call timm for a body; with ``source`` None its weights are random."""
    height, width, channels = image_shape
    words: dict[str, Any] = {"num_classes": 0, "in_chans": channels}
    if cfg.get("fixed_input_size") and tuple(cfg["input_size"][-2:]) != (height, width):
        words["img_size"] = (height, width)
    try:
        body: nn.Module = _timm().create_model(
            network.removeprefix(PREFIX),
            pretrained=source is not None,
            pretrained_cfg_overlay=source or None,
            **words,
        )
    except Exception as error:  # of timm, torch, the hub's client: no narrower class
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        if source is None:
            raise ConfigError(f"{network}: expected timm to build it, got {reason}") from error
        if source:
            raise ConfigError(f"{where}: expected weights of {network}, got {reason}") from error
        raise ConfigError(
            f"{network}: expected timm to download its weights, got {reason}; give a file with "
            "--weights"
        ) from error
    return body.to(memory_format=torch.channels_last)  # type: ignore[no-any-return,call-overload]  # torch stub


def _file(weights: Path) -> Path:
    if not weights.is_dir():
        return weights
    found = next((path for mask in _FILES for path in sorted(weights.glob(mask))), None)
    if found is None:
        raise ConfigError(
            f"{weights}: expected a file of weights, {', '.join(_FILES)}, got none in this folder"
        )
    return found


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read a file of weights: safetensors, or torch's of plain tensors; nothing runs code.

    Returns:
        Name to tensor, without the prefixes that wrappers leave.

    Raises:
        ConfigError: The file is missing, damaged or holds something else.
    """
    file = _file(path)
    try:
        if file.suffix == ".safetensors":
            load: Callable[[str], Any] = importlib.import_module("safetensors.torch").load_file
            state = load(str(file))
        else:
            state = torch.load(file, map_location="cpu", weights_only=True)
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"{file}: expected the package safetensors, got none; {how_to_add('timm')}"
        ) from error
    except Exception as error:  # damaged files raise anything
        reason = " ".join(str(error).split())[:160] or type(error).__name__
        raise ConfigError(f"{file}: expected a file of weights, got {reason}") from error
    for key in ("state_dict_ema", "state_dict", "model"):
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
            break
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise ConfigError(
            f"{file}: expected names and tensors, got {type(state).__name__}; write "
            "torch.save(network.state_dict(), FILE)"
        )
    return {name.removeprefix("module."): value for name, value in state.items()}


def own_image(config: TrainConfig) -> ImageSpec | None:
    """Return how files become the pixels of a run, where its network says it; else None."""
    if not is_timm(config.network) or config.dataset.partition(":")[0] not in _OF_FILES:
        return None
    return read_pretrained(
        config.network, config.weights, chosen_size(config), grey=config.grey
    ).image
