"""Everything that decides a run, as one frozen value that can be written down and read back.

``TrainConfig`` has no defaults: ``recipes.resolve`` fills in what was not asked for, so that a
recorded configuration never depends on defaults that may change later.
"""

import shlex
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal, TypeVar

from training.errors import ConfigError

_Value = TypeVar("_Value")

# Fields whose value is one of a few words that mean something here, and nowhere a part's name.
_WORDS: dict[str, tuple[str, ...]] = {
    "autocast": ("bfloat16", "float16", "none"),
    "border": ("black", "reflect"),
    "keep": ("best", "last"),
}

# What a run did whose record is older than the field.
_BEFORE = {"border": "black", "keep": "best"}


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig:
    """One training run; each field is the option of ``foveal train`` with dashes for underscores.

    Attributes:
        dataset: Name of the dataset.
        network: Name of the network.
        run: Folder to leave the run in.
        data_dir: Folder of the dataset's files, None for its default.
        image_size: Height and width that images of ``folder:`` and ``parquet:`` are resized to;
            0 for the size that all of them must then have.
        grey: Whether images of ``folder:`` and ``parquet:`` are read as grey.
        positive: The one class to tell from all others, None to tell all classes apart.
        epochs: Passes over the training split, >= 1.
        batch_size: Rows a step, of all devices together, >= 1.
        loss: Name of the loss.
        optimizer: Name of the optimizer.
        momentum: Share of the last step that ``sgd`` repeats, 0 <= share < 1.
        nesterov: Whether ``sgd`` takes the slope where the momentum will have led.
        lr: Largest learning rate of the schedule, > 0.
        weight_decay: Applied to weight matrices and kernels only, >= 0.
        bias_lr: Learning rate of biases and normalisation, as a multiple of ``lr``, > 0.
        schedule: Name of the learning-rate schedule.
        warmup: Share of the steps during which the learning rate rises, 0 <= share < 1.
        label_smoothing: Share of the target that is spread over all classes, 0 <= share < 1.
        hidden: Widths of the hidden layers of ``fcnn``.
        widths: Widths of the stages of ``cnn``, ``resnet`` and ``speednet``.
        depth: Convolutions in each stage of ``cnn`` after the first, and of ``speednet``; blocks in
            each of ``resnet``.
        activation: Name of the activation.
        dropout: Probability of zeroing a value before a linear layer, 0 <= p < 1.
        shift: Largest shift of an image in each direction, pixels, >= 0.
        border: What a shift moves in: ``black``, or the image itself as if seen in a mirror.
        flip: Whether images are mirrored left to right half of the time.
        cutout: Side of the square that is painted over in half of the images, pixels, 0 for none.
        ema: Decay of the moving average of the weights a step, 0 <= decay < 1, 0 for none.
        autocast: Type of the matrix products in training; evaluation and export are float32.
        clip: Largest norm of the gradient of all weights together, > 0, or 0 for no limit.
        patience: Epochs without a better validation accuracy after which to stop, 0 for never.
        keep: Whose weights the run is judged by and exported with: ``best`` those of the epoch that
            was best on validation, ``last`` those of the last epoch.
        devices: Processes a node, each with its share of every batch, >= 1.
        nodes: Machines, >= 1.
        validation: Share of the official training part that is held out, 0 < share < 1.
        split_seed: Chooses who is held out; apart from ``seed``, so that seeds can be compared.
        seed: Chooses first weights, order of rows, and augmentation.
    """

    dataset: str
    network: str
    run: Path
    data_dir: Path | None
    image_size: int
    grey: bool
    positive: str | None
    epochs: int
    batch_size: int
    loss: str
    optimizer: str
    momentum: float
    nesterov: bool
    lr: float
    weight_decay: float
    bias_lr: float
    schedule: str
    warmup: float
    label_smoothing: float
    hidden: tuple[int, ...]
    widths: tuple[int, ...]
    depth: int
    activation: str
    dropout: float
    shift: int
    border: Literal["black", "reflect"]
    flip: bool
    cutout: int
    ema: float
    autocast: Literal["none", "bfloat16", "float16"]
    clip: float
    patience: int
    keep: Literal["best", "last"]
    devices: int
    nodes: int
    validation: float
    split_seed: int
    seed: int

    def __post_init__(self) -> None:
        """Refuse numbers out of range; names are checked where they are looked up.

        Raises:
            ConfigError: Names every field that is wrong.
        """
        wrong = [
            *(_expect(self, name, 1, None) for name in ("epochs", "batch_size", "depth")),
            *(_expect(self, name, 1, None) for name in ("devices", "nodes")),
            *(_expect(self, name, 0, None) for name in ("clip", "patience")),
            *(_expect(self, name, 0, None) for name in ("weight_decay", "shift", "cutout")),
            _expect(self, "image_size", 0, None),
            *(_expect(self, name, 0, 1) for name in ("warmup", "label_smoothing", "dropout")),
            *(_expect(self, name, 0, 1) for name in ("ema", "validation", "momentum")),
            *(
                ""
                if getattr(self, name) > 0
                else f"{name}: expected more than 0, got {getattr(self, name)}"
                for name in ("lr", "bias_lr")
            ),
            *(
                ""
                if getattr(self, name) in words
                else f"{name}: expected one of {', '.join(words)}, got {getattr(self, name)!r}"
                for name, words in _WORDS.items()
            ),
            ""
            if self.batch_size % max(1, self.devices * self.nodes) == 0
            else f"batch_size: expected a multiple of devices times nodes, got "
            f"{self.batch_size} rows for {self.devices} x {self.nodes}",
            *(
                ""
                if all(width >= 1 for width in getattr(self, name))
                else f"{name}: expected widths of at least 1, got {getattr(self, name)}"
                for name in ("hidden", "widths")
            ),
        ]
        if any(wrong):
            raise ConfigError("; ".join(message for message in wrong if message))

    def command(self) -> str:
        """Return the ``foveal train`` command that repeats this run, every option spelled out."""
        words = ["foveal", "train"]
        for field in fields(self):
            value = getattr(self, field.name)
            option = field.name.replace("_", "-")
            if isinstance(value, bool):
                words.append(f"--{option}" if value else f"--no-{option}")
            elif isinstance(value, tuple):
                words += [f"--{option}", ",".join(map(str, value))] if value else []
            elif value is not None:
                words += [f"--{option}", str(value)]
        return shlex.join(words)

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return {
            name: str(value) if isinstance(value, Path) else value
            for name, value in asdict(self).items()
        }

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> "TrainConfig":
        """Rebuild what ``to_json`` wrote.

        Raises:
            ConfigError: A field is missing or unknown, or out of range.
        """
        values = _BEFORE | dict(record)
        try:
            for name in ("hidden", "widths"):
                values[name] = tuple(values[name])
            values["run"] = Path(values["run"])
            values["data_dir"] = None if values["data_dir"] is None else Path(values["data_dir"])
            return cls(**values)
        except (KeyError, TypeError) as error:
            raise ConfigError(
                f"configuration: expected the fields of TrainConfig, got {error}"
            ) from error


def check_name(kind: str, name: str, existing: Mapping[str, _Value]) -> _Value:
    """Look a name up in a registry.

    Raises:
        ConfigError: It is not there; the message lists what is.
    """
    if name not in existing:
        raise ConfigError(f"{kind}: expected one of {', '.join(sorted(existing))}, got {name!r}")
    return existing[name]


def _expect(config: TrainConfig, name: str, low: int, below: int | None) -> str:
    value = getattr(config, name)
    if value >= low and (below is None or value < below):
        return ""
    limit = "" if below is None else f" and below {below}"
    return f"{name}: expected at least {low}{limit}, got {value}"
