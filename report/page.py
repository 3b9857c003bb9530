"""A report's page: HTML that needs nothing else, its pictures inside. Knows no measurement.

A report brings a template that extends ``page.html`` and draws its sections with the macros of
``parts.html``, both in ``templates/``. Values are escaped; only the templates write HTML.
"""

import base64
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

_TEMPLATES = Path(__file__).with_name("templates")


@dataclass(frozen=True, slots=True)
class Picture:
    """A section of a page that is a picture.

    Attributes:
        name: File name, without the suffix.
        title: Heading of the section.
        note: How to read the picture.
        png: The picture; None if there is nothing to show.
        says: What it shows, in a sentence with the figures that matter: its alternative text.
    """

    name: str
    title: str
    note: str
    png: bytes | None
    says: str


@dataclass(frozen=True, slots=True)
class Thumbnail:
    """A small picture on a card.

    Attributes:
        text: What it is, for those who do not see it.
        png: None if it cannot be read.
    """

    text: str
    png: bytes | None


@dataclass(frozen=True, slots=True)
class Card:
    """One thing that was found, as ``cards`` of ``parts.html`` draws it.

    Attributes:
        pictures: None, one or two.
        lines: What is said about them.
    """

    pictures: Sequence[Thumbnail]
    lines: Sequence[str]


@dataclass(frozen=True, slots=True)
class Table:
    """A table of a page.

    Attributes:
        names: Headings of the columns.
        rows: Cells, one for each column.
        numbers: Columns that are aligned to the right.
        marked: Rows that are highlighted.
    """

    names: Sequence[str]
    rows: Sequence[Sequence[str]]
    numbers: Collection[int] = ()
    marked: Collection[int] = ()


def render(template: Path, **values: object) -> str:
    """Return the page that a template makes of some values.

    Args:
        template: A file that extends ``page.html``.
        values: What the template names; ``title`` is the page's title.
    """
    environment = Environment(
        loader=FileSystemLoader([template.parent, _TEMPLATES]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["data_url"] = _data_url
    return environment.get_template(template.name).render(values)


def write_pictures(folder: Path, pictures: Sequence[Picture]) -> None:
    """Write each picture as ``<name>.png`` into a folder."""
    for each in pictures:
        if each.png is not None:
            (folder / f"{each.name}.png").write_bytes(each.png)


def _data_url(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"
