"""Make the pictures of the page and the reports in docs/: ``python -m docs.screenshots``.

Needs the extra ``dev`` and Debian's chromium. Few colours keep the pictures small.
"""

import io
import re
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, Page, expect, sync_playwright

from loadtest.serving import running_service
from tests.page import reports

IMAGES = Path(__file__).with_name("images")
ROOT = Path(__file__).resolve().parent.parent
SERVE = [sys.executable, str(ROOT / "foveal.py"), "serve", "--models", str(ROOT / "models")]
CHROMIUM = "/usr/bin/chromium"
# Name, width and height of the window, scheme, model, number of a golden image.
PAGES = (
    ("page-light", 1280, 1330, "light", "cifar10-cnn", 2),
    ("page-dark", 390, 1500, "dark", "fashion-cnn", 0),
)
# Name, width and height of the window, scheme, and what makes the report.
REPORTS: tuple[tuple[str, int, int, str, Callable[[Path], Path]], ...] = (
    (
        "report-training",
        1280,
        1180,
        "light",
        partial(reports.training, options=("--network", "cnn", "--epochs", 12)),
    ),
    (
        "report-load",
        1280,
        1230,
        "dark",
        partial(reports.load, options=("--shape", "steps", "--users", 16)),
    ),
    ("report-tuning", 1280, 1000, "light", reports.tuning),
    ("report-replay", 820, 1400, "dark", reports.replay),
)


def open_page(browser: Browser, url: str, width: int, height: int, scheme: str) -> Page:
    """Open an address in a window of that size."""
    page = browser.new_context(
        viewport={"width": width, "height": height},
        color_scheme="dark" if scheme == "dark" else "light",
        reduced_motion="reduce",
    ).new_page()
    page.goto(url)
    return page


def answer(page: Page, model: str, number: int) -> None:
    """Have the page answer a golden image, and draw the map."""
    expect(page.locator("#samples button").first).to_be_visible()
    page.select_option("#model", model)
    expect(page.locator("#card-title")).to_contain_text(model)
    expect(page.locator("#samples button").nth(7)).to_be_visible()
    page.locator("#samples button").nth(number).click()
    page.click("#look")
    expect(page.locator(".verdict strong")).to_be_visible()
    expect(page.locator("#live-rate")).to_have_text(re.compile("[1-9]"))
    page.evaluate("document.activeElement.blur(), scrollTo(0, 0)")


def keep(page: Page, name: str) -> None:
    """Write what the window shows, as PNG of few colours."""
    few = Image.open(io.BytesIO(page.screenshot())).convert("RGB").quantize(256)
    few.save(IMAGES / f"{name}.png", optimize=True)
    page.context.close()


def main() -> None:
    """Write the pictures."""
    IMAGES.mkdir(exist_ok=True)
    expect.set_options(timeout=60_000)
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        with running_service(SERVE, Path(folder) / "log") as url:
            for name, width, height, scheme, model, number in PAGES:
                page = open_page(browser, url, width, height, scheme)
                answer(page, model, number)
                keep(page, name)
        for name, width, height, scheme, make in REPORTS:
            report = make(Path(folder)).as_uri()
            keep(open_page(browser, report, width, height, scheme), name)
        browser.close()


if __name__ == "__main__":
    main()
