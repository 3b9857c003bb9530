"""Chromium, the real one, on a real server; and what must never happen on any page."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import (
    Browser,
    BrowserContext,
    ConsoleMessage,
    Page,
    Request,
    sync_playwright,
)

CHROMIUM = Path("/usr/bin/chromium")
WAIT_MS = 60_000
WIDTHS, SCHEMES = (360, 1280), ("light", "dark")


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
