"""README.md and docs/ against the code: links, anchors, settings."""

import re
from pathlib import Path

import pytest

from docs.generate import SETTINGS_PAGE, generated, settings_table
from scoring.remote import API_KEY
from service.settings import GONE, Settings
from tests.service.session.test_formats import CIFAR10_64, CIFAR10_256, RESNET50

ROOT = Path(__file__).resolve().parent.parent
PAGES = [
    ROOT / "README.md",
    ROOT / "ARCHITECTURE.md",
    *sorted((ROOT / "docs").rglob("*.md")),
    ROOT / "models" / "README.md",
    ROOT / "service" / "README.md",
]
EVERY = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
README_LINES = 80


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_settings_table_is_the_one_of_the_code() -> None:
    assert generated(SETTINGS_PAGE) == settings_table(), "run `make docs`"


def test_settings_table_has_every_setting_once() -> None:
    rows = re.findall(r"^\| `(FOVEAL_\w+)`", settings_table(), re.MULTILINE)
    assert rows == [f"FOVEAL_{field.upper()}" for field in Settings.model_fields]
    assert "| `FOVEAL_MODELS` | the checkout's `models` |" in settings_table()
    assert "| `FOVEAL_RELOAD_S` | `2.0` | from 0 to 3600 |" in settings_table()


@pytest.mark.parametrize("field", sorted(Settings.model_fields))
def test_every_setting_has_a_description(field: str) -> None:
    assert Settings.model_fields[field].description


@EVERY
def test_names_no_setting_that_is_gone(page: Path) -> None:
    known = {f"FOVEAL_{field.upper()}" for field in Settings.model_fields}
    known |= {API_KEY, "FOVEAL_HOST"}  # which clients read, and the command line alone
    if page.name == "upgrade.md":
        known |= set(GONE)
    assert set(re.findall(r"FOVEAL_[A-Z0-9_]+[A-Z0-9]", page.read_text())) <= known


@EVERY
def test_links_lead_somewhere(page: Path) -> None:
    """Links name a file that is there, and a heading that is in it."""
    for target in re.findall(r"\]\((?!https?:)([^)]+)\)", page.read_text()):
        path, _, anchor = target.partition("#")
        file = page.parent / path if path else page
        assert file.exists(), f"{page.name} links to {target}"
        assert not anchor or anchor in anchors(file), f"{page.name} links to {target}"


def test_every_guide_is_linked_from_the_readme() -> None:
    linked = set(re.findall(r"\]\((docs/[^)#]+)", (ROOT / "README.md").read_text()))
    assert linked == {str(page.relative_to(ROOT)) for page in (ROOT / "docs").rglob("*.md")}


def test_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= README_LINES


def test_figures_of_the_gpu_come_from_their_table() -> None:
    """README's line, and the rates that the choice of formats is tested with."""
    page = (ROOT / "docs/gpu.md").read_text()
    table = page.partition("## What was measured")[2].partition("## Measure it")[0]
    (line,) = [x for x in (ROOT / "README.md").read_text().splitlines() if "| one H100" in x]
    (date,) = re.findall(r"\((\d{4}-\d{2})\)", line)
    assert f"measured {date}" in table
    quoted = set(re.findall(r"\d,\d{3}|0\.\d+", line))
    assert len(quoted) == 3
    rates = {
        f"{rate:,}" for rates in (RESNET50, CIFAR10_64, CIFAR10_256) for rate in rates.values()
    }
    assert quoted | rates <= set(re.findall(r"[\d,.]*\d", table))
