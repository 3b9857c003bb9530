"""Optimizers and learning-rate schedules by name, all of them torch's own."""

import math
from collections.abc import Callable

from torch import nn
from torch.optim import SGD, Adam, AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from training.config import TrainConfig, check_name

# Momentum and betas are torch's documented defaults (0.9 for SGD, 0.9 and 0.999 for Adam).
OPTIMIZERS: dict[str, Callable[..., Optimizer]] = {
    "sgd": lambda groups, lr: SGD(groups, lr=lr, momentum=0.9, nesterov=True),
    "adam": lambda groups, lr: Adam(groups, lr=lr),
    "adamw": lambda groups, lr: AdamW(groups, lr=lr),
}

# Progress after the warm-up (0 to 1) to the share of the largest learning rate (1 to 0).
SCHEDULES: dict[str, Callable[[float], float]] = {
    "constant": lambda _progress: 1.0,
    "linear": lambda progress: 1.0 - progress,
    "cosine": lambda progress: 0.5 * (1.0 + math.cos(math.pi * progress)),
}


def build_optimizer(config: TrainConfig, module: nn.Module) -> Optimizer:
    """Build the optimizer that a configuration names.

    Weight decay is kept off biases and batch-normalisation parameters (every parameter with one
    dimension): it would pull their scale, not their complexity.

    Raises:
        ConfigError: The name does not exist.
    """
    groups = [
        {
            "params": [p for p in module.parameters() if p.ndim > 1],
            "weight_decay": config.weight_decay,
        },
        {"params": [p for p in module.parameters() if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return check_name("optimizer", config.optimizer, OPTIMIZERS)(groups, lr=config.lr)


def build_schedule(config: TrainConfig, optimizer: Optimizer, steps: int) -> LambdaLR:
    """Build the schedule that a configuration names, to be stepped after each batch.

    Args:
        config: Chooses the schedule, and the share of the steps during which the rate rises.
        optimizer: Whose learning rate to drive.
        steps: Number of batches in the whole run.

    Raises:
        ConfigError: The name does not exist.
    """
    schedule = check_name("schedule", config.schedule, SCHEDULES)
    warmup_steps = round(config.warmup * steps)

    def factor(step: int) -> float:
        if step < warmup_steps:
            return (step + 1) / (warmup_steps + 1)
        return schedule(min(1.0, (step - warmup_steps) / max(1, steps - warmup_steps)))

    return LambdaLR(optimizer, factor)
