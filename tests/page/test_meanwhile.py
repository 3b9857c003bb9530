"""The page while an answer is on its way, or was refused: what it shows belongs together."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, Route, expect

from models.repository import ModelRepository
from service.access.keys import add_key
from tests.page.conftest import BRIGHT_TOP, Open, choose, opening, upload
from tests.server import ROOT, RunningServer, running_server
from tests.tiny import publish_tiny

pytestmark = pytest.mark.e2e


@contextmanager
def held(page: Page, path: str) -> Iterator[None]:
    """Requests of a path wait until the end of the block."""
    routes: list[Route] = []

    def hold(route: Route) -> None:
        routes.append(route)

    page.route(path, hold)
    yield
    assert routes
    for route in routes:
        route.continue_()
    page.unroute(path)


def refuse(page: Page, path: str, times: int, status: int = 503) -> None:
    """The next requests of a path are refused."""
    page.route(
        path, lambda route: route.fulfill(status=status, json={"error": "later"}), times=times
    )


def assert_answered_by(page: Page, model: str) -> None:
    expect(page.locator("#answer")).to_contain_text(f"Answered by {model}, version")
    expect(page.locator("#code")).to_contain_text(f"/models/{model}/predict")


def test_a_picture_sent_before_the_card_of_its_model_came(page: Page) -> None:
    """It is answered, with that card, once; what comes late takes no answer and no map away."""
    with held(page, "**/models/several"):
        page.select_option("#model", "several")
        upload(page, ("top.png", BRIGHT_TOP))
        expect(page.locator("#answer")).to_contain_text("Answered by several, version 1.")
        expect(page.locator(".bars .unseen").first).to_contain_text("threshold")
    choose(page, "tiny")
    expect(page.locator("#answer")).to_contain_text("Answered by tiny, version 1.")
    asked: list[str] = []
    with held(page, "**/golden/*"):
        choose(page, "digits-cnn")
        upload(page, ("top.png", BRIGHT_TOP))
        expect(page.locator("#answer")).to_contain_text("Answered by digits-cnn, version")
        page.click("#look")
        expect(page.locator(".verdict strong")).to_be_visible()
        page.on("request", lambda request: asked.append(request.url))
    expect(page.get_by_alt_text("Golden image 7")).to_have_count(1)
    page.wait_for_timeout(500)
    assert not [url for url in asked if "/predict" in url]
    expect(page.locator(".verdict strong")).to_be_visible()


def test_a_model_chosen_before_the_answer_came_is_asked_too(page: Page) -> None:
    with held(page, "**/models/tiny/predict"):
        upload(page, ("top.png", BRIGHT_TOP))
        choose(page, "picky")
        expect(page.locator(".first")).to_have_text("It abstains")
    page.wait_for_timeout(500)
    expect(page.locator(".first")).to_have_text("It abstains")


def test_a_picture_that_comes_before_the_models_are_known(
    open_page: Open, server: RunningServer
) -> None:
    """The first looks at the service are refused: the card comes late, the picture is answered."""
    page = open_page()
    refuse(page, "**/models", 1)
    refuse(page, "**/models/tiny", 1)
    page.goto(server.url)
    expect(page.locator("#service")).to_contain_text("Not ready yet.")
    upload(page, ("top.png", BRIGHT_TOP))
    assert_answered_by(page, "tiny")
    expect(page.locator("#card-title")).to_have_text("tiny, version 1")
    expect(page.locator("#service")).to_have_text("")


def test_a_model_whose_card_is_refused_once_is_asked_all_the_same(page: Page) -> None:
    upload(page, ("top.png", BRIGHT_TOP))
    assert_answered_by(page, "tiny")
    refuse(page, "**/models/picky", 1)
    choose(page, "picky")
    assert_answered_by(page, "picky")


def test_an_answer_is_shown_though_its_pixels_are_refused(page: Page) -> None:
    refuse(page, "**/pixels", 2, 429)
    upload(page, ("a.png", BRIGHT_TOP), ("b.png", BRIGHT_TOP))
    assert_answered_by(page, "tiny")
    page.locator(".files button").nth(1).click()
    expect(page.locator("#said")).to_contain_text("b.png: top")
    expect(page.get_by_alt_text("as the model saw it")).to_have_count(0)
    page.click("#look")
    expect(page.locator(".verdict strong")).to_have_text("Believe the map")
    assert page.locator("#trouble").inner_text() == ""


def test_nothing_changes_until_the_next_answer_is_whole(page: Page) -> None:
    """Another picture of a list, then another request: the pixels of both are late."""
    upload(page, ("a.png", BRIGHT_TOP), ("b.png", BRIGHT_TOP))
    assert_answered_by(page, "tiny")
    pressed = page.locator(".files [aria-pressed=true]")
    with held(page, "**/pixels"):
        page.locator(".files button").nth(1).click()
        with page.expect_response("**/predict"):
            upload(page, ("c.png", BRIGHT_TOP))
        page.get_by_role("tab", name="Python").click()
        expect(page.locator("#code")).to_contain_text("b.png")
        expect(pressed).to_contain_text("a.png")
        page.locator(".files button").nth(1).click()
        page.click("#look")
        expect(page.locator(".verdict strong")).to_have_text("Believe the map")
    expect(page.locator("#said")).to_contain_text("c.png: top")
    expect(page.locator("#code")).to_contain_text("c.png")
    expect(page.locator(".verdict")).to_have_count(0)
    expect(page.locator("#look")).to_be_enabled()


def test_what_was_asked_last_goes_to_another_model_though_it_was_refused(page: Page) -> None:
    upload(page, ("a.png", BRIGHT_TOP))
    assert_answered_by(page, "tiny")
    refuse(page, "**/predict", 1, 429)
    upload(page, ("b.png", BRIGHT_TOP))
    expect(page.locator("#trouble")).to_contain_text("The service is busy.")
    choose(page, "picky")
    expect(page.locator("#said")).to_contain_text("b.png: It abstains")
    assert page.locator("#trouble").inner_text() == ""


def test_a_drawing_is_cut_as_the_model_that_is_chosen_wants_it(page: Page, root: Path) -> None:
    shutil.copytree(ROOT / "models" / "fashion-fcnn", root / "fashion-fcnn")
    expect(page.locator("#model option", has_text="fashion-fcnn")).to_have_count(1)
    sizes: list[int] = []

    def measure(route: Route) -> None:
        sizes.append(int.from_bytes((route.request.post_data_buffer or b"")[16:20], "big"))
        route.continue_()

    page.route("**/predict", measure)
    choose(page, "fashion-fcnn")
    page.click("#draw")
    box = page.locator("#pad").bounding_box()
    assert box
    page.mouse.move(box["x"] + 60, box["y"] + 60)
    page.mouse.down()
    page.mouse.move(box["x"] + 160, box["y"] + 160, steps=4)
    page.mouse.up()
    assert_answered_by(page, "fashion-fcnn")
    page.click("text=fashion-fcnn knows no digits: use digits-cnn")
    assert_answered_by(page, "digits-cnn")
    with_margin, without = sizes
    assert with_margin == round(without / (1 - 2 * 4 / 28))


@pytest.mark.thorough
def test_a_version_answers_now_only_if_its_model_was_chosen(page: Page, root: Path) -> None:
    publish_tiny(root, "renewed")
    publish_tiny(root, "renewed")
    expect(page.locator("#model option", has_text="renewed")).to_have_count(1)
    with held(page, "**/models/tiny"):
        publish_tiny(root)
        publish_tiny(root)
        ModelRepository(root).set_default("tiny", 2)
        page.wait_for_timeout(4000)
        choose(page, "renewed")
    page.wait_for_timeout(500)
    expect(page.locator("#said")).to_have_text("")
    choose(page, "tiny")
    expect(page.locator("#card-title")).to_have_text("tiny, version 2")


@pytest.mark.thorough
def test_asks_for_no_key_once_the_service_wants_none(
    browser: Browser, root: Path, tmp_path: Path
) -> None:
    keys = tmp_path / "keys.toml"
    add_key(keys, "someone")
    with running_server(root, tmp_path, api_keys_file=keys) as server:
        port = server.port
        with opening(browser, server.url) as open_page:
            page = open_page()
            page.goto(server.url)
            expect(page.locator("#key-form")).to_be_visible()
            server.stop()
            with running_server(root, tmp_path, port=port):
                expect(page.locator("#card-title")).to_contain_text("tiny, version")
                expect(page.locator("#key-form")).to_be_hidden()
