from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import OneCycleLR

from training.config import TrainConfig
from training.datasets.sources import Dataset
from training.errors import ConfigError
from training.evaluate import compute_logits
from training.fit import fit
from training.losses import LOSSES
from training.optimizers import OPTIMIZERS, SCHEDULES, build_optimizer, build_schedule

pytestmark = pytest.mark.training

Squares = Callable[..., Dataset]


def rates(config: TrainConfig, steps: int) -> list[float]:
    """Return the learning rate of every step."""
    optimizer = build_optimizer(config, nn.Linear(2, 2))
    schedule = build_schedule(config, optimizer, steps)
    seen = []
    for _ in range(steps):
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return seen


@pytest.mark.parametrize("name", sorted(SCHEDULES))
@pytest.mark.parametrize("warmup", [0.0, 0.2])
def test_every_schedule_rises_to_its_largest_rate_and_then_never_again(
    config: TrainConfig, name: str, warmup: float
) -> None:
    seen = rates(replace(config, schedule=name, warmup=warmup, lr=0.5), steps=50)
    top = round(warmup * 50)
    assert seen[top] == max(seen) == pytest.approx(0.5)
    assert seen[: top + 1] == sorted(seen[: top + 1])
    assert seen[top:] == sorted(seen[top:], reverse=True)
    assert min(seen) > 0


def test_step_divides_by_ten_twice(config: TrainConfig) -> None:
    seen = rates(replace(config, schedule="step", warmup=0.0, lr=1.0), steps=30)
    assert seen == pytest.approx([1.0] * 10 + [0.1] * 10 + [0.01] * 10)


def test_onecycle_is_the_curve_of_torch(config: TrainConfig) -> None:
    steps, lr = 1000, 0.5
    seen = rates(replace(config, schedule="onecycle", warmup=0.3, lr=lr), steps)
    optimizer = torch.optim.SGD(nn.Linear(2, 2).parameters(), lr=lr)
    torchs = OneCycleLR(optimizer, lr, total_steps=steps, pct_start=0.3, cycle_momentum=False)
    for rate in seen:
        # Torch reaches the top and the end one step earlier.
        assert rate == pytest.approx(torchs.get_last_lr()[0], abs=0.006 * lr)
        optimizer.step()
        torchs.step()


@pytest.mark.parametrize("steps", [1, 2, 5, 10])
@pytest.mark.parametrize("name", sorted(SCHEDULES))
def test_short_runs_have_a_schedule_too(config: TrainConfig, name: str, steps: int) -> None:
    assert all(0 < rate <= config.lr for rate in rates(replace(config, schedule=name), steps))


def test_momentum_and_nesterov_are_passed_on(config: TrainConfig) -> None:
    def group(**change: Any) -> dict[str, Any]:
        changed = replace(config, optimizer="sgd", **change)
        return build_optimizer(changed, nn.Linear(2, 2)).param_groups[0]

    assert (group(momentum=0.8)["momentum"], group(momentum=0.8)["nesterov"]) == (0.8, True)
    assert group(momentum=0.8, nesterov=False)["nesterov"] is False
    assert group(momentum=0.0)["nesterov"] is False


@pytest.mark.parametrize("name", sorted(OPTIMIZERS))
def test_decay_spares_biases_and_what_is_frozen(config: TrainConfig, name: str) -> None:
    network = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Linear(3, 2))
    frozen = network[2].weight.requires_grad_(False)
    matrices, vectors = build_optimizer(
        replace(config, optimizer=name, weight_decay=0.1), network
    ).param_groups
    assert (matrices["weight_decay"], vectors["weight_decay"]) == (0.1, 0.0)
    assert vectors["lr"] == matrices["lr"] == config.lr
    assert [p.shape for p in matrices["params"]] == [(3, 2)]
    assert all(p.ndim == 1 for p in vectors["params"])
    assert not any(p is frozen for p in (*matrices["params"], *vectors["params"]))


@pytest.mark.parametrize("name", sorted(OPTIMIZERS))
def test_biases_may_learn_faster_all_along_the_schedule(config: TrainConfig, name: str) -> None:
    config = replace(config, optimizer=name, bias_lr=64.0, lr=0.5, schedule="linear", warmup=0.5)
    optimizer = build_optimizer(config, nn.Linear(2, 2))
    schedule = build_schedule(config, optimizer, steps=8)
    for _ in range(8):
        matrices, vectors = optimizer.param_groups
        assert vectors["lr"] == pytest.approx(64 * matrices["lr"])
        optimizer.step()
        schedule.step()


RATES = {"sgd": 0.05, "adagrad": 0.05}


@pytest.mark.parametrize("name", sorted(OPTIMIZERS))
def test_every_optimizer_learns(config: TrainConfig, squares: Squares, name: str) -> None:
    check_learns(config, squares, optimizer=name, lr=RATES.get(name, 0.01))


@pytest.mark.parametrize("name", sorted(LOSSES))
def test_every_loss_teaches(config: TrainConfig, squares: Squares, name: str) -> None:
    check_learns(config, squares, loss=name, label_smoothing=0.05)


def check_learns(config: TrainConfig, squares: Squares, **change: Any) -> None:
    options: dict[str, Any] = {
        "network": "fcnn",
        "hidden": (16,),
        "epochs": 12,
        "batch_size": 16,
        "lr": 0.01,
    }
    dataset = squares()
    network = fit(replace(config, **(options | change)), dataset, show_progress=False)
    answers_N = compute_logits(network, dataset.test).argmax(dim=1).numpy()
    assert (answers_N == dataset.test.targets_N).all()


@pytest.mark.parametrize(
    ("field", "listed"),
    [
        ("optimizer", "adagrad, adam, adamw, rmsprop, sgd"),
        ("schedule", "constant, cosine, linear, onecycle, step"),
        ("loss", "bce, cosine, cross_entropy, mse"),
    ],
)
def test_what_does_not_exist_is_listed(
    config: TrainConfig, squares: Squares, field: str, listed: str
) -> None:
    change: dict[str, Any] = {field: "nonsense"}
    with pytest.raises(ConfigError, match=f"{field}: expected one of {listed}, got 'nonsense'"):
        fit(replace(config, **change), squares(), show_progress=False)
