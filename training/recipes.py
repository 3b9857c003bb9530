"""What a run does when it is not told otherwise: one recipe for each dataset and network.

The recipes of ``digits``/``cnn``, ``fashion-mnist``/``fcnn`` and ``fashion-mnist``/``cnn`` made the
shipped models; README.md has the commands, the results and what was tried and dropped.
"""

from pathlib import Path
from typing import Any

from training.config import TrainConfig

_DEFAULTS: dict[str, Any] = {
    "data_dir": None,
    "epochs": 20,
    "batch_size": 128,
    "optimizer": "adamw",
    "lr": 2e-3,
    "weight_decay": 0.01,
    "schedule": "cosine",
    "warmup": 0.1,
    "label_smoothing": 0.0,
    "hidden": (512, 512),
    "widths": (32, 64, 128),
    "depth": 2,
    "activation": "relu",
    "dropout": 0.0,
    "shift": 0,
    "flip": False,
    "cutout": 0,
    "ema": 0.0,
    "autocast": "none",
    "validation": 0.1,
    "split_seed": 0,
    "seed": 0,
}

_RECIPES: dict[tuple[str, str], dict[str, Any]] = {
    # 1,294 images: small batches and many epochs cost seconds. No flip: digits have a direction.
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


def resolve(dataset: str, network: str, run: Path, **options: Any) -> TrainConfig:
    """Fill in everything that was not asked for.

    Args:
        dataset: Name of the dataset.
        network: Name of the network.
        run: Folder to leave the run in.
        **options: Other fields of ``TrainConfig``; None means "as the recipe says".

    Raises:
        ConfigError: A number is out of range.
    """
    recipe = _DEFAULTS | _RECIPES.get((dataset, network), {})
    asked = {name: value for name, value in options.items() if value is not None}
    return TrainConfig(dataset=dataset, network=network, run=run, **(recipe | asked))
