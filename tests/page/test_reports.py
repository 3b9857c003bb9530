"""The reports of training, tuning and load tests in Chromium: one look, readable on a telephone."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser

from loadtest.tune.journal import Journal
from loadtest.tune.points import Served
from loadtest.tune.report import Story, write_report
from loadtest.tune.search import Outcome, Wish
from models.machine import Machine
from tests.page.conftest import SCHEMES, Open, assert_usable, opening
from tests.server import ROOT

pytestmark = [pytest.mark.e2e, pytest.mark.training]

TUNED = ROOT / "loadtest" / "bench" / "results" / "tune_2026-11-21_digits-cnn"


def run(*arguments: object) -> None:
    command = [sys.executable, str(ROOT / "foveal.py"), *map(str, arguments)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)


@pytest.fixture(scope="module")
def reports(tiny_repository: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Each of the three, made as its command makes it; tuning's from measurements that are kept."""
    folder = tmp_path_factory.mktemp("reports")
    train = ("train", "--dataset", "digits", "--network", "fcnn", "--hidden", 8, "--epochs", 2)
    run(*train, "--run", folder / "run")
    load = ("loadtest", "--start", "--models", tiny_repository, "--users", 2, "--duration-s", 1)
    run(*load, "--out", folder / "load")
    return {
        "training": folder / "run" / "report.html",
        "load": folder / "load" / "report.html",
        "tuning": tuning_report(folder / "tune"),
    }


def without_settings_gone(text: str) -> str:
    """Leave out what a later service chooses by itself."""
    return re.sub(r',\s*"(?:max_queue_delay_ms|buckets)": (?:[\d.]+|\[\])', "", text)


def tuning_report(folder: Path) -> Path:
    folder.mkdir()
    text = without_settings_gone((TUNED / "measurements.jsonl").read_text())
    (folder / "measurements.jsonl").write_text(text)
    about = json.loads(text.splitlines()[0])["about"]
    kept = json.loads(without_settings_gone((TUNED / "tune.json").read_text()))
    outcome = kept["outcome"]
    for name in ("best", "default"):
        trail = tuple(map(tuple, outcome[name]["trail"]))
        outcome[name] = Served(**outcome[name] | {"trail": trail})
    return write_report(
        folder,
        Journal(folder, about),
        Story(
            kept["model"],
            Machine(**kept["machine"]),
            Wish(**kept["wish"]),
            Outcome(**outcome),
            kept["verdict"],
            kept["command"],
        ),
    )


@pytest.fixture
def open_page(browser: Browser) -> Iterator[Open]:
    with opening(browser, "file:") as open_page:
        yield open_page


@pytest.mark.parametrize("name", ["training", "load", "tuning"])
def test_report_fits_and_its_pictures_are_described(
    open_page: Open, reports: dict[str, Path], name: str
) -> None:
    for width in (390, 1280):
        for scheme in SCHEMES:
            page = open_page(width, scheme)
            page.goto(reports[name].as_uri())
            assert_usable(page)
            described = page.locator("img").evaluate_all("(all) => all.map((image) => image.alt)")
            assert len(described) >= 3
            titles = page.locator("h2").all_inner_texts()
            for words in described:
                assert words.endswith(".") and len(words) > 20 and words not in titles, words
