"""Eight pairs of a network and its transform answer over HTTP as their user's own code does."""

import json
from dataclasses import replace

import pytest

from tests.adoption.adopting import (
    HERE,
    PAIRS,
    Row,
    adopt,
    adopt_here,
    ask,
    compare,
    copy_project,
    train,
    write_photographs,
)
from tests.server import running_server
from tests.user_environment import make_python

# One a way, the cheapest networks: 40 are in the table.
NAMES = (
    "tv_mobilenet_v3_small",
    "tv_squeezenet1_1",
    "tv_shufflenet_v2_x1_0",
    "tv_vit",
    "timm_mobilenetv3_small_050",
    "timm_ghostnet_050",
    "timm_regnety_002",
    "hf_convnext",
)
PHOTOGRAPHS, LARGEST = 93, 320  # three of a kind
TABLE = HERE / "table.json"
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Row]:
    folder = tmp_path_factory.mktemp("pairs")
    python, models = make_python(folder / "environment"), folder / "models"
    project, photographs = copy_project(folder / "project"), folder / "photographs"
    write_photographs(photographs, PHOTOGRAPHS, LARGEST)
    train(python, project, photographs, NAMES)
    refused = {
        name: adopt(adopt_here, python, project, photographs, models, name) for name in NAMES
    }
    files = sorted(photographs.iterdir())
    made = {name: Row(name, refused=text) for name, text in refused.items() if text}
    with running_server(models, folder) as server:
        for name in set(NAMES) - set(made):
            made[name] = compare(project, name, models, ask(server, name, files))
    return made


@pytest.mark.parametrize("name", NAMES)
def test_a_pair_answers_as_its_user_does(rows: dict[str, Row], name: str) -> None:
    assert rows[name].failures() == []
    assert rows[name].photographs == PHOTOGRAPHS


@pytest.mark.parametrize(
    "short",
    [
        {"refused": "no"},
        {"labels": 19},
        {"wrong_filter": 2},
        {"wrong_crop": 2},
        {"same": PHOTOGRAPHS - 1},
        {"difference": 0.002},
        {"photographs": 0, "same": 0},
    ],
)
def test_a_pair_that_falls_short_is_named(rows: dict[str, Row], short: dict[str, object]) -> None:
    (failure,) = replace(rows[NAMES[0]], **short).failures()  # type: ignore[arg-type]
    assert failure.startswith(NAMES[0])


@pytest.mark.skipif(not TABLE.is_file(), reason="needs a table: make adopt-table")
def test_the_table_has_every_pair() -> None:
    told = json.loads(TABLE.read_text())
    rows = [Row(**row) for row in told["pairs"]]
    assert [row.name for row in rows] == list(PAIRS)
    assert [failure for row in rows for failure in row.failures()] == []
    assert {row.photographs for row in rows} == {300}
