"""The reports of training, tuning, load tests and replays in Chromium: readable on a telephone."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser

from tests.page import reports as made
from tests.page.conftest import SCHEMES, WIDTHS, Open, assert_usable, opening

pytestmark = [pytest.mark.e2e, pytest.mark.training, pytest.mark.thorough]


TRAINING = ("--network", "fcnn", "--hidden", 8, "--epochs", 2)
LOAD = ("--users", 2, "--duration-s", 1, "--models")
REPORTS: dict[str, Callable[[Path, Path], Path]] = {
    "training": lambda folder, _: made.training(folder, TRAINING),
    "load": lambda folder, models: made.load(folder, (*LOAD, models)),
    "tuning": lambda folder, _: made.tuning(folder),
    "replay": lambda folder, _: made.replay(folder),
}


@pytest.fixture
def open_page(browser: Browser) -> Iterator[Open]:
    with opening(browser, "file:") as open_page:
        yield open_page


@pytest.mark.parametrize("name", REPORTS)
def test_report_fits_and_its_pictures_are_described(
    open_page: Open, tiny_repository: Path, tmp_path: Path, name: str
) -> None:
    report = REPORTS[name](tmp_path, tiny_repository)
    for width in WIDTHS:
        for scheme in SCHEMES:
            page = open_page(width, scheme)
            page.goto(report.as_uri())
            assert_usable(page)
            described = page.locator("img").evaluate_all("(all) => all.map((image) => image.alt)")
            assert len(described) >= 3
            titles = page.locator("h2").all_inner_texts()
            for words in described:
                assert words.endswith(".") and len(words) > 20 and words not in titles, words
