"""The reports of training, tuning, load tests and replays in Chromium: readable on a telephone."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser

from tests.page import reports as made
from tests.page.conftest import SCHEMES, WIDTHS, Open, assert_usable, opening

pytestmark = [pytest.mark.e2e, pytest.mark.training]


@pytest.fixture(scope="module")
def reports(tiny_repository: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("reports")
    return {
        "training": made.training(folder, ("--network", "fcnn", "--hidden", 8, "--epochs", 2)),
        "load": made.load(folder, ("--models", tiny_repository, "--users", 2, "--duration-s", 1)),
        "tuning": made.tuning(folder),
        "replay": made.replay(folder),
    }


@pytest.fixture
def open_page(browser: Browser) -> Iterator[Open]:
    with opening(browser, "file:") as open_page:
        yield open_page


@pytest.mark.parametrize("name", ["training", "load", "tuning", "replay"])
def test_report_fits_and_its_pictures_are_described(
    open_page: Open, reports: dict[str, Path], name: str
) -> None:
    for width in WIDTHS:
        for scheme in SCHEMES:
            page = open_page(width, scheme)
            page.goto(reports[name].as_uri())
            assert_usable(page)
            described = page.locator("img").evaluate_all("(all) => all.map((image) => image.alt)")
            assert len(described) >= 3
            titles = page.locator("h2").all_inner_texts()
            for words in described:
                assert words.endswith(".") and len(words) > 20 and words not in titles, words
