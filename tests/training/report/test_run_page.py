"""The report is one page that needs nothing else, and says what evaluation.json says."""

import re
import warnings
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from export.figures import count_confusions
from report.plots import drawable_names
from training.config import TrainConfig
from training.datasets.sources import Dataset
from training.datasets.splits import Split
from training.fit import fit
from training.pipeline import measure
from training.report.curves import Epoch, kept_epoch, read_curves, write_curves
from training.report.run_page import REPORT_FOLDER, worst_mistakes, write_report
from training.runs import start_run

pytestmark = pytest.mark.training

Squares = Callable[..., Dataset]
PICTURES = {"curves", "learning_rate", "confusion", "reliability", "mistakes", "filters"}


class Page(HTMLParser):
    """Collects what a browser would fetch, and checks that every tag is closed."""

    def __init__(self, text: str):
        super().__init__()
        self.sources: list[str] = []
        self.alternatives: list[str] = []
        self.headings: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in ("img", "meta"):
            self.open.append(tag)
        self.alternatives += [value or "" for name, value in attrs if name == "alt"]
        self.sources += [value or "" for name, value in attrs if name in ("src", "href")]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] in ("h1", "h2"):
            self.headings.append(data)


def report(config: TrainConfig, dataset: Dataset) -> tuple[str, Path]:
    run = start_run(config, dataset)
    network = fit(config, dataset, show_progress=False)
    outcome, test_NK = measure(config, network, dataset)
    path = write_report(run, outcome, dataset, network, test_NK)
    return path.read_text(encoding="utf-8"), config.run / REPORT_FOLDER


@pytest.mark.parametrize(
    ("network", "channels"), [pytest.param("cnn", 3, marks=pytest.mark.thorough), ("fcnn", 1)]
)
def test_the_page_is_whole_and_alone(
    config: TrainConfig, squares: Squares, network: str, channels: int
) -> None:
    dataset = squares(channels=channels)
    wrong = replace(dataset.test, targets_N=(dataset.test.targets_N + 1) % 4)
    dataset = replace(dataset, labels=("<b>", "größer", "a&b", "$x_$"), test=wrong)
    config = replace(config, network=network, hidden=(8,), lr=0.01, epochs=4)
    text, folder = report(config, dataset)
    page = Page(text)
    assert len(page.sources) == len(PICTURES)
    assert all(source.startswith("data:image/png;base64,") for source in page.sources)
    assert len(page.alternatives) == len(PICTURES)
    for words in ("Over 4 epochs", "test images are on the diagonal", "The calibration error is"):
        assert any(words in alternative for alternative in page.alternatives), words
    assert "http" not in re.sub(r"base64,[^\"]*", "", text)
    for word in (
        "Loss",
        "Learning rate",
        "Confusion",
        "Each class",
        "Reliability",
        "mistakes",
        "filters",
        "Command",
        "Configuration",
        "Versions",
    ):
        assert any(word in heading for heading in page.headings), word
    assert "&lt;b&gt;" in text
    assert "<b>" not in text
    assert f"foveal train <span>--dataset digits</span> <span>--network {network}" in text
    assert {path.stem for path in folder.iterdir()} == PICTURES
    for path in folder.iterdir():
        picture = np.asarray(Image.open(path).convert("L"))
        assert picture.shape[1] >= 500
        assert picture.std() > 1, f"{path.name} is blank"


@pytest.mark.thorough
def test_a_faultless_network_has_no_mistakes_to_show(config: TrainConfig, squares: Squares) -> None:
    config = replace(config, epochs=15, batch_size=16, lr=0.01, ema=0.0)
    text, folder = report(config, squares())
    assert "The worst 0 of 0 mistakes" in text
    assert "None to show." in text
    assert {path.stem for path in folder.iterdir()} == PICTURES - {"mistakes"}


@pytest.mark.thorough
@pytest.mark.filterwarnings("error")
def test_many_classes_and_every_script(config: TrainConfig, squares: Squares) -> None:
    """What matplotlib's font lacks is a number in pictures and a name on the page."""
    scripts = ("猫", "कुत्ता", "قطة", "חתול", "кошка", "größer", "x" * 90)
    labels = (*scripts, *(f"class {number}" for number in range(len(scripts), 250)))
    dataset = squares()
    targets_N = np.arange(250)
    images_NHWC = np.random.default_rng(0).integers(0, 256, (250, 8, 8, 1), dtype=np.uint8)
    each = Split(images_NHWC, targets_N)
    dataset = replace(dataset, labels=labels, train=each, validation=each, test=each)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="(torch|lightning|pytorch_lightning).*")
        text, folder = report(replace(config, network="neuron", epochs=1), dataset)
    for label in labels:
        assert f"<td>{label}</td>" in text
    assert {path.stem for path in folder.iterdir()} == PICTURES
    with Image.open(folder / "confusion.png") as picture:
        assert max(picture.size) < 1200
    few = replace(config, run=config.run.with_name("few"), network="neuron", lr=0.01, epochs=4)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="(torch|lightning|pytorch_lightning).*")
        text, folder = report(few, replace(squares(), labels=scripts[:4]))
    for label in scripts[:4]:
        assert f"<td>{label}</td>" in text


def test_names_that_a_picture_can_show() -> None:
    names = ["猫", "cat", "קוף", "größer", "кошка", "x" * 30]
    assert drawable_names(names) == ["#0", "cat", "#2", "größer", "кошка", "x" * 24 + "…"]


def test_the_worst_mistakes_come_first() -> None:
    probabilities_NK = np.array(
        [[0.9, 0.1], [0.6, 0.4], [0.99, 0.01], [0.2, 0.8]], dtype=np.float32
    )
    assert worst_mistakes(probabilities_NK, np.array([1, 1, 1, 1])) == [2, 0, 1]
    many_NK = np.tile(np.array([[1.0, 0.0]], dtype=np.float32), (40, 1))
    assert worst_mistakes(many_NK, np.ones(40, dtype=np.int64)) == list(range(32))


def test_confusions_by_hand() -> None:
    counts = count_confusions(np.array([0, 1, 1, 2, 0]), np.array([0, 0, 1, 2, 2]), 3)
    assert counts.tolist() == [[1, 1, 0], [0, 1, 0], [1, 0, 1]]


def test_the_marked_epoch_is_the_kept_one() -> None:
    epochs = [Epoch(n, n, 0.1, 0.3, 0.9, 0.3, right, 1.5) for n, right in enumerate((7, 9, 9, 8))]
    assert kept_epoch(epochs, "best").epoch == 1
    assert kept_epoch(epochs, "last").epoch == 3


def test_curves_survive_the_file(tmp_path: Path) -> None:
    epoch = Epoch(1, 40, 0.1, 0.3, 0.9, float("nan"), 0.8, 1.5)
    names = Epoch.__dataclass_fields__
    write_curves(tmp_path / "metrics.csv", [{name: getattr(epoch, name) for name in names}])
    (again,) = read_curves(tmp_path)
    assert repr(again) == repr(epoch)
    assert torch.tensor(again.validation_loss).isnan()
