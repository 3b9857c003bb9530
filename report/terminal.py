"""Foreign text for a terminal: characters that control it, or reorder what it shows, as escapes.

Names of files, labels, error messages and answers of a server may hold any character. In JSON, CSV
and other files they stay as they are.
"""

import json
import re
import unicodedata

# Categories of characters that a terminal acts on instead of showing them: control characters (C0,
# DEL, C1), invisible ones that reorder text or join it, halves of UTF-16 pairs, ends of lines.
_HIDDEN = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
# Invisible, but part of how several scripts and emoji are written.
_JOINERS = frozenset("\u200c\u200d")


def printable(text: str) -> str:
    r"""Return a text as one line: ``\x1b``, ``\n`` or ``\u202e`` for what would not be shown."""
    if text.isprintable():
        return text
    return "".join(
        char.encode("unicode_escape").decode() if _is_hidden(char) else char for char in text
    )


def printable_json(text: str) -> str:
    """Return a JSON text with what would not be shown as JSON's own escapes: the same document."""
    return re.sub(
        r"[^\n -~]",
        lambda found: json.dumps(found[0])[1:-1] if _is_hidden(found[0]) else found[0],
        text,
    )


def _is_hidden(char: str) -> bool:
    return unicodedata.category(char) in _HIDDEN and char not in _JOINERS
