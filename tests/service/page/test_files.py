"""The page's files as they are answered: from memory, with an ETag and a strict policy."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from service.errors import MethodError
from service.lane.exchange import Exchange
from service.page import files
from service.page.files import Page
from tests.server import ROOT

STATIC = ROOT / "service" / "page" / "static"
PATHS = ["/", "/docs", *(f"/page/{p.name}" for p in STATIC.iterdir() if p.suffix != ".html")]
TEXTS = pytest.mark.parametrize("name", sorted(path.name for path in STATIC.iterdir()))


def ask(path: str, method: str = "GET", tag: bytes = b"") -> tuple[int, bytes, bytes, bytes]:
    """Return status, body, media type and further lines; of no body what a HEAD would leave out."""
    written: list[tuple[int, bytes, bytes, bytes]] = []
    headers = [(b"if-none-match", tag)] if tag else []

    def write(exchange: Exchange, status: int, body: bytes, kind: bytes, extra: bytes) -> None:
        written.append((status, b"" if exchange.method == "HEAD" else body, kind, extra))

    handler = Page().find(path.encode())
    assert handler is not None, path
    handler(Exchange(method, path.encode(), b"", headers, write))
    return written[0]


@pytest.mark.parametrize("path", PATHS)
def test_every_file_is_answered_once_and_then_known_by_its_tag(path: str) -> None:
    status, body, kind, lines = ask(path)
    assert status == 200 and body and kind.split(b"/")[0] in (b"text", b"image")
    assert b"default-src 'none'" in lines and b"unsafe" not in lines
    found = re.search(rb'^etag: ("[0-9a-f]{32}")\r$', lines, re.MULTILINE)
    assert found
    for asked in (found[1], b"W/" + found[1], b'"other", ' + found[1]):
        assert ask(path, tag=asked)[:2] == (304, b"")
    assert ask(path, tag=b'"other"')[0] == 200
    assert ask(path, "HEAD")[:2] == (200, b"")
    with pytest.raises(MethodError):
        ask(path, "POST")


@pytest.mark.parametrize("path", ["/page/", "/page/../files.py", "/page/index.html", "/docs/"])
def test_nothing_else_is_there(path: str) -> None:
    assert Page().find(path.encode()) is None


@TEXTS
def test_names_only_files_that_are_there(name: str) -> None:
    """Nothing is loaded from elsewhere, and nothing that the policy forbids stands in a page."""
    text = (STATIC / name).read_text()
    hosts = set(re.findall(r"https?://([\w.-]+)", text)) - {"www.w3.org"}  # names of XML, no hosts
    assert not hosts
    linked = re.findall(r'(?:src|href)="(page/[^"]+)"|from "\./([^"]+)"|@import "([^"]+)"', text)
    for found in linked:
        assert (STATIC / next(filter(None, found)).removeprefix("page/")).is_file(), found
    if name.endswith(".html"):
        assert not re.search(r"<style|\sstyle=|\son\w+=|<script(?![^>]*\ssrc=)", text)


def test_the_wheel_has_them_all(tmp_path: Path) -> None:
    """And the templates of reports, which have the same colours and letters."""
    build = "import setuptools; setuptools.setup()"
    subprocess.run(
        [sys.executable, "-c", build, "-q", "build_py", "--build-lib", tmp_path / "lib"],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    for folder in ("service/page/static", "report/templates"):
        built = {path.name: path.read_bytes() for path in (tmp_path / "lib" / folder).iterdir()}
        assert built == {path.name: path.read_bytes() for path in (ROOT / folder).iterdir()}
    tokens = (STATIC / "tokens.css").read_bytes()
    assert tokens == (ROOT / "report" / "templates" / "tokens.css").read_bytes()


def test_every_file_of_the_folder_has_a_media_type() -> None:
    assert {path.suffix for path in STATIC.iterdir()} <= set(files._MEDIA_TYPES)
