"""What commands print: foreign text controls no terminal, and libraries print nothing."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest

from commands.console import print_line, show, without_library_output
from models.image import encode_png
from tests.server import ROOT
from tests.shell import Shell
from tests.tiny import random_images


@contextmanager
def _serving(status: int, body: str) -> Iterator[str]:
    """A server of one answer."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(status)
            self.send_header("Content-Length", str(len(body.encode())))
            self.send_header("Content-Type", "text/\x1b[2J")
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


EVIL = "\x1b]0;owned\x07\r\u202e[/]\n"


def test_only_one_module_prints() -> None:
    for path in (ROOT / "foveal.py", *(ROOT / "commands").glob("*.py")):
        if path.name != "console.py":
            assert not re.search(
                r"\bprint\(|\becho\(|stdout\.write|stderr\.write", path.read_text()
            )


def test_lines_tables_and_documents_are_printable(capsys: pytest.CaptureFixture[str]) -> None:
    print_line(EVIL)
    print_line(EVIL, is_error=True)
    show(None, False, [("name", "error"), (EVIL, "x"), ("short", EVIL)])
    show({EVIL: [EVIL]}, True, [])
    captured = capsys.readouterr()
    assert (captured.out + captured.err).replace("\n", "").isprintable()
    *lines, _, _, _, _, _ = captured.out.splitlines()
    assert len(lines) == 4
    assert lines[2].index("x", len(r"\x1b]0;owned\x07\r\u202e[/]\n")) == lines[1].index("error")
    assert json.loads(captured.out[captured.out.index("{") :]) == {EVIL: [EVIL]}


def test_names_of_files_never_reach_the_terminal(shell: Shell, tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    (folder / f"a{EVIL.replace('/', '')}.png").write_bytes(encode_png(random_images(1)[0]))
    (folder / f"b{EVIL.replace('/', '')}.png").write_bytes(b"no image")
    names = sorted(map(str, folder.iterdir()))
    for words in (
        ("predict", *names),
        ("predict", *names, "--json"),
        ("score", folder, "--model", "tiny", "--out", tmp_path / "a.csv"),
        ("score", folder, "--model", "tiny", "--out", tmp_path / "a.csv", "--max-errors", 0),
        ("score", folder, "--model", f"tiny{EVIL}", "--out", tmp_path / "a.csv"),
        ("score", f"nowhere{EVIL}", "--model", "tiny", "--out", tmp_path / "a.csv"),
        ("models", "show", EVIL),
        ("predict", *names, "--url", f"http://{EVIL}"),
    ):
        said = shell(*words)
        for text in (said.out, said.error):
            assert text.replace("\n", "").isprintable(), (words, text)
        assert said.code != 0
    said = shell("predict", *names, "--json")
    assert [result["image"] for result in said.document["results"]] == names, "data stays exact"


def test_a_server_never_writes_to_the_terminal(shell: Shell, tmp_path: Path) -> None:
    """Labels, errors and names in the answers of what `--url` names."""
    answer = json.dumps(
        {
            "model": EVIL,
            "version": 1,
            "results": [{"predictions": [{"label": EVIL, "index": 0, "probability": 0.5}]}],
        }
    )
    image = tmp_path / "a.png"
    image.write_bytes(encode_png(random_images(1)[0]))
    for status, body in (
        (200, answer),
        (400, json.dumps({"error": EVIL})),
        (503, "{"),
        (500, EVIL),
    ):
        with _serving(status, body) as url:
            said = shell("predict", image, "--url", url)
        assert (said.out + said.error).replace("\n", "").isprintable(), said
        assert said.code == (0 if status == 200 else 3 if status == 400 else 1)


def test_libraries_print_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    with without_library_output():
        os.write(2, b"from C")
        print("from Python", file=sys.stderr)
    os.write(2, b"after\n")
    assert capfd.readouterr().err == "from Python\nafter\n"


def test_libraries_print_nothing_in_a_process_of_its_own() -> None:
    script = """
import os, sys
from commands.console import without_library_output
with without_library_output():
    os.write(2, b"from C")
    print("from Python", file=sys.stderr)
    assert sys.stderr.fileno() != 2
print("after", file=sys.stderr)
os.write(2, b"at the end")
"""
    ended = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert ended.stderr == "from Python\nafter\nat the end"
