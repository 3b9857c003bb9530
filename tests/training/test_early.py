"""Mistakes that are seen before torch is loaded."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.server import ROOT
from training.config import OPTIONS
from training.early import (
    check_dataset,
    check_finished,
    check_options,
    check_precisions,
)
from training.errors import ConfigError, DatasetError, RunError


def given(**options: Any) -> dict[str, Any]:
    return {name: None for name in OPTIONS} | {"dataset": "digits", "network": "cnn"} | options


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"dataset": "digit"}, r"dataset: .*, got 'digit'; did you mean digits\?$"),
        ({"dataset": "folder"}, "dataset: expected one of .*, got 'folder'$"),
        ({"dataset": "foldr:x"}, "got 'foldr:x'; did you mean folder"),
        ({"network": "cn"}, "network: expected one of .*, got 'cn'; did you mean cnn?"),
        ({"validation": 1.5}, "validation: expected more than 0 and below 1, got 1.5"),
        ({"mixup": -0.1}, "mixup: expected at least 0, got -0.1"),
        ({"optimizer": "adamm"}, "optimizer: .*did you mean adam"),
        ({"loss": "x"}, "loss: expected one of bce, cosine, cross_entropy, mse, got 'x'$"),
        ({"schedule": "cosin"}, "did you mean cosine"),
        ({"activation": "Relu"}, "activation: .*did you mean relu"),
        ({"hidden": (512, 0)}, "hidden: expected at least 1"),
        ({"keep": "worst"}, "keep: expected one of best, last, got 'worst'"),
    ],
)
def test_it_is_named(options: Mapping[str, Any], match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        check_options(given(**options))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"dataset": "vertical-line"},
        {"dataset": "vertical-line:5"},
        {"dataset": f"folder:{ROOT}"},
        {"network": "timm:resnet18"},
        {"network": "nets.py:make"},
        {"network": None, "init": Path("runs/x")},
        {"freeze": "layer3"},
        {"autocast": "auto"},
        {"positive": "7", "size": "224x160"},
    ],
)
def test_what_may_be_right_passes(options: Mapping[str, Any]) -> None:
    check_options(given(**options))


def test_names_are_those_of_the_registries() -> None:
    """What is refused here is refused there, and nothing else."""
    pytest.importorskip("torch", reason="the train extra")
    from training.datasets.sources import KINDS, SOURCES
    from training.layers import ACTIVATIONS
    from training.losses import LOSSES
    from training.networks import NETWORKS
    from training.optimizers import OPTIMIZERS, SCHEDULES

    for option, registry in (
        ("activation", ACTIVATIONS),
        ("loss", LOSSES),
        ("network", NETWORKS),
        ("optimizer", OPTIMIZERS),
        ("schedule", SCHEDULES),
    ):
        names = {name for name in OPTIONS[option].option.names if name.islower()}
        assert names == set(registry), option
    names = {name.partition(":")[0].partition("[")[0] for name in OPTIONS["dataset"].option.names}
    assert names == {*SOURCES, *KINDS}


def test_a_path_that_is_not_there(tmp_path: Path) -> None:
    for kind, match in (("folder", "with one sub-folder per class"), ("parquet", "a file or")):
        check_dataset(f"{kind}:{tmp_path}")
        with pytest.raises(DatasetError, match=match):
            check_dataset(f"{kind}:{tmp_path / 'none'}")


def test_a_run_that_is_not_finished(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"run\.json: expected a finished run"):
        check_finished(tmp_path)
    (tmp_path / "run.json").write_text(json.dumps({}))
    with pytest.raises(RunError, match=r"evaluation\.json: expected a finished run"):
        check_finished(tmp_path)
    (tmp_path / "evaluation.json").write_text(json.dumps({}))
    check_finished(tmp_path)


def test_precisions() -> None:
    check_precisions("fp32, int8")
    with pytest.raises(ConfigError, match=r"precision: expected one of .*, got 'int7'"):
        check_precisions("fp32,int7")


@pytest.mark.parametrize(
    "words",
    [
        ("train", "--dataset", "digit", "--network", "cnn"),
        ("train", "--dataset", "digits", "--network", "cn"),
        ("train", "--dataset", "digits", "--network", "cnn", "--validation", "7"),
        ("train", "--dataset", "digits", "--network", "cnn", "--sweep", "colour=1"),
        ("train", "--dataset", "digits", "--network", "cnn", "--export", "A b"),
        ("export", "none", "--name", "x"),
        ("check", "digit"),
        ("predict", "a.png", "--model", "none"),
        ("score", ".", "--model", "none", "--out", "a.csv"),
        ("tune", "none"),
        ("check", "digits", "--out", "/proc/self/none"),
        ("loadtest", "--out", "/proc/self/none"),
        ("tune", "--out", "/proc/self/none"),
        ("train", "--dataset", "digits", "--network", "cnn", "--run", "/proc/self/none"),
    ],
)
def test_nothing_heavy_is_imported_and_nothing_is_left(
    words: tuple[str, ...], tmp_path: Path
) -> None:
    refused(words, tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("file", "match"),
    [("evaluation.json", "got a finished run"), ("checkpoints/last.ckpt", "got an interrupted")],
)
def test_a_run_that_would_be_lost(file: str, match: str, tmp_path: Path) -> None:
    kept = tmp_path / "mine" / file
    kept.parent.mkdir(parents=True)
    kept.write_text("kept")
    words = ("train", "--dataset", "digits", "--network", "cnn", "--run", "mine")
    assert match in refused(words, tmp_path)
    assert kept.read_text() == "kept"


def refused(words: tuple[str, ...], folder: Path) -> str:
    """Run a command that ends before anything heavy is imported; return its line."""
    script = (
        "import sys, foveal\n"
        "try: foveal.main(sys.argv[1:])\n"
        "except SystemExit as ended: assert ended.code == 1, ended.code\n"
        "heavy = {'torch', 'pytorch_lightning', 'onnx', 'onnxruntime', 'sklearn', 'pyarrow'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    ended = subprocess.run(
        [sys.executable, "-c", script, *words],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert ended.stdout == "[]\n" and len(ended.stderr.splitlines()) == 1, ended
    return ended.stderr
