"""Make the pictures of docs/page.md: ``python -m docs.screenshots``.

Needs the extra ``dev`` and Debian's chromium. Few colours keep the pictures small.
"""

import io
import re
import sys
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, expect, sync_playwright

from loadtest.serving import running_service

IMAGES = Path(__file__).with_name("images")
ROOT = Path(__file__).resolve().parent.parent
SERVE = [sys.executable, str(ROOT / "foveal.py"), "serve", "--models", str(ROOT / "models")]
CHROMIUM = "/usr/bin/chromium"
# Name, width and height of the window, scheme, model, number of a golden image.
PICTURES = (
    ("page-light", 1280, 1330, "light", "cifar10-cnn", 2),
    ("page-dark", 390, 1500, "dark", "fashion-cnn", 0),
)


def photograph(
    browser: Browser, url: str, size: tuple[int, int], scheme: str, model: str, number: int
) -> bytes:
    """Return a picture of the page with the answer, and the map, of a golden image, as PNG."""
    context = browser.new_context(
        viewport={"width": size[0], "height": size[1]},
        color_scheme="dark" if scheme == "dark" else "light",
        reduced_motion="reduce",
    )
    page = context.new_page()
    page.goto(url)
    expect(page.locator("#samples button").first).to_be_visible()
    page.select_option("#model", model)
    expect(page.locator("#card-title")).to_contain_text(model)
    expect(page.locator("#samples button").nth(7)).to_be_visible()
    page.locator("#samples button").nth(number).click()
    page.click("#look")
    expect(page.locator(".verdict strong")).to_be_visible()
    expect(page.locator("#live-rate")).to_have_text(re.compile("[1-9]"))
    page.evaluate("document.activeElement.blur(), scrollTo(0, 0)")
    png = page.screenshot()
    context.close()
    return png


def main() -> None:
    """Write the pictures."""
    IMAGES.mkdir(exist_ok=True)
    expect.set_options(timeout=60_000)
    with (
        tempfile.TemporaryDirectory() as folder,
        running_service(SERVE, Path(folder) / "log") as url,
        sync_playwright() as playwright,
    ):
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        for name, width, height, scheme, model, number in PICTURES:
            png = photograph(browser, url, (width, height), scheme, model, number)
            few = Image.open(io.BytesIO(png)).convert("RGB").quantize(256)
            few.save(IMAGES / f"{name}.png", optimize=True)
        browser.close()


if __name__ == "__main__":
    main()
