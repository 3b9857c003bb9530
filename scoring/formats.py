"""The formats of tables: what a file's name says, and how it is opened.

Knows neither archives nor folders of images; ``sources`` asks here for each file that it finds.
"""

from scoring import arrow, delimited, json_rows, lists
from scoring.arrow import ArrowSource
from scoring.delimited import CsvSource
from scoring.json_rows import JsonlSource, JsonSource
from scoring.lists import ListSource
from scoring.parquet import ParquetSource
from scoring.rows import Source
from scoring.tables import Columns

_PARQUET = (".parquet", ".pq")
_WITH_IMAGES = (*_PARQUET, *arrow.ENDINGS)
_OF_PATHS = (
    *delimited.ENDINGS_OF_TABLES,
    *json_rows.LINES,
    *json_rows.DOCUMENTS,
    *lists.ENDINGS,
)


def is_table(path: str, *, is_named: bool) -> bool:
    """Whether a file is a table or a list.

    Args:
        path: Its path.
        is_named: Whether an argument names it: in a folder, a text is often a list of the images
            beside it.
    """
    return path.lower().endswith((*_WITH_IMAGES, *_OF_PATHS) if is_named else _WITH_IMAGES)


def open_table(path: str, columns: Columns) -> Source:
    """Open a table or a list.

    Args:
        path: A file for which ``is_table`` is true.
        columns: Columns to use.

    Raises:
        ScoreError: Not such a table, or a column is missing.
    """
    lower = path.lower()
    if lower.endswith(lists.ENDINGS):
        return ListSource(path)
    readers = (
        (_PARQUET, ParquetSource),
        (arrow.ENDINGS, ArrowSource),
        (delimited.ENDINGS_OF_TABLES, CsvSource),
        (json_rows.LINES, JsonlSource),
        (json_rows.DOCUMENTS, JsonSource),
    )
    reader = next(reader for endings, reader in readers if lower.endswith(endings))
    return reader(path, columns)
