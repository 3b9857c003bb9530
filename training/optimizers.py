"""torch's optimizers and the learning-rate schedules, by name."""

import math
from collections.abc import Callable, Iterable
from typing import Any

from torch import nn
from torch.optim import SGD, Adagrad, Adam, AdamW, Optimizer, RMSprop
from torch.optim.lr_scheduler import LambdaLR

from training.config import TrainConfig
from training.options import check_name
from training.parts import depth_of

_Groups = Iterable[dict[str, Any]]


def _sgd(groups: _Groups, config: TrainConfig) -> Optimizer:
    # torch refuses Nesterov without momentum.
    nesterov = config.nesterov and config.momentum > 0
    return SGD(groups, lr=config.lr, momentum=config.momentum, nesterov=nesterov)


# Betas, decays and epsilons are torch's documented defaults (0.9 and 0.999 for Adam).
OPTIMIZERS: dict[str, Callable[[_Groups, TrainConfig], Optimizer]] = {
    "adagrad": lambda groups, config: Adagrad(groups, lr=config.lr),
    "adam": lambda groups, config: Adam(groups, lr=config.lr),
    "adamw": lambda groups, config: AdamW(groups, lr=config.lr),
    "rmsprop": lambda groups, config: RMSprop(groups, lr=config.lr),
    "sgd": _sgd,
}

# The first and the last rate of torch's OneCycleLR, as shares of the largest one.
_ONECYCLE_FIRST, _ONECYCLE_LAST = 1 / 25, 1 / 25e4

# Progress after the warm-up (0 to 1) to the share of the largest learning rate (1 to 0).
SCHEDULES: dict[str, Callable[[float], float]] = {
    "constant": lambda _progress: 1.0,
    "cosine": lambda progress: _half_wave(1.0 - progress),
    "linear": lambda progress: 1.0 - progress,
    "onecycle": lambda progress: _ONECYCLE_LAST + (1 - _ONECYCLE_LAST) * _half_wave(1.0 - progress),
    # A tenth after each third (He et al. 2015 divide by 10 when the curve is flat).
    "step": lambda progress: 0.1 ** min(2, int(3 * progress)),
}


def build_optimizer(config: TrainConfig, module: nn.Module) -> Optimizer:
    """Build the optimizer that a configuration names.

    Biases and batch-normalisation parameters (every parameter with one dimension) have no weight
    decay, which would change their scale and not their complexity; their learning rate is
    ``bias_lr`` times that of the others. Frozen parameters are left out. With a ``first_lr`` below
    or above 1 each layer has its own rate, in equal ratios from the first layer to the head.

    Raises:
        ConfigError: The name does not exist.
    """
    trained = {n: p for n, p in module.named_parameters() if p.requires_grad}
    depths = depth_of(module)
    top = max(depths.values(), default=0)
    groups: list[dict[str, Any]] = []
    # The head first: its rate is the one that is logged.
    for depth in range(top, -1, -1) if config.first_lr != 1 else (None,):
        layer = [p for n, p in trained.items() if depth in (None, depths[n])]
        rate = config.lr
        if depth is not None and top:
            rate *= config.first_lr ** (1 - depth / top)
        decayed = {"weight_decay": config.weight_decay, "lr": rate}
        groups += [
            {"params": [p for p in layer if p.ndim > 1], **decayed},
            {
                "params": [p for p in layer if p.ndim <= 1],
                "weight_decay": 0.0,
                "lr": config.bias_lr * rate,
            },
        ]
    if config.first_lr != 1:
        groups = [group for group in groups if group["params"]]
    return check_name("optimizer", config.optimizer, OPTIMIZERS)(groups, config)


def build_schedule(config: TrainConfig, optimizer: Optimizer, steps: int) -> LambdaLR:
    """Build the schedule that a configuration names, to be stepped after each batch.

    ``onecycle`` is the curve of torch's OneCycleLR, which itself divides by zero if the warm-up
    is one step; the momentum stays constant. All others warm up linearly.

    Args:
        config: Chooses the schedule, and the share of the steps during which the rate rises.
        optimizer: The optimizer whose learning rate to set.
        steps: Number of batches in the whole run.

    Raises:
        ConfigError: The name does not exist.
    """
    schedule = check_name("schedule", config.schedule, SCHEDULES)
    warmup_steps = round(config.warmup * steps)

    def factor(step: int) -> float:
        if step >= warmup_steps:
            return schedule(min(1.0, (step - warmup_steps) / max(1, steps - warmup_steps)))
        if config.schedule == "onecycle":
            return _ONECYCLE_FIRST + (1 - _ONECYCLE_FIRST) * _half_wave(step / warmup_steps)
        return (step + 1) / (warmup_steps + 1)

    return LambdaLR(optimizer, factor)


def _half_wave(progress: float) -> float:
    """Rise from 0 to 1 along half a cosine wave."""
    return 0.5 * (1.0 - math.cos(math.pi * progress))
