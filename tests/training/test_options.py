import pytest

from training.config import OPTIONS
from training.datasets.sources import KINDS, SOURCES
from training.layers import ACTIVATIONS
from training.losses import LOSSES
from training.networks import NETWORKS
from training.optimizers import OPTIMIZERS, SCHEDULES

pytestmark = pytest.mark.training


@pytest.mark.parametrize(
    ("option", "existing"),
    [
        ("network", {*NETWORKS, "timm", "MODULE"}),
        ("loss", LOSSES),
        ("optimizer", OPTIMIZERS),
        ("schedule", SCHEDULES),
        ("activation", ACTIVATIONS),
        ("dataset", {*SOURCES, *KINDS}),
    ],
)
def test_documented_names_are_those_that_exist(option: str, existing: set[str]) -> None:
    names = OPTIONS[option].option.names
    assert sorted(name.partition(":")[0].partition("[")[0] for name in names) == sorted(existing)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("epochs", 1, ""),
        ("epochs", 0, "epochs: expected at least 1, got 0"),
        ("momentum", 1.0, "momentum: expected at least 0 and below 1, got 1.0"),
        ("validation", 0.0, "validation: expected more than 0 and below 1, got 0.0"),
        ("widths", (8, 0), "widths: expected at least 1 and below 1000001, got (8, 0)"),
        ("lr", float("nan"), "lr: expected a finite number, got nan"),
        ("lr", float("1e400"), "lr: expected a finite number, got inf"),
        ("weight_decay", float("inf"), "weight_decay: expected a finite number, got inf"),
        ("seed", -1, "seed: expected at least 0 and below 4294967296, got -1"),
        (
            "split_seed",
            1 << 32,
            "split_seed: expected at least 0 and below 4294967296, got 4294967296",
        ),
        (
            "hidden",
            (10**12,),
            "hidden: expected at least 1 and below 1000001, got (1000000000000,)",
        ),
        ("keep", "first", "keep: expected one of best, last, got 'first'"),
    ],
)
def test_values_out_of_range_are_named(name: str, value: object, message: str) -> None:
    assert OPTIONS[name].check(value) == message


def test_help_names_words_default_and_range() -> None:
    assert OPTIONS["shift"].help == (
        "Largest shift in each direction, in pixels.  [default: 0; x>=0]"
    )
    assert OPTIONS["border"].help == (
        "Pixels that a shift moves in: black, reflect.  [default: black]"
    )
    assert OPTIONS["validation"].help.endswith("[default: 0.1; 0<x<1]")
    assert "cnn, resnet, speednet, timm:NAME, MODULE:FUNCTION." in OPTIONS["network"].help
