"""CSV that a spreadsheet opens: no text is run as a formula, whatever is in a cell stays in it."""

import csv
import re
from typing import IO, Any

# What spreadsheets take for the begin of a formula, by OWASP's page on CSV injection.
BEGINS = frozenset("'=+-@\t\r\n\uff1d\uff0b\uff0d\uff20")
_FORMULA = re.compile("'*[=+\\-@\t\r\n\uff1d\uff0b\uff0d\uff20]")
_NUMBER = re.compile(r"[+-]?[0-9]+(\.[0-9]*)?([eE][+-]?[0-9]+)?")


def inert(text: str) -> str:
    """Return a text that no spreadsheet runs.

    One that begins with a character of formulas, after any quotes, gets a quote before it; so one
    quote less gives back every text. Numbers stay as they are.
    """
    if text[:1] in BEGINS and _FORMULA.match(text) and not _NUMBER.fullmatch(text):
        return f"'{text}"
    return text


def csv_writer(file: IO[str]) -> Any:
    """Return a csv.writer of RFC 4180, but with LF instead of CRLF.

    Args:
        file: A text file that leaves line ends as they are.
    """
    return csv.writer(_LineFeeds(file), lineterminator="\r\n")


class _LineFeeds:
    """Writes the rows of a csv.writer with LF at their ends.

    The writer itself must end them with CRLF: only what is in its line end is quoted in a cell.

    Args:
        file: A text file.
    """

    def __init__(self, file: IO[str]) -> None:
        self._write = file.write

    def write(self, row: str) -> int:
        return self._write(f"{row[:-2]}\n")
