"""Every figure of README.md's results stands in the table that its row links to."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SECTION = (ROOT / "README.md").read_text().partition("## Results\n")[2].partition("\n## ")[0]
ROWS = [row for row in SECTION.splitlines() if row.startswith("| ") and "measured on" not in row]
LINK = r"\(\[\w+\]\(([^)]+)\)\)"
# Numbers that are no result: sizes, counts and names, as they stand in the row.
GIVEN = [
    "640 x 427",
    "MobileNetV3-large at 224",
    "MobileNetV3",
    "16 connections",
    "ResNet-50",
    "int8",
    "float32",
    "12 megapixels",
    "64 connections",
    "V2 binary",
    "64 rows",
    "Triton 2.51",
    "cifar10",
    "one H100",
    "resnet50",
    "TF32",
    "1 worker",
    "12 cores",
    "4 workers",
    "(2026-11)",
    "of 20",
]
# A figure that is rounded, and what it is rounded from.
ROUNDED = {"1.8": "1.76", "2.0": "1.98", "155": "154.9"}
# A comparison, without a figure that a table could have.
WITHOUT_TABLE = "10,000 images scored offline"


def figures(text: str) -> list[str]:
    for given in GIVEN:
        text = text.replace(given, "")
    text = re.sub(r"\d{4}-\d{2}-\d{2}", "", text)
    return re.findall(r"\d[\d,]*(?:\.\d+)?", text)


def parts(row: str) -> list[tuple[str, str]]:
    """The texts of a row, each with the file that the link after it leads to."""
    texts = re.split(LINK, row)
    return list(zip(texts[::2], texts[1::2], strict=False))


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[2:40])
def test_a_row_of_figures_is_that_of_its_table(row: str) -> None:
    if row.startswith(f"| {WITHOUT_TABLE}"):
        assert not re.search(LINK, row)
        return
    linked = parts(row)
    assert linked, f"a row of results without a table: {row}"
    found = 0
    for text, file in linked:
        table = (ROOT / file.partition("#")[0]).read_text()
        cells = re.findall(r"\d[\d,]*(?:\.\d+)?", table)
        for figure in figures(text):
            found += 1
            written = ROUNDED.get(figure.rstrip(","), figure.rstrip(","))
            assert written in cells, f"{file} has no {written}"
    assert found
    assert not figures(re.split(LINK, row)[-1]), "figures behind the last link have no table"


def test_a_row_that_lies_is_found() -> None:
    row = "| a | 91 requests/s ([table](loadtest/bench/results/peers_2026-11-28_0327.md)) |"
    with pytest.raises(AssertionError, match="has no 91"):
        test_a_row_of_figures_is_that_of_its_table(row)
