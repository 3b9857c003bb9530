"""The recipes: values for the options that the command line leaves out, by dataset and network.

A recipe overrides the defaults that ``config`` declares. Those of ``digits``/``cnn``,
``fashion-mnist``/``fcnn`` and ``fashion-mnist``/``cnn`` made the shipped models; ``cifar10-cnn``
was made by ``speednet`` with options of its own. README.md has the commands and the results, LOG.md
what was tried and dropped.
"""

import re
from pathlib import Path
from typing import Any

import torch

from training.config import TrainConfig, default_options
from training.devices import best_autocast
from training.errors import ConfigError
from training.pretrained import is_timm
from training.runs import read_run

# By network, for every dataset; a recipe of the dataset and the network overrides it.
NETWORK_RECIPES: dict[str, dict[str, Any]] = {
    # A convex problem: choosing the best epoch is regularization enough.
    "neuron": {"epochs": 20, "lr": 1e-3, "weight_decay": 0.0},
    "resnet": {"widths": (16, 32, 64), "depth": 2},
    # The numbers of airbench94, whose loss is the sum over 1,024 rows (11.5 / 7,851 a row: 1.5 for
    # their mean) and whose decay is independent of the rate (0.0153: 1.3e-3 within torch's SGD).
    "speednet": {
        "widths": (64, 256, 256),
        "activation": "gelu",
        "epochs": 10,
        "batch_size": 1024,
        "optimizer": "sgd",
        "lr": 1.5,
        "bias_lr": 64.0,
        "momentum": 0.85,
        "weight_decay": 1.3e-3,
        "schedule": "linear",
        "warmup": 0.23,
        "label_smoothing": 0.2,
        "keep": "last",
    },
}

# With pretrained weights (timm, --weights, --init) in place of those above and below.
FINE_TUNING: dict[str, Any] = {
    "epochs": 30,
    # Of five images a class 30 epochs are 30 steps, after which nothing is learned: LOG.md.
    "least_steps": 600,
    "batch_size": 16,
    "lr": 2e-3,
    "first_lr": 0.1,
    "weight_decay": 0.05,
    "label_smoothing": 0.1,
    "shift": 4,
    "border": "reflect",
    "flip": True,
    "keep": "last",
}

# The same with --freeze body: only the head learns, on features that are computed once.
LINEAR_PROBE: dict[str, Any] = {
    "epochs": 30,
    "least_steps": 500,
    "batch_size": 16,
    "lr": 1e-2,
    "weight_decay": 0.05,
    "keep": "last",
}

# Of an earlier run: what its weights fit.
_ARCHITECTURE = ("hidden", "widths", "depth", "activation", "dropout")
# How its images were read, for files.
_READING = ("size", "resize", "grey")

RECIPES: dict[tuple[str, str], dict[str, Any]] = {
    ("cifar10", "neuron"): {"flip": True, "validation": 0.05},
    ("cifar10", "fcnn"): {
        "epochs": 30,
        "batch_size": 256,
        "lr": 1e-3,
        "dropout": 0.3,
        "flip": True,
        "validation": 0.05,
    },
    ("cifar10", "cnn"): {
        "epochs": 20,
        "lr": 4e-3,
        "weight_decay": 0.05,
        "label_smoothing": 0.05,
        "widths": (24, 48, 96, 128),
        "shift": 2,
        "flip": True,
        "ema": 0.998,
        "autocast": "bfloat16",
        "validation": 0.05,
    },
    ("cifar10", "resnet"): {
        "epochs": 20,
        "lr": 4e-3,
        "weight_decay": 0.05,
        "label_smoothing": 0.05,
        "shift": 2,
        "flip": True,
        "ema": 0.998,
        "autocast": "bfloat16",
        "validation": 0.05,
    },
    # 89.5 % in 16 minutes on two cores with AVX-512 bfloat16, see LOG.md.
    ("cifar10", "speednet"): {
        "widths": (80, 192, 240),
        "depth": 3,
        "epochs": 12,
        # As good as 1,024 at twice the rate, and half a gigabyte less.
        "batch_size": 512,
        "lr": 0.75,
        "shift": 2,
        "border": "reflect",
        "flip": True,
        "autocast": "bfloat16",
        "validation": 0.02,
    },
    # 8x8: two halvings leave one pixel after the whitening layer has taken its own.
    ("digits", "speednet"): {
        "epochs": 40,
        "batch_size": 64,
        "widths": (32, 64),
        "lr": 0.1,
        "shift": 1,
    },
    ("digits", "neuron"): {"epochs": 60, "batch_size": 32},
    ("digits", "resnet"): {"epochs": 60, "batch_size": 32, "widths": (16, 32), "shift": 1},
    ("fashion-mnist", "neuron"): {"flip": True, "validation": 0.05},
    ("fashion-mnist", "resnet"): {
        "epochs": 10,
        "lr": 4e-3,
        "weight_decay": 0.05,
        "label_smoothing": 0.05,
        "shift": 2,
        "flip": True,
        "autocast": "bfloat16",
        "validation": 0.05,
    },
    ("fashion-mnist", "speednet"): {
        "widths": (32, 128, 128),
        "shift": 2,
        "flip": True,
        "autocast": "bfloat16",
        "validation": 0.05,
    },
    # 512 or 8,000 tiny patterns. No augmentation: a shifted line may be no line.
    ("vertical-line", "neuron"): {"epochs": 60, "batch_size": 32},
    ("vertical-line", "fcnn"): {"epochs": 60, "batch_size": 32, "hidden": (64, 64)},
    ("vertical-line", "cnn"): {"epochs": 60, "batch_size": 32, "widths": (32, 64)},
    ("vertical-line", "resnet"): {"epochs": 60, "batch_size": 32, "widths": (16, 32)},
    ("vertical-line", "speednet"): {
        "epochs": 60,
        "batch_size": 32,
        "widths": (32,),
        "lr": 0.05,
    },
    # 1,294 images: small batches and many epochs take seconds. No flip: digits have a direction.
    ("digits", "fcnn"): {"epochs": 60, "batch_size": 32, "shift": 1, "dropout": 0.2},
    ("digits", "cnn"): {
        "epochs": 60,
        "batch_size": 32,
        "widths": (32, 64),
        "shift": 1,
        "dropout": 0.2,
        "label_smoothing": 0.05,
        "ema": 0.98,
    },
    ("fashion-mnist", "fcnn"): {
        "epochs": 30,
        "batch_size": 256,
        "lr": 1e-3,
        "dropout": 0.3,
        "flip": True,
        "ema": 0.995,
        "validation": 0.05,
    },
    ("fashion-mnist", "cnn"): {
        "epochs": 30,
        "batch_size": 128,
        "lr": 4e-3,
        "weight_decay": 0.05,
        "label_smoothing": 0.05,
        "widths": (24, 48, 96, 128),
        "dropout": 0.1,
        "shift": 2,
        "flip": True,
        "cutout": 8,
        "ema": 0.998,
        "autocast": "bfloat16",
        "validation": 0.05,
    },
}


def default_run(dataset: str, network: str) -> Path:
    """Return the default run folder, as ``runs/digits-cnn`` or ``runs/folder-my-photos-cnn``."""
    return Path("runs") / re.sub(r"[^\w.]+", "-", f"{dataset}-{network}")


def resolve(dataset: str, network: str | None, run: Path | None, **options: Any) -> TrainConfig:
    """Complete the options of the command line by the recipe and the defaults.

    Args:
        dataset: Name of the dataset.
        network: Name of the network; None for that of ``init``.
        run: Folder to write the run to; None for ``default_run``.
        **options: Other fields of ``TrainConfig``. None takes the recipe's value; an ``autocast``
            of ``auto`` takes the type that this machine computes fastest.

    Raises:
        ConfigError: A value is out of range, or there is neither a network nor ``init``.
        RunError: ``init`` is no finished run.
    """
    given = {name: value for name, value in options.items() if value is not None}
    if given.get("autocast") == "auto":
        given["autocast"] = best_autocast()
    kind = dataset.partition(":")[0]
    earlier: dict[str, Any] = {}
    if "init" in given:
        before = read_run(given["init"])[0].config
        if network not in (None, before.network):
            raise ConfigError(
                f"network: expected that of {given['init']}, {before.network}, got {network!r}; "
                "leave it out"
            )
        network = before.network
        names = _ARCHITECTURE + (_READING if kind == before.dataset.partition(":")[0] else ())
        earlier = {name: getattr(before, name) for name in names}
    if network is None:
        raise ConfigError("network: expected one with --network, or an earlier run with --init")
    is_pretrained = is_timm(network) or "init" in given or "weights" in given
    recipe = NETWORK_RECIPES.get(network, {}) | RECIPES.get((kind, network), {})
    if is_pretrained:
        recipe = LINEAR_PROBE if given.get("freeze") == "body" else FINE_TUNING
        if torch.cuda.is_available():
            recipe = recipe | {"autocast": best_autocast()}
    values = default_options() | recipe | earlier | given
    folder = default_run(dataset, network) if run is None else run
    return TrainConfig(dataset=dataset, network=network, run=folder, **values)
