"""A report's page: HTML that needs nothing else, its pictures inside. Knows no measurement."""

import base64
import html
import math
from collections.abc import Collection, Iterable, Sequence
from typing import Any

_STYLE = """
body { max-width: 56rem; margin: 2rem auto; padding: 0 1rem; color: #1b1b1b; background: #fff;
       font: 16px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.6rem; margin-bottom: 0; } h2 { font-size: 1.2rem; margin-top: 2.5rem; }
p.note { color: #555; margin: .2rem 0 .8rem; } img { max-width: 100%; height: auto; }
p.verdict { font-size: 1.2rem; font-weight: 600; }
p.warning { background: #fdf0e6; border-left: 4px solid #D55E00; padding: .5rem .8rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .2rem .9rem .2rem 0; text-align: left; border-bottom: 1px solid #e3e3e3; }
th.number, td.number { text-align: right; } th { font-weight: 600; }
tr.marked td { background: #fdf0e6; }
pre { background: #f4f4f4; padding: .8rem; white-space: pre-wrap; overflow-wrap: anywhere; }
dl.summary { display: flex; flex-wrap: wrap; gap: 1.5rem; margin: 1.2rem 0; }
dl.summary div { min-width: 8rem; } dt { color: #555; font-size: .85rem; }
dd { margin: 0; font-size: 1.3rem; font-weight: 600; }
"""


def page(title: str, parts: Iterable[str]) -> str:
    """Return a whole page of parts that are HTML."""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width">'
        f"<title>{html.escape(title)}</title><style>{_STYLE}</style></head>\n<body>\n"
        + "\n".join(parts)
        + "\n</body></html>\n"
    )


def heading(title: str, text: str = "") -> str:
    """Return a section's heading, and a line below it that says what to look for."""
    return f"<h2>{html.escape(title)}</h2>{paragraph(text, 'note') if text else ''}"


def paragraph(text: str, kind: str) -> str:
    """Return a paragraph: a ``note``, a ``warning`` or the ``verdict``."""
    return f'<p class="{kind}">{html.escape(text)}</p>'


def image(title: str, png: bytes) -> str:
    """Return a picture that is part of the page."""
    data = base64.b64encode(png).decode()
    return f'<img alt="{html.escape(title)}" src="data:image/png;base64,{data}">'


def table(
    names: Sequence[str],
    rows: Iterable[Sequence[str]],
    numbers: Collection[int] = (),
    marked: Collection[int] = (),
) -> str:
    """Return a table.

    Args:
        names: Of the columns.
        rows: Cells, as many a row as there are columns.
        numbers: Columns that are set to the right.
        marked: Rows that stand out.
    """

    def line(cell: str, values: Sequence[str], kind: str = "") -> str:
        cells = (
            f"<{cell}{' class=number' if index in numbers else ''}>{html.escape(value)}</{cell}>"
            for index, value in enumerate(values)
        )
        return f"<tr{kind}>{''.join(cells)}</tr>"

    lines = (line("td", row, " class=marked" if i in marked else "") for i, row in enumerate(rows))
    return f"<table>{line('th', names)}{''.join(lines)}</table>"


def without_nan(value: Any) -> Any:
    """Return a document without what JSON has no word for: NaN and infinities become None."""
    if isinstance(value, dict):
        return {str(key): without_nan(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(each) for each in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
