"""The dashboard without Grafana: the same queries, drawn from a running Prometheus."""

import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import httpx
import pytest

from deploy.page import Prometheus, page
from deploy.panels import PANELS
from tests.deploy.watched import Watched
from tests.server import ROOT

pytestmark = pytest.mark.e2e


class Outline(HTMLParser):
    """The headings of the figures, and every address that would be fetched."""

    def __init__(self) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.tags: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.fetched += [v or "" for k, v in attrs if k in ("src", "href", "xlink:href", "data")]


def test_every_panel_is_drawn_with_data(watched: Watched, tmp_path: Path) -> None:
    out = tmp_path / "page.html"
    words = [sys.executable, "-m", "deploy.page", watched.url, "--minutes", "0.3"]
    subprocess.run([*words, "--window", "5s", "--out", out], check=True, cwd=ROOT, timeout=60)
    text = out.read_text()
    assert re.findall(r"<h3>(.*?)</h3>", text) == [panel.title for panel in PANELS]
    assert "no data" not in text
    outline = Outline()
    outline.feed(text)
    assert "script" not in outline.tags
    assert all(address.startswith("#") for address in outline.fetched), outline.fetched
    charts = re.findall(r"<svg .*?</svg>", text, re.DOTALL)
    assert len(charts) == sum(panel.kind in ("lines", "stacked") for panel in PANELS)
    for chart in charts:
        ElementTree.fromstring(chart)
    assert "tiny:1" in text and "slow p99" in text


def test_without_data_a_panel_says_so(watched: Watched) -> None:
    with httpx.Client(base_url=watched.url) as client:
        before = Prometheus(client, watched.start_s - 3600, 60, "5s")
        text = page(before, "Before <anything>")
    assert text.count("no data") == len(PANELS)
    assert "Before &lt;anything&gt;" in text


def test_what_is_no_prometheus_is_one_line(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "deploy.page", "http://127.0.0.1:9", "--out", tmp_path / "no"]
    done = subprocess.run(words, capture_output=True, text=True, cwd=ROOT, timeout=60, check=False)
    assert done.returncode == 1
    assert re.fullmatch(r"http://127.0.0.1:9: expected a Prometheus .*\n", done.stderr), done.stderr
