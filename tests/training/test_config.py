import json
import shlex
from dataclasses import fields, replace
from pathlib import Path

import pytest

from training.config import TrainConfig
from training.data_config import parse_size
from training.errors import ConfigError
from training.optimizers import OPTIMIZERS, SCHEDULES
from training.recipes import resolve

pytestmark = pytest.mark.training


def test_survives_json(config: TrainConfig) -> None:
    config = replace(config, data_dir=Path("some where"))
    assert TrainConfig.from_json(json.loads(json.dumps(config.to_json()))) == config


def test_a_foreign_record_is_refused() -> None:
    with pytest.raises(ConfigError, match="expected the fields of TrainConfig"):
        TrainConfig.from_json({"dataset": "digits"})
    with pytest.raises(ConfigError, match="expected the fields of TrainConfig"):
        TrainConfig.from_json({**resolve("digits", "cnn", Path("r")).to_json(), "colour": 1})


def test_a_record_from_before_a_field_existed_is_read(config: TrainConfig) -> None:
    record = config.to_json()
    del record["border"], record["keep"]
    assert TrainConfig.from_json(record) == replace(config, border="black", keep="best")


def test_the_command_spells_out_every_option(config: TrainConfig) -> None:
    words = shlex.split(replace(config, run=Path("a run")).command())
    assert words[:2] == ["foveal", "train"]
    assert words[words.index("--run") + 1] == "a run"
    assert words[words.index("--widths") + 1] == "8,16"
    assert "--no-flip" in words
    assert words[words.index("--border") + 1] == "black"
    options = {word.removeprefix("--").removeprefix("no-") for word in words if word[:2] == "--"}
    expected = {field.name.replace("_", "-") for field in fields(config)}
    without = {"data-dir", "positive", "size", "image-column", "label-column", "weights", "init"}
    assert options == expected - without


@pytest.mark.parametrize(
    ("text", "size"),
    [("224", (224, 224)), ("224x160", (224, 160)), ("8X9", (8, 9)), ("0", None), ("20000", None)]
    + [(text, None) for text in ("", "x", "224x", "1x2x3", "-1", "1e3", "nan")],
)
def test_a_size_is_height_and_width(text: str, size: tuple[int, int] | None) -> None:
    assert parse_size(text) == size
    if size is None:
        with pytest.raises(ConfigError, match="size: expected 224 or 224x160, height first"):
            resolve("digits", "cnn", Path("r"), size=text)


def test_runs_of_earlier_releases_have_one_side(config: TrainConfig) -> None:
    for side, size in ((64, "64"), (0, None)):
        record = config.to_json() | {"image_size": side}
        for name in ("size", "resize", "skip_unreadable", "image_column", "label_column"):
            del record[name]
        assert TrainConfig.from_json(record).size == size


def test_recipes_yield_to_what_is_asked() -> None:
    recipe = resolve("digits", "cnn", Path("r"))
    asked = resolve("digits", "cnn", Path("r"), epochs=3, lr=None)
    assert (asked.epochs, asked.lr) == (3, recipe.lr)


def test_every_wrong_number_is_named_at_once() -> None:
    wrong = {"epochs": 0, "lr": 0.0, "dropout": 1.0, "hidden": (0,), "autocast": "int4"}
    wrong |= {"border": "white", "keep": "first"}
    with pytest.raises(ConfigError) as caught:
        resolve("digits", "cnn", Path("r"), **wrong)
    for name in wrong:
        assert f"{name}: expected" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", sorted(SCHEDULES))
def test_schedules_start_at_the_largest_rate_and_never_exceed_it(name: str) -> None:
    factors = [SCHEDULES[name](step / 10) for step in range(11)]
    assert factors[0] == 1
    assert factors == sorted(factors, reverse=True)
    assert min(factors) >= 0


def test_optimizers_are_there() -> None:
    assert {"sgd", "adam", "adamw"} <= set(OPTIMIZERS)
