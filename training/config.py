"""The configuration of a training run: one frozen value that is recorded and read back.

Each field declares its option of ``foveal train``, see ``options``. ``TrainConfig`` itself has no
defaults: ``recipes.resolve`` fills in what the command line leaves out, so a recorded configuration
never depends on defaults that may change later. Imports only the standard library.
"""

import shlex
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from training.data_config import DATA, REPEAT, SEEDS, DataConfig, wrong_size
from training.errors import ConfigError
from training.options import REQUIRED, Option, declared_values, option_fields

_NETWORKS = ("neuron", "fcnn", "cnn", "resnet", "speednet", "timm:NAME", "MODULE:FUNCTION")

_FIT = "Fit"
_RATE = "Learning rate"
_NETWORK = "Network"
_TUNING = "Fine-tuning"
_AUGMENTATION = "Augmentation"
_WEIGHTS = "Weights"
_DEVICES = "Devices"

# Widths above a million are typing errors.
_WIDTHS = 1_000_001


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig(DataConfig):
    """One training run; the fields are the options of ``foveal train``, underscores for dashes."""

    network: Annotated[
        str,
        Option(
            _NETWORK,
            "Network",
            REQUIRED,
            names=_NETWORKS,
            default_text="that of --init",
        ),
    ]
    run: Annotated[
        Path,
        Option(
            DATA,
            "Folder to write the run to",
            REQUIRED,
            default_text="runs/DATASET-NETWORK",
        ),
    ]
    epochs: Annotated[int, Option(_FIT, "Passes over the training split", 20, low=1)]
    least_steps: Annotated[
        int,
        Option(
            _FIT,
            "Fewest steps; a small training split is passed over more often than --epochs",
            0,
            low=0,
            before=0,
        ),
    ]
    batch_size: Annotated[int, Option(_FIT, "Images per step, over all devices", 128, low=1)]
    loss: Annotated[
        str,
        Option(
            _FIT, "Loss function", "cross_entropy", names=("cross_entropy", "bce", "mse", "cosine")
        ),
    ]
    class_weights: Annotated[
        Literal["none", "balanced", "sampler"],
        Option(
            _FIT,
            "What makes classes of different sizes count alike, in validation, too: weights in the "
            "loss, or images of small classes drawn more often",
            "none",
            before="none",
        ),
    ]
    optimizer: Annotated[
        str,
        Option(_FIT, "Optimizer", "adamw", names=("sgd", "adam", "adamw", "rmsprop", "adagrad")),
    ]
    momentum: Annotated[float, Option(_FIT, "Momentum of sgd", 0.9, low=0, below=1)]
    nesterov: Annotated[bool, Option(_FIT, "Use Nesterov momentum in sgd", True)]
    lr: Annotated[float, Option(_RATE, "Highest learning rate of the schedule", 2e-3, above=0)]
    weight_decay: Annotated[
        float, Option(_FIT, "Weight decay of matrices and kernels", 0.01, low=0)
    ]
    bias_lr: Annotated[
        float,
        Option(
            _RATE,
            "Learning rate of biases and normalization layers, as a multiple of --lr",
            1.0,
            above=0,
        ),
    ]
    schedule: Annotated[
        str,
        Option(
            _RATE,
            "Learning-rate schedule",
            "cosine",
            names=("constant", "step", "linear", "cosine", "onecycle"),
        ),
    ]
    warmup: Annotated[
        float,
        Option(_RATE, "Share of the steps in which the learning rate rises", 0.1, low=0, below=1),
    ]
    label_smoothing: Annotated[
        float,
        Option(_FIT, "Share of the target spread over all classes", 0.0, low=0, below=1),
    ]
    first_lr: Annotated[
        float,
        Option(
            _RATE,
            "Learning rate of the first layer, as a multiple of --lr; it rises evenly to the head",
            1.0,
            above=0,
            before=1.0,
        ),
    ]
    hidden: Annotated[
        tuple[int, ...],
        Option(
            _NETWORK,
            "Widths of the hidden layers of fcnn, as 512,512",
            (512, 512),
            low=1,
            below=_WIDTHS,
        ),
    ]
    widths: Annotated[
        tuple[int, ...],
        Option(
            _NETWORK,
            "Widths of the stages of cnn, resnet and speednet, as 32,64",
            (32, 64, 128),
            low=1,
            below=_WIDTHS,
        ),
    ]
    depth: Annotated[
        int,
        Option(
            _NETWORK,
            "Convolutions (cnn, speednet) or blocks (resnet) per stage",
            2,
            low=1,
            below=1001,
        ),
    ]
    activation: Annotated[
        str,
        Option(
            _NETWORK,
            "Activation function",
            "relu",
            names=("identity", "sigmoid", "tanh", "relu", "leaky_relu", "gelu", "silu"),
        ),
    ]
    dropout: Annotated[
        float,
        Option(
            _NETWORK, "Probability of zeroing a value before a linear layer", 0.0, low=0, below=1
        ),
    ]
    weights: Annotated[
        Path | None,
        Option(
            _TUNING,
            "File or folder of pretrained weights",
            default_text="of timm: its download",
            before=None,
        ),
    ]
    init: Annotated[
        Path | None,
        Option(
            _TUNING,
            "Folder of an earlier run to begin with, all but its head",
            default_text="fresh weights",
            before=None,
        ),
    ]
    freeze: Annotated[
        str,
        Option(
            _TUNING,
            "What does not learn: the body, or the layers up to a module of it",
            "none",
            names=("none", "body", "MODULE"),
            before="none",
        ),
    ]
    shift: Annotated[
        int,
        Option(_AUGMENTATION, "Largest shift in each direction", 0, unit="pixels", low=0),
    ]
    border: Annotated[
        Literal["black", "reflect"],
        Option(_AUGMENTATION, "Pixels that a shift moves in", "black", before="black"),
    ]
    flip: Annotated[bool, Option(_AUGMENTATION, "Mirror half of the images left to right", False)]
    cutout: Annotated[
        int,
        Option(
            _AUGMENTATION,
            "Side of the square erased from half of the images",
            0,
            zero="for none",
            unit="pixels",
            low=0,
        ),
    ]
    mixup: Annotated[
        float,
        Option(
            _AUGMENTATION,
            "Alpha of mixup, which blends pairs of images and their targets",
            0.0,
            zero="for none",
            low=0,
            before=0.0,
        ),
    ]
    ema: Annotated[
        float,
        Option(
            _WEIGHTS,
            "Decay per step of the moving average of the weights",
            0.0,
            zero="for no average",
            low=0,
            below=1,
        ),
    ]
    autocast: Annotated[
        Literal["bfloat16", "float16", "none"],
        Option(
            _FIT,
            "Type of matrix products in training (auto: the fastest here)",
            "none",
            aliases=("auto",),
        ),
    ]
    clip: Annotated[
        float, Option(_FIT, "Largest norm of the gradient", 0.0, zero="for no limit", low=0)
    ]
    patience: Annotated[
        int,
        Option(
            _FIT,
            "Epochs without better validation accuracy before stopping",
            0,
            zero="for never",
            low=0,
        ),
    ]
    keep: Annotated[
        Literal["best", "last"],
        Option(
            _WEIGHTS,
            "Weights to measure and export, of the best or the last epoch",
            "best",
            before="best",
        ),
    ]
    devices: Annotated[
        int,
        Option(
            _DEVICES, "Processes per machine, each with a device of its own", 1, low=1, below=1025
        ),
    ]
    nodes: Annotated[int, Option(_DEVICES, "Machines", 1, low=1)]
    seed: Annotated[
        int,
        Option(
            REPEAT,
            "Seed of the first weights, the order and the augmentation",
            0,
            low=0,
            below=SEEDS,
        ),
    ]

    def __post_init__(self) -> None:
        """Refuse values out of range; names are checked where they are looked up.

        Raises:
            ConfigError: Names every field that is wrong.
        """
        wrong = [field.check(getattr(self, name)) for name, field in OPTIONS.items()]
        if self.batch_size % max(1, self.devices * self.nodes):
            wrong.append(
                f"batch_size: expected a multiple of devices times nodes, got "
                f"{self.batch_size} rows for {self.devices} x {self.nodes}"
            )
        wrong.append(wrong_size(self.size))
        if any(wrong):
            raise ConfigError("; ".join(filter(None, wrong)))

    def command(self) -> str:
        """Return the ``foveal train`` command that repeats this run, with every option."""
        words = ["foveal", "train"]
        for name, field in OPTIONS.items():
            words += field.arguments(getattr(self, name))
        return shlex.join(words)

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return {
            name: str(value) if isinstance(value, Path) else value
            for name, value in asdict(self).items()
        }

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> "TrainConfig":
        """Rebuild what ``to_json`` returned.

        Raises:
            ConfigError: A field is missing, unknown or out of range.
        """
        values = declared_values(OPTIONS, "before") | dict(record)
        if "image_size" in values:  # as earlier releases called it
            side = values.pop("image_size")
            values["size"] = str(side) if side else None
        try:
            for name, field in OPTIONS.items():
                values[name] = field.from_json(values[name])
            return cls(**values)
        except (KeyError, TypeError) as error:
            raise ConfigError(
                f"configuration: expected the fields of TrainConfig, got {error}"
            ) from error


# The declared options, by field.
OPTIONS = option_fields(TrainConfig, ("dataset", "network", "run"))


def default_options() -> dict[str, Any]:
    """Return the defaults of the options that have one."""
    return declared_values(OPTIONS, "default")
