"""Fine-tuning: heads, frozen parts, rates by layer, earlier runs, features, own modules."""

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from export.run import run_output
from models.repository import ModelRepository
from training.augment import mixup
from training.checkpoints import CHECKPOINT, LAST_CHECKPOINT
from training.config import TrainConfig
from training.datasets.sources import Dataset
from training.errors import ConfigError, RunError
from training.features import are_cached, features_of
from training.fit import fit
from training.initial import load_checkpoint, untrained
from training.networks import ImageNetwork
from training.optimizers import build_optimizer
from training.parts import BodyAndHead, depth_of, freeze, replace_head, split
from training.pipeline import export, load_data, train
from training.recipes import FINE_TUNING, LINEAR_PROBE, resolve
from training.report.curves import read_curves
from training.runs import RUN_JSON

pytestmark = pytest.mark.training

Squares = Callable[..., Dataset]


@pytest.fixture(scope="module")
def earlier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of a tiny network on the digits."""
    folder = tmp_path_factory.mktemp("earlier") / "digits"
    options: dict[str, Any] = {"widths": (8, 16), "depth": 1, "dropout": 0.0, "shift": 0}
    return train(resolve("digits", "cnn", folder, epochs=2, **options))


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "foveal" / "features"


def weights(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def changed(before: dict[str, torch.Tensor], module: nn.Module) -> set[str]:
    return {n for n, value in module.state_dict().items() if not torch.equal(value, before[n])}


@pytest.mark.parametrize("network", ["fcnn", "cnn", "resnet", "speednet"])
def test_body_and_head_are_the_network(config: TrainConfig, squares: Squares, network: str) -> None:
    dataset = squares()
    whole = untrained(replace(config, network=network, hidden=(16,)), dataset).eval()
    images = torch.from_numpy(dataset.test.images_NHWC)
    with torch.inference_mode():
        embeddings_ND = whole.embed(images)
        torch.testing.assert_close(whole.classify(embeddings_ND), whole(images))
    assert embeddings_ND.ndim == 2


def test_the_last_linear_layer_is_replaced() -> None:
    network = nn.Sequential()
    network.add_module("stem", nn.Sequential(nn.Flatten(), nn.Linear(64, 5), nn.ReLU()))
    network.add_module("aux", nn.Linear(5, 7))
    replaced = replace_head(network, (8, 8, 1), 3)
    assert isinstance(replaced, BodyAndHead)
    assert replaced(torch.rand(2, 1, 8, 8)).shape == (2, 3)
    assert replaced.body(torch.rand(2, 1, 8, 8)).shape == (2, 5)
    kept = replace_head(nn.Sequential(nn.Flatten(), nn.Linear(64, 7)), (8, 8, 1), 7)
    assert isinstance(kept, BodyAndHead)
    with pytest.raises(ConfigError, match=r"expected 3 outputs, or a linear layer .* got 7"):
        softmax = nn.Sequential(nn.Flatten(), nn.Linear(64, 7), nn.Softmax(1))
        replace_head(softmax, (8, 8, 1), 3)
    with pytest.raises(ConfigError, match="one vector an image"):
        replace_head(nn.Conv2d(1, 4, 3), (8, 8, 1), 3)
    with pytest.raises(ConfigError, match="takes images of 8x8x1"):
        replace_head(nn.Conv2d(3, 4, 3), (8, 8, 1), 3)


@pytest.mark.parametrize(
    ("until", "frozen"), [("none", 0), ("body", 9), ("0", 1), ("1", 3), ("4", 6)]
)
def test_what_is_frozen_does_not_learn(
    config: TrainConfig, squares: Squares, until: str, frozen: int
) -> None:
    """Two stages: convolution 0, norm 1, activation 2, pool 3, convolution 4, norm 5."""
    dataset = squares()
    run = replace(config, freeze=until, ema=0.0, epochs=1, batch_size=16, shift=1, keep="last")
    torch.manual_seed(config.seed)
    before = weights(untrained(run, dataset))
    network = untrained(run, dataset)
    parameters = [p for p in split(network.network)[0].parameters()]
    assert sum(not p.requires_grad for p in parameters) == {0: 0, 9: 6, 1: 1, 3: 3, 6: 4}[frozen]
    with torch.no_grad():
        network.load_state_dict(before)
    network.train()
    for module in network.network.modules():
        if isinstance(module, nn.BatchNorm2d):
            learns = any(p.requires_grad for p in module.parameters())
            assert module.training == learns


@pytest.mark.thorough
def test_frozen_layers_come_out_of_a_fit_as_they_were(earlier: Path, tmp_path: Path) -> None:
    for name, until in (("all", "none"), ("some", "1"), ("head", "body")):
        options: dict[str, Any] = {"init": earlier, "freeze": until, "epochs": 1}
        options |= {"flip": True, "least_steps": 0}
        config = resolve("digits", None, tmp_path / name, **options)
        dataset = load_data(config)
        before = weights(untrained(config, dataset))
        fitted = fit(config, dataset, show_progress=False)
        now = changed(before, fitted)
        body = {n for n in now if not n.startswith("network.8.")}
        assert any(n.startswith("network.8.") for n in now)  # the head has learned
        first = {n for n in body if n.startswith(("network.0.", "network.1."))}
        assert bool(body) == (until != "body")
        assert bool(first) == (until == "none")


def test_a_module_that_does_not_exist_is_named(config: TrainConfig, squares: Squares) -> None:
    with pytest.raises(ConfigError, match=r"freeze: expected none, body or a module .*0, 1.*'x'"):
        untrained(replace(config, freeze="x"), squares())
    with pytest.raises(ConfigError, match="a linear layer at its end"):
        freeze(nn.Conv2d(1, 1, 1), "body")


def test_rates_rise_from_the_first_layer_to_the_head(config: TrainConfig) -> None:
    network = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.Linear(2, 2), nn.Linear(2, 2))
    assert list(depth_of(network).values()) == [0, 0, 0, 0, 1, 1, 2, 2]
    graded = replace(config, lr=1.0, first_lr=0.01, bias_lr=2.0, optimizer="sgd")
    groups = build_optimizer(graded, network).param_groups
    rates = [(group["lr"], len(group["params"])) for group in groups]
    assert rates == [
        (pytest.approx(rate), count)
        for rate, count in ((1.0, 1), (2.0, 1), (0.1, 1), (0.2, 1), (0.01, 1), (0.02, 3))
    ]
    assert len(build_optimizer(replace(graded, first_lr=1.0), network).param_groups) == 2


def test_an_earlier_run_is_where_a_run_begins(earlier: Path, tmp_path: Path) -> None:
    config = resolve("digits", None, tmp_path / "run", init=earlier)
    assert (config.network, config.widths, config.depth) == ("cnn", (8, 16), 1)
    assert (config.lr, config.keep) == (FINE_TUNING["lr"], "last")
    probe = resolve("digits", None, tmp_path / "run", init=earlier, freeze="body")
    assert probe.epochs == LINEAR_PROBE["epochs"]
    dataset = load_data(config)
    before = resolve("digits", "cnn", earlier, widths=(8, 16), depth=1, dropout=0.0)
    trained = load_checkpoint(before, dataset)
    begun = untrained(config, dataset)
    assert changed(weights(trained), begun) == {"network.8.weight", "network.8.bias"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"widths": (8, 24)}, r"none for .*\(there \[16, 8, 3, 3\]\).*; only the last layer"),
        ({"network": "fcnn"}, "network: expected that of .*, cnn, got 'fcnn'; leave it out"),
    ],
)
def test_other_layers_are_no_beginning(
    earlier: Path, tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    network = options.pop("network", None)
    with pytest.raises(ConfigError, match=message):
        config = resolve("digits", network, tmp_path / "run", init=earlier, **options)
        untrained(config, load_data(config))


def test_neither_network_nor_run(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="expected one with --network, or an earlier run"):
        resolve("digits", None, tmp_path / "run")
    with pytest.raises(RunError, match="expected a finished run"):
        resolve("digits", None, tmp_path / "run", init=tmp_path)


def test_features_are_computed_once(
    earlier: Path, tmp_path: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options: dict[str, Any] = {"init": earlier, "freeze": "body", "epochs": 2, "least_steps": 0}
    config = resolve("digits", None, tmp_path / "a", **options)
    assert are_cached(config)
    assert not are_cached(replace(config, flip=True))
    assert not are_cached(replace(config, freeze="1"))
    dataset = load_data(config)
    fitted = fit(config, dataset, show_progress=False)
    files = sorted(own_cache.iterdir())
    assert len(files) == 2  # training and validation
    with monkeypatch.context() as patch:
        patch.setattr(ImageNetwork, "embed", lambda *_: pytest.fail("computed again"))
        again = fit(replace(config, run=tmp_path / "b"), dataset, show_progress=False)
    assert changed(weights(fitted), again) == set()
    assert sorted(own_cache.iterdir()) == files
    # Damage is no feature, and other weights have others.
    files[0].write_bytes(files[0].read_bytes()[:-7])
    network = untrained(config, dataset)
    for part in (dataset.train, dataset.validation):
        got = torch.from_numpy(features_of(network, part).images_NHWC)
        with torch.inference_mode():
            expected = network.eval().embed(torch.from_numpy(part.images_NHWC))
        torch.testing.assert_close(got, expected)
    with torch.no_grad():
        next(network.parameters()).mul_(2)
    features_of(network, dataset.validation)
    assert len(list(own_cache.iterdir())) == 3


def test_a_probe_resumes_and_exports(earlier: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"init": earlier, "freeze": "body", "mixup": 0.2, "least_steps": 0}
    straight = train(resolve("digits", None, tmp_path / "a", epochs=3, **options))
    config = resolve("digits", None, tmp_path / "b", epochs=3, **options)

    def stop(epoch: int, _accuracy: float) -> None:
        if epoch == 1:  # the first one is saved
            raise KeyboardInterrupt

    dataset = load_data(config)
    record = json.loads((straight / RUN_JSON).read_text())
    (tmp_path / "b").mkdir()
    record["config"]["run"] = str(tmp_path / "b")
    (tmp_path / "b" / RUN_JSON).write_text(json.dumps(record))
    with pytest.raises(BaseException):  # noqa: B017 - Lightning's own for an interrupt
        fit(config, dataset, show_progress=False, watch=stop)
    assert (tmp_path / "b" / LAST_CHECKPOINT).exists()
    resumed = train(config, resume=True)
    states = [torch.load(run / LAST_CHECKPOINT, weights_only=True) for run in (straight, resumed)]
    first, second = (state["state_dict"] for state in states)
    assert all(torch.equal(value, second[name]) for name, value in first.items())
    artifact = export(straight, "probe", ModelRepository(tmp_path / "models"))
    assert artifact.metrics is not None


def test_mixup_blends_images_and_keeps_the_shares() -> None:
    torch.manual_seed(0)
    images = torch.randint(0, 256, (64, 2, 2, 1), dtype=torch.uint8)
    blend = mixup(images, 0.4)
    assert 0 <= blend.share <= 1
    expected = blend.share * images + (1 - blend.share) * images[blend.order]
    torch.testing.assert_close(blend.images, expected.float())
    assert sorted(blend.order.tolist()) == list(range(64))


def test_a_network_learns_under_mixup(config: TrainConfig, squares: Squares) -> None:
    dataset = squares(rows=128)
    run = replace(config, mixup=0.4, epochs=8, batch_size=16, lr=0.01)
    network = fit(run, dataset, show_progress=False)
    with torch.inference_mode():
        right = network(torch.from_numpy(dataset.test.images_NHWC)).argmax(1).numpy()
    assert (right == dataset.test.targets_N).mean() > 0.9


@pytest.mark.thorough
def test_the_embedding_is_an_output_that_is_asked_for(earlier: Path, tmp_path: Path) -> None:
    repository = ModelRepository(tmp_path / "models")
    artifact = export(
        earlier, "digits-cnn", repository, ("fp32", "int8"), embedding=True, max_accuracy_drop=0.5
    )
    assert [spec.name for spec in artifact.outputs] == ["logits", "probabilities", "embedding"]
    assert artifact.embedding_width == 16
    assert repository.load("digits-cnn", 1) == repository.verify("digits-cnn", 1) == artifact
    config = resolve("digits", "cnn", earlier, widths=(8, 16), depth=1, dropout=0.0)
    dataset = load_data(config)
    with torch.inference_mode():
        expected = load_checkpoint(config, dataset).embed(
            torch.from_numpy(dataset.test.images_NHWC)
        )
    for file in artifact.files:
        content = repository.read_model(artifact, file.path)
        got_ND = run_output(content, "embedding", dataset.test.images_NHWC)
        tolerance = 1e-4 if file.precision == "fp32" else 0.2 * float(expected.max())
        np.testing.assert_allclose(got_ND, expected, atol=tolerance)
    plain = export(earlier, "digits-cnn", repository)
    assert plain.embedding_width == 0
    assert len(plain.outputs) == 2


def test_timm_is_asked_for_by_name_where_it_is_missing(
    config: TrainConfig, squares: Squares
) -> None:
    if os.environ.get("PYTHONPATH", ""):
        pytest.skip("timm may be on the path")
    with pytest.raises(ConfigError, match=r"; make install-timm$"):
        untrained(replace(config, network="timm:resnet18"), squares())


@pytest.mark.thorough
def test_checkpoints_are_those_of_the_whole_network(earlier: Path, tmp_path: Path) -> None:
    """A later run may begin with a probe."""
    options: dict[str, Any] = {"init": earlier, "freeze": "body", "epochs": 1, "least_steps": 0}
    probe = train(resolve("digits", None, tmp_path / "probe", **options))
    kept = {"best": CHECKPOINT, "last": LAST_CHECKPOINT}["last"]
    state = torch.load(probe / kept, weights_only=True)["state_dict"]
    assert {"network.network.0.weight", "network.network.8.weight"} <= set(state)


def test_a_small_split_is_passed_over_until_the_steps_are_enough(
    config: TrainConfig, squares: Squares
) -> None:
    """64 rows in batches of 16 are 4 steps an epoch."""
    for least, epochs in ((0, 2), (8, 2), (9, 3), (20, 5)):
        run = replace(config, run=config.run / str(least), least_steps=least, batch_size=16)
        fit(run, squares(), show_progress=False)
        assert len(read_curves(run.run)) == epochs
