"""Foreign text: nothing in it controls a terminal, and JSON stays the same document."""

import io
import json
import sys
import unicodedata

import pytest
from rich.console import Console

from report.progress import ProgressBar
from report.terminal import printable, printable_json


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b]0;owned\x07\x1b[2J", r"\x1b]0;owned\x07\x1b[2J"),
        ("a\rb\nc\td\0", r"a\rb\nc\td\x00"),
        ("\x9b31m\x7f", r"\x9b31m\x7f"),
        ("gnp\u202e.exe\u2066\u200f", r"gnp\u202e.exe\u2066\u200f"),
        ("line\u2028line\u2029", r"line\u2028line\u2029"),
        ("gr\udcfcn", r"gr\udcfcn"),
        ("tag\U000e0041", r"tag\U000e0041"),
    ],
)
def test_what_controls_a_terminal_is_escaped(text: str, shown: str) -> None:
    assert printable(text) == shown
    document = printable_json(json.dumps([text], ensure_ascii=False, indent=2))
    assert json.loads(document) == [text]
    assert document.replace("\n", "").isprintable()


@pytest.mark.parametrize(
    "text", ["grün", "鞋", "क्‍ष", "می‌خواهم", "👩‍👩‍👧", "a\u00a0b", "e\u0301", r"\x1b"]
)
def test_what_is_shown_stays(text: str) -> None:
    assert printable(text) == text
    assert printable_json(json.dumps(text, ensure_ascii=False)) == json.dumps(
        text, ensure_ascii=False
    )


def test_no_character_of_unicode_is_forgotten() -> None:
    for code in range(sys.maxunicode + 1):
        char = chr(code)
        if unicodedata.category(char) in ("Cc", "Cf", "Cs", "Zl", "Zp") and code not in (
            0x200C,
            0x200D,
        ):
            shown = printable(char)
            assert shown != char and shown.isascii(), hex(code)


def test_a_bar_shows_foreign_text_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """As markup, ``[/]`` is an exception; an escape would control the terminal."""
    written = io.StringIO()
    monkeypatch.setattr(
        "report.progress.Console",
        lambda **_: Console(file=written, force_terminal=True, width=120, color_system=None),
    )
    with ProgressBar("[/]\x1b[2J", is_timed=True) as bar:
        bar.show(1, 2, "[bold]\x07")
        bar.show_step("[/red]", 1, 3)
    assert r"[/]\x1b[2J" in written.getvalue()
    assert "at most 2 s left [/red]" in written.getvalue()
    assert "\x07" not in written.getvalue()
