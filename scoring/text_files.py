"""Text files as people have them: Unicode or Windows-1252, packed by gzip or not, no long lines.

Knows nothing about what the lines say.
"""

import codecs
import gzip
import io
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import BinaryIO, cast

from scoring.files import open_binary

# What reading a text raises on damage: EOFError, BadGzipFile and zlib.error of gzip.
DAMAGED = (EOFError, UnicodeError, gzip.BadGzipFile, zlib.error)
_BOMS = ((b"\xef\xbb\xbf", "utf-8-sig"), (b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16"))


WINDOWS = "cp1252"
_BLOCK_BYTES = 1 << 16
# So much of a text is searched for bytes that tell its encoding.
_SEARCHED_BYTES = 256 << 20


class LongLineError(Exception):
    """A line, or a row of several, is longer than what is held in memory."""


@contextmanager
def open_text(path: str, errors: str = "strict", encoding: str = "") -> Iterator[io.TextIOWrapper]:
    """Open a text: UTF-8, or what its first bytes say; unpacked if its name ends in ``.gz``.

    Args:
        path: A local path or a URL.
        errors: What becomes of bytes that are no text; ``surrogateescape`` keeps them.
        encoding: Its encoding, if it is known.

    Raises:
        ScoreError: It cannot be opened.
    """
    with _open_unpacked(path) as buffered:
        encoding = encoding or _encoding(buffered.peek(4))
        with io.TextIOWrapper(buffered, encoding, errors=errors, newline="") as text:
            yield text


def encoding_of(path: str) -> str:
    """Return the encoding of a text, ``WINDOWS`` if it has no mark and is not UTF-8.

    The first bytes that are not ASCII decide: what is not UTF-8 after some that is, is damage.
    Other damage is left for those who read the text.

    Args:
        path: A local path or a URL.

    Raises:
        ScoreError: It cannot be opened.
    """
    with _open_unpacked(path) as buffered, suppress(EOFError, zlib.error):
        if (encoding := _encoding(buffered.peek(4))) != "utf-8":
            return encoding
        for _ in range(_SEARCHED_BYTES // _BLOCK_BYTES):
            block = buffered.read(_BLOCK_BYTES)
            if block.isascii() and block:
                continue
            try:
                codecs.utf_8_decode(block, "strict", len(block) < _BLOCK_BYTES)
            except UnicodeDecodeError:
                return WINDOWS
            break
    return "utf-8"


@contextmanager
def _open_unpacked(path: str) -> Iterator[io.BufferedReader]:
    with open_binary(path) as stored:
        file = stored
        if path.lower().endswith(".gz"):
            file = cast(BinaryIO, gzip.GzipFile(fileobj=stored))
        yield io.BufferedReader(cast(io.RawIOBase, file))


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
