"""Text files as people have them: any Unicode encoding, packed by gzip or not, long lines refused.

Knows nothing about what the lines say.
"""

import gzip
import io
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO, cast

from scoring.files import open_binary

# What reading a text raises on damage: EOFError, BadGzipFile and zlib.error of gzip.
DAMAGED = (EOFError, UnicodeError, gzip.BadGzipFile, zlib.error)
_BOMS = ((b"\xef\xbb\xbf", "utf-8-sig"), (b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16"))


class LongLineError(Exception):
    """A line, or a row of several, is longer than what is held in memory."""


@contextmanager
def open_text(path: str, errors: str = "strict") -> Iterator[io.TextIOWrapper]:
    """Open a text: UTF-8, or what its first bytes say; unpacked if its name ends in ``.gz``.

    Args:
        path: A local path or a URL.
        errors: What becomes of bytes that are no text; ``surrogateescape`` keeps them.

    Raises:
        ScoreError: It cannot be opened.
    """
    with open_binary(path) as stored:
        file = stored
        if path.lower().endswith(".gz"):
            file = cast(BinaryIO, gzip.GzipFile(fileobj=stored))
        buffered = io.BufferedReader(cast(io.RawIOBase, file))
        encoding = _encoding(buffered.peek(4))
        with io.TextIOWrapper(buffered, encoding, errors=errors, newline="") as text:
            yield text


def kind_of(path: str) -> str:
    """Return the ending of a text's name in lower case, without ``.gz``: ``.csv``."""
    name = path.rpartition("/")[2].lower().removesuffix(".gz")
    return f".{name.rpartition('.')[2]}" if "." in name else ""


def read_lines(text: io.TextIOWrapper, most: int) -> Iterator[str]:
    """Yield the lines of a text with their ends.

    Args:
        text: An open text.
        most: Most characters of a line.

    Raises:
        LongLineError: A line has more.
    """
    while line := text.readline(most + 1):
        if len(line) > most:
            raise LongLineError(f"a row of more than {most} characters")
        yield line


def _encoding(begin: bytes) -> str:
    for mark, encoding in _BOMS:
        if begin.startswith(mark):
            return encoding
    # UTF-16 without a mark: the first character of a table is ASCII.
    if len(begin) > 1 and 0 in begin[:2] and begin[:2] != b"\0\0":
        return "utf-16-be" if begin[0] == 0 else "utf-16-le"
    return "utf-8"
