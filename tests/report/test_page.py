"""A report's page: values are escaped, pictures are inside, tables keep their numbers apart."""

import base64
import math
import re
from pathlib import Path

import jinja2
import pytest

from report.numbers import three_digits, without_nan
from report.page import Picture, Table, render, write_pictures

TEMPLATE = """{% extends "page.html" %}
{% import "parts.html" as parts %}
{% block body %}
{{ parts.summary(summary) }}
{{ parts.picture(picture) }}
{{ parts.table(table) }}
{% endblock %}
"""
BAD = "<script>&'\"</script>"
PNG = b"\x89PNG not really"


@pytest.fixture
def template(tmp_path: Path) -> Path:
    path = tmp_path / "some.html"
    path.write_text(TEMPLATE)
    return path


def page(template: Path, png: bytes | None = PNG) -> str:
    return render(
        template,
        title=BAD,
        summary={BAD: BAD},
        picture=Picture("name", BAD, BAD, png, BAD),
        table=Table((BAD, "n"), [(BAD, "1"), ("b", "2")], numbers=(1,), marked=(1,)),
    )


def test_no_value_becomes_html(template: Path) -> None:
    text = page(template)
    assert "<script>" not in text
    assert text.count("&lt;script&gt;&amp;&#39;&#34;&lt;/script&gt;") == 11


def test_the_page_needs_nothing_else(template: Path) -> None:
    text = page(template)
    assert f'src="data:image/png;base64,{base64.b64encode(PNG).decode()}"' in text
    assert not re.search(r"https?:|<link|<script|@import", text)
    assert text.count("<style>") == 1
    assert "max-width: 56rem" in text


def test_numbers_are_set_apart_and_rows_marked(template: Path) -> None:
    text = page(template)
    assert '<th scope="col" class="number">n</th>' in text
    assert '<td class="number">2</td>' in text
    assert re.search(r'<tr class="marked">\s*<td>b</td>', text)
    assert text.count('class="marked"') == 1


def test_a_picture_that_is_missing_is_said(template: Path) -> None:
    assert "<p>Nothing to show.</p>" in page(template, None)


def test_a_value_that_is_missing_is_an_error(template: Path) -> None:
    with pytest.raises(jinja2.UndefinedError, match="summary"):
        render(template, title="a")


def test_pictures_are_files_too(tmp_path: Path) -> None:
    write_pictures(tmp_path, [Picture("a", "", "", PNG, ""), Picture("b", "", "", None, "")])
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"a.png": PNG}


@pytest.mark.parametrize(
    ("value", "text"),
    [(math.nan, "none"), (1234567.0, "1,234,567"), (0.0, "0"), (123.4, "123"), (1.2345, "1.23")],
)
def test_three_digits(value: float, text: str) -> None:
    assert three_digits(value) == text


def test_json_has_no_nan() -> None:
    document = {"a": [math.nan, 1.5, (math.inf, "x")], 2: {"b": -math.inf}}
    assert without_nan(document) == {"a": [None, 1.5, [None, "x"]], "2": {"b": None}}
