"""One rule says which texts of a CSV get a quote, for the tables of scores and of findings."""

import csv
import io

import pytest

from models.spreadsheet import inert
from training.datasets.listing import Listing
from training.quality.findings import Finding, to_csv

RUN = ["=1", "'=1", "''-x", "-x.png", "@b", "\t=1", "\r=1", "\n=1", "\uff1d1", "\uff0b1", "\uff20b"]
PLAIN = ["a.png", "-1", "+1.5", "-1e-3", "'quoted'", "a=1", "", "'", "2024-01-01"]


@pytest.mark.parametrize("text", [*RUN, *PLAIN])
def test_findings_hold_a_text_as_scores_do(text: str) -> None:
    listing = Listing("a", (), [], lambda _: iter(()), 0)
    written = to_csv([Finding("small-class", None, text, label=text)], listing)
    [row] = csv.DictReader(io.StringIO(written, newline=""))
    expected = f"'{text}" if text in RUN else text
    assert inert(text) == expected
    assert (row["suggestion"], row["label"]) == (expected, expected)
