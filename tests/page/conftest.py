"""Chromium, the real one, on a real server; and what must never happen on any page."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import (
    Browser,
    BrowserContext,
    ConsoleMessage,
    FilePayload,
    Page,
    Request,
    expect,
    sync_playwright,
)

from models.evidence import Abstain, Metrics, Selective
from models.image import encode_png
from models.repository import ModelRepository
from tests.server import ROOT, RunningServer, running_server
from tests.tiny import publish_tiny

CHROMIUM = Path("/usr/bin/chromium")
WAIT_MS = 60_000
WIDTHS, SCHEMES = (360, 1280), ("light", "dark")
expect.set_options(timeout=WAIT_MS)
WORTH = Selective("test", 100, 0.5, 0.99)
# Bright at the top, dark below: of the tiny model its label is "top", by its upper rows alone.
BRIGHT_TOP = encode_png(
    np.concatenate([np.full((2, 8, 1), 200, np.uint8), np.zeros((6, 8, 1), np.uint8)])
)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One browser a file: while it runs, its event loop is this process's."""
    if not CHROMIUM.exists():
        pytest.skip(f"needs Debian's chromium at {CHROMIUM}")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


Open = Callable[..., Page]
Scheme = Literal["light", "dark"]


@contextmanager
def opening(browser: Browser, origin: str) -> Iterator[Open]:
    """Open pages that load from one origin alone, break no policy and throw no error."""
    problems: list[str] = []
    contexts: list[BrowserContext] = []

    def hear(message: ConsoleMessage) -> None:
        if "policy" in message.text.lower() or "This page failed" in message.text:
            problems.append(message.text)

    def see(request: Request) -> None:
        if not request.url.startswith((origin, "blob:", "data:")):
            problems.append(f"another host: {request.url}")

    def open_page(width: int = 1280, scheme: Scheme = "light", **options: Any) -> Page:
        context = browser.new_context(
            viewport={"width": width, "height": 900},
            color_scheme=scheme,
            reduced_motion="reduce",
            **options,
        )
        contexts.append(context)
        context.set_default_timeout(WAIT_MS)
        context.add_init_script(
            "addEventListener('securitypolicyviolation', (event) =>"
            " console.error(`policy: ${event.violatedDirective} ${event.blockedURI}`))"
        )
        page = context.new_page()
        page.on("pageerror", lambda error: problems.append(f"error: {error}"))
        page.on("console", hear)
        page.on("request", see)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert problems == []


def assert_usable(page: Page) -> None:
    """Assert that axe-core finds nothing, and that the page is no wider than the window."""
    found = Axe().run(page).response["violations"]
    assert [(each["id"], [node["html"] for node in each["nodes"]]) for each in found] == []
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of digits as shipped, and tiny ones of every kind that the page shows otherwise."""
    root = tmp_path_factory.mktemp("page") / "models"
    shutil.copytree(ROOT / "models" / "digits-cnn", root / "digits-cnn")
    publish_tiny(root)
    publish_tiny(root, "flat", gain=0.0)
    publish_tiny(root, "picky", abstain=Abstain(0.99, 0.99, WORTH, WORTH))
    publish_tiny(root, "several", task="multi-label")
    counts = ((20, 5, 0, 0), (0, 25, 0, 0), (0, 0, 25, 0), (7, 0, 0, 18))
    publish_tiny(
        root, "scored", metrics=Metrics("test", 100, 0.88, (0.8, 1, 1, 0.72), 0.01, None, counts)
    )
    publish_tiny(root, "hostile", labels=("<b>x</b>", "a'b\"c", "c", "d"))
    ModelRepository(root).set_default("tiny")
    return root


@pytest.fixture(scope="module")
def server(root: Path) -> Iterator[RunningServer]:
    with running_server(root, root.parent, reload_s=0.2, max_request_rows=200) as running:
        yield running


@pytest.fixture
def open_page(browser: Browser, server: RunningServer) -> Iterator[Open]:
    with opening(browser, server.url) as open_page:
        yield open_page


@pytest.fixture
def page(open_page: Open, server: RunningServer) -> Page:
    page = open_page()
    page.goto(server.url)
    expect(page.locator("#samples button")).to_have_count(8)
    return page


def choose(page: Page, model: str) -> None:
    page.select_option("#model", model)
    expect(page.locator("#card-title")).to_contain_text(f"{model}, version")


def upload(page: Page, *files: tuple[str, bytes]) -> None:
    kind = "application/octet-stream"
    payloads: list[FilePayload] = [
        {"name": name, "mimeType": kind, "buffer": body} for name, body in files
    ]
    page.set_input_files("#files", payloads)
