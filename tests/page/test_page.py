"""The page at / in Chromium: pictures in, answers out, whatever the service does meanwhile."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from models.repository import ModelRepository
from models.rollout import Rollout, Share
from service.access.keys import add_key
from tests.page.conftest import (
    BRIGHT_TOP,
    SCHEMES,
    WIDTHS,
    Open,
    assert_usable,
    choose,
    opening,
    upload,
)
from tests.server import RunningServer, running_server
from tests.tiny import publish_tiny

pytestmark = pytest.mark.e2e


def test_upload_is_answered_with_what_the_model_saw(page: Page) -> None:
    upload(page, ("bright top.png", BRIGHT_TOP))
    expect(page.locator(".first")).to_contain_text("top 89.1")
    expect(page.locator(".bars li")).to_have_count(4)
    seen = page.get_by_alt_text("The same, as the model saw it: 8")
    assert seen.evaluate("(image) => [image.naturalWidth, image.naturalHeight]") == [8, 8]
    expect(page.get_by_role("status").first).to_contain_text("bright top.png: top")
    parts = page.locator(".parts li").all_inner_texts()
    assert [part.rpartition(" ")[0] for part in parts] == [
        "network and browser",
        "reading and decoding",
        "queue",
        "model",
    ]


def test_looks_where_the_pixels_are_and_says_so(page: Page) -> None:
    upload(page, ("top.png", BRIGHT_TOP))
    page.click("#look")
    expect(page.locator(".verdict strong")).to_have_text("Believe the map")
    label = page.locator("#look-result canvas").get_attribute("aria-label")
    assert label and label.endswith("probability of top most in the upper part.")
    choose(page, "flat")
    page.click("#look")
    expect(page.locator(".verdict strong")).to_have_text("Do not believe the map")


def test_several_at_once_and_one_of_them_bad(page: Page) -> None:
    upload(page, ("good.png", BRIGHT_TOP), ("bad.txt", b"no image"))
    expect(page.locator(".files button")).to_have_count(2)
    expect(page.locator(".files .bad")).to_have_text("No answer")
    page.locator(".files button").nth(1).click()
    expect(page.locator(".first")).to_have_text("No answer")
    expect(page.locator("#answer")).to_contain_text("image: expected JPEG, PNG")
    assert page.locator("#look-part").is_hidden()
    assert page.evaluate("document.activeElement.getAttribute('aria-pressed')") == "true"


def test_an_error_is_shown_kindly_and_the_next_picture_works(page: Page) -> None:
    upload(page, ("notes.txt", b"no image"))
    expect(page.get_by_role("alert").nth(1)).to_contain_text("The service could not use this.")
    expect(page.get_by_role("alert").nth(1)).to_contain_text("image: expected JPEG")
    page.locator("#samples button").first.click()
    expect(page.locator(".bars li")).to_have_count(4)
    assert page.locator("#trouble").inner_text() == ""


def test_drop_and_paste(page: Page) -> None:
    transfer = page.evaluate_handle(
        "(bytes) => { const all = new DataTransfer();"
        " all.items.add(new File([new Uint8Array(bytes)], 'dropped.png')); return all; }",
        list(BRIGHT_TOP),
    )
    page.dispatch_event("#drop", "drop", {"dataTransfer": transfer})
    expect(page.locator("#said")).to_contain_text("dropped.png: top")
    page.evaluate(
        "(all) => dispatchEvent(new ClipboardEvent('paste', {clipboardData: all}))",
        page.evaluate_handle(
            "(bytes) => { const all = new DataTransfer();"
            " all.items.add(new File([new Uint8Array(bytes)], 'pasted.png')); return all; }",
            list(BRIGHT_TOP),
        ),
    )
    expect(page.locator("#said")).to_contain_text("pasted.png: top")


def test_draw_a_digit_with_the_mouse(page: Page) -> None:
    page.click("#draw")
    page.click("text=tiny knows no digits: use digits-cnn")
    expect(page.locator("#card-title")).to_contain_text("digits-cnn")
    box = page.locator("#pad").bounding_box()
    assert box
    scale = box["width"] / 280
    points = [(80, 60), (200, 60), (130, 230)]
    for number, (x, y) in enumerate(points):
        page.mouse.move(box["x"] + x * scale, box["y"] + y * scale, steps=8)
        if not number:
            page.mouse.down()
    page.mouse.up()
    expect(page.locator(".first")).to_contain_text("7")


def test_draw_with_the_keyboard_alone(page: Page) -> None:
    choose(page, "digits-cnn")
    page.focus("#draw")
    page.keyboard.press("Enter")
    for _ in range(6):
        page.keyboard.press("ArrowUp")
    page.keyboard.press("Space")
    expect(page.locator("#pad-state")).to_have_text("The pen is down.")
    for _ in range(12):
        page.keyboard.press("ArrowDown")
    page.keyboard.press("Space")
    expect(page.locator(".first")).to_contain_text("1")


def test_other_model_and_version_answer_the_same_picture(page: Page) -> None:
    upload(page, ("top.png", BRIGHT_TOP))
    expect(page.locator("#answer")).to_contain_text("Answered by tiny, version 1.")
    choose(page, "flat")
    expect(page.locator("#answer")).to_contain_text("Answered by flat, version 1.")
    expect(page.locator(".bars .number").first).to_contain_text("25.0")
    page.select_option("#version", "1")
    expect(page.locator("#code")).to_contain_text("/models/flat/versions/1/predict")


def test_abstaining_several_labels_and_labels_that_look_like_markup(page: Page) -> None:
    upload(page, ("top.png", BRIGHT_TOP))
    choose(page, "picky")
    expect(page.locator(".first")).to_have_text("It abstains")
    expect(page.locator("#card")).to_contain_text("It abstains below 99.0")
    choose(page, "several")
    expect(page.locator(".first")).to_have_text("top")
    expect(page.locator("#answer")).to_contain_text("Every label that reaches its threshold.")
    choose(page, "hostile")
    expect(page.locator(".bars .name").first).to_have_text("<b>x</b>")


def test_code_that_is_shown_gives_the_same_answer(page: Page, tmp_path: Path) -> None:
    names = ["it's 1.png", "b.png"]
    for name in names:
        (tmp_path / name).write_bytes(BRIGHT_TOP)

    def run(language: str) -> str:
        page.get_by_role("tab", name=language).click()
        text = page.locator("#code").inner_text()
        program = ["bash", "-c"] if language == "curl" else [sys.executable, "-c"]
        done = subprocess.run(
            [*program, text], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, (text, done.stderr)
        return done.stdout

    upload(page, (names[0], BRIGHT_TOP))
    expect(page.locator("#code")).to_contain_text("/models/tiny/predict")
    (result,) = json.loads(run("curl"))["results"]
    assert result["predictions"][0]["label"] == "top"
    assert run("Python").splitlines()[0].startswith("top 0.89")
    upload(page, *((name, BRIGHT_TOP) for name in names))
    expect(page.locator(".files button")).to_have_count(2)
    assert run("Python").count("'label': 'top'") == 2
    assert len(json.loads(run("curl"))["results"]) == 2
    page.get_by_role("tab", name="JavaScript").click()
    code = page.locator("#code").inner_text()
    results = page.evaluate(
        "async (bytes) => { const file = new File([new Uint8Array(bytes)], 'a');"
        f" const input = {{files: [file, file]}}; {code}\nreturn results; }}",
        list(BRIGHT_TOP),
    )
    assert [result["predictions"][0]["label"] for result in results] == ["top", "top"]


def test_a_version_that_is_published_answers_without_a_reload(page: Page, root: Path) -> None:
    """And what a shadow of the requests says is shown."""
    repository = ModelRepository(root)
    publish_tiny(root, "swapped")
    expect(page.locator("#model option", has_text="swapped")).to_have_count(1)
    choose(page, "swapped")
    publish_tiny(root, "swapped", gain=2.0)
    expect(page.locator("#about")).to_contain_text("Version 2 answers now.")
    upload(page, ("top.png", BRIGHT_TOP))
    expect(page.locator("#answer")).to_contain_text("Answered by swapped, version 2.")
    repository.set_default("swapped", 1)
    repository.set_rollout("swapped", Rollout(shadow=Share(2, 1.0)))
    expect(page.locator("#candidates")).to_contain_text("version 2 runs unseen on 100")
    upload(page, ("top.png", BRIGHT_TOP))
    expect(page.locator("#candidates")).to_contain_text("the same label for 100")
    page.reload()
    expect(page.locator("#model option", has_text="swapped")).to_have_count(1)


def test_figures_of_the_service_follow_its_requests(page: Page) -> None:
    def figure(name: str) -> str:
        return page.locator(f"#live-{name}").inner_text()

    for _ in range(600):
        if figure("rate")[0] in "123456789":
            break
        page.locator("#samples button").first.click()
        page.wait_for_timeout(100)
    assert float(figure("rate")) > 0
    assert figure("p99").endswith("ms") and float(figure("batch")) >= 1


def test_two_models_answer_as_their_cards_say(page: Page) -> None:
    choose(page, "digits-cnn")
    card = page.locator("#card")
    expect(card).to_contain_text("99.2\u00a0% of 359 test images")
    expect(card).to_contain_text("Anything but its labels.")
    expect(card).to_contain_text("digits, 2026-11-21")
    expect(page.locator(".confusion tbody tr").last).to_have_text(re.compile("9.*34$"))
    choose(page, "tiny")
    expect(card).to_contain_text("Confusion matrix: not recorded with this version.")
    choose(page, "scored")
    expect(page.locator(".confusion tbody tr").first).to_have_text(re.compile("top.*20.*5"))
    expect(page.locator(".confusion tbody td", has_text="7")).to_have_count(1)


@pytest.mark.parametrize(
    ("width", "scheme"),
    [
        (360, "light"),
        (1280, "dark"),
        pytest.param(360, "dark", marks=pytest.mark.thorough),
        pytest.param(1280, "light", marks=pytest.mark.thorough),
    ],
)
def test_keyboard_and_screen_reader_find_everything(
    open_page: Open, server: RunningServer, width: int, scheme: str
) -> None:
    """With an answer, a map, an error, the pad and the card on the page at once."""
    page = open_page(width, scheme, bypass_csp=True)  # axe sets styles while it looks
    page.goto(server.url)
    expect(page.locator("#samples button")).to_have_count(8)
    choose(page, "digits-cnn")
    upload(page, ("top.png", BRIGHT_TOP), ("x", b"bad"))
    page.click("#look")
    expect(page.locator(".verdict strong")).to_be_visible()
    page.click("#draw")
    upload(page, ("x", b"bad"))
    expect(page.locator("#trouble")).to_contain_text("could not use")
    assert_usable(page)


@pytest.mark.parametrize(("width", "scheme"), list(zip(WIDTHS, SCHEMES, strict=True)))
def test_routes_page(open_page: Open, server: RunningServer, width: int, scheme: str) -> None:
    page = open_page(width, scheme, bypass_csp=True)  # axe sets styles while it looks
    page.goto(f"{server.url}/docs")
    expect(page.locator("summary", has_text="/v2/repository/index")).to_be_visible()
    page.locator("summary", has_text="/predict").first.click()
    expect(page.locator("details[open]")).to_contain_text("multipart/form-data")
    assert "[object" not in page.locator("#routes").inner_text()
    assert_usable(page)


def test_asks_for_a_key_and_keeps_it_in_the_tab(
    browser: Browser, root: Path, tmp_path: Path
) -> None:
    keys = tmp_path / "keys.toml"
    secret = add_key(keys, "someone")
    with (
        running_server(root, tmp_path, api_keys_file=keys) as server,
        opening(browser, server.url) as open_page,
    ):
        page = open_page()
        page.goto(server.url)
        expect(page.locator("#key-form")).to_be_visible()
        expect(page.locator("#key")).to_be_focused()
        page.fill("#key", "foveal_wrong")
        page.keyboard.press("Enter")
        expect(page.locator("#service")).to_contain_text("does not know this key")
        page.fill("#key", secret)
        page.keyboard.press("Enter")
        expect(page.locator("#samples button")).to_have_count(8)
        upload(page, ("top.png", BRIGHT_TOP))
        expect(page.locator("#code")).to_contain_text("$FOVEAL_API_KEY")
        assert secret not in page.content()
        assert page.evaluate("[localStorage.length, document.cookie]") == [0, ""]
        page.goto(f"{server.url}/docs")
        expect(page.locator("summary").first).to_be_visible()


@pytest.mark.thorough
def test_says_that_the_service_is_gone_and_goes_on_when_it_is_back(
    browser: Browser, root: Path, tmp_path: Path
) -> None:
    with running_server(root, tmp_path) as first, opening(browser, first.url) as open_page:
        page = open_page()
        page.goto(first.url)
        expect(page.locator("#samples button")).to_have_count(8)
        first.stop()
        expect(page.locator("#service")).to_contain_text("The service does not answer.")
        with running_server(root, tmp_path, port=first.port):
            expect(page.locator("#service")).to_be_empty()
            upload(page, ("top.png", BRIGHT_TOP))
            expect(page.locator(".first")).to_contain_text("top")
