"""README.md and docs/ against the code: links, anchors, settings."""

import json
import re
from pathlib import Path

import pytest

import service.errors
from docs.generate import GENERATED, REFERENCE, generated, settings_table
from docs.tables import errors_table, metrics_table, model_table
from scoring.remote import API_KEY
from service.protocols.v2 import grpc_endings
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
README_LINES = 100
LINES_TO_THE_ANSWER = 40


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", GENERATED, ids=lambda page: page.name)
def test_a_generated_table_is_the_one_of_the_code(page: Path) -> None:
    assert generated(page) == GENERATED[page](), "run `make docs`"


def test_metrics_table_has_the_name_that_a_query_takes() -> None:
    table = metrics_table()
    assert "| `foveal_requests_total` | counter | `model`, `version`, `protocol`," in table
    assert (
        "| `foveal_run_seconds` | histogram | `model`, `version` | One onnxruntime call |" in table
    )
    rows = table.splitlines()
    assert len(rows) == len(set(rows)) > 28


def test_errors_table_has_every_status() -> None:
    """Those that a class of the service has, and gRPC's of each."""
    named = {
        kind.status
        for kind in vars(service.errors).values()
        if isinstance(kind, type) and issubclass(kind, service.errors.ServiceError)
    }
    rows = dict(re.findall(r"^\| (\d+) \| (.*) \|$", errors_table(), re.MULTILINE))
    assert set(map(int, rows)) == named
    assert rows["429"].endswith("| `Retry-After`")
    assert rows["405"].endswith("| `Allow`")
    text, codes = (REFERENCE / "errors.md").read_text(), dict(grpc_endings.CODES)
    for statuses, code in re.findall(r"^\| ([\d, ]+) \| ([A-Z_]+) \|$", text, re.MULTILINE):
        for status in map(int, statuses.split(", ")):
            assert codes.pop(status).name == code
    assert not codes


def test_model_table_has_every_field_with_its_meaning() -> None:
    """Every field that a shipped version has; and none without a word about it."""
    table = model_table()
    rows = dict(re.findall(r"^\| `([\w.\[\]]+)` \| .* \| (.*) \|$", table, re.MULTILINE))
    assert all(rows.values()), [name for name, what in rows.items() if not what]
    assert "| `image.resize.height` | integer, or null | null |" in table
    assert "| `metrics.per_class` | list of numbers or nulls | required |" in table
    for file in ROOT.glob("models/*/*/model.json"):
        assert paths(json.loads(file.read_text()), "") <= set(rows), file


def paths(value: object, path: str) -> set[str]:
    """The fields of a document, named as the table names them; names that are data are not."""
    if isinstance(value, list):
        return set().union(*(paths(each, f"{path}[]") for each in value if isinstance(each, dict)))
    # An earlier release wrote ``per_class`` as an object by label.
    if not isinstance(value, dict) or path in ("provenance.versions", "metrics.per_class"):
        return set()
    found = set()
    for name, item in value.items():
        inner = f"{path}.{name}" if path else name
        found |= {inner} | paths(item, inner)
    return found


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
    lines = (ROOT / "README.md").read_text().splitlines()
    assert len(lines) <= README_LINES
    assert any(line.startswith('{"model"') for line in lines[:LINES_TO_THE_ANSWER])


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
