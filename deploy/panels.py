"""Every panel of the dashboard and the PromQL behind it, read from ``grafana/panels.yaml``.

``dashboard`` makes Grafana's JSON of it. Knows nothing of Grafana but the names of its units.
"""

from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Any, Literal

import yaml  # type: ignore[import-untyped]

PATH = Path(__file__).parent / "grafana" / "panels.yaml"
Kind = Literal["lines", "stacked", "number", "table"]


@dataclass(frozen=True, slots=True)
class Query:
    """One expression of a panel.

    Attributes:
        expression: PromQL with ``$where`` and ``$window``.
        legend: Name of a line, with labels as ``{{label}}``.
    """

    expression: str
    legend: str = ""

    def filled(self, where: str, window: str) -> str:
        """Return the PromQL for these label matchers and this window."""
        return Template(self.expression).substitute(where=where, window=window)


@dataclass(frozen=True, slots=True)
class Panel:
    """One picture.

    Attributes:
        title: What is shown.
        description: How to read it, and what to do.
        unit: Grafana's name of the unit.
        queries: What is drawn.
        kind: How it is drawn.
        width: Columns of the row's 24.
        columns: Of a table: label to heading, in order.
    """

    title: str
    description: str
    unit: str
    queries: tuple[Query, ...]
    kind: Kind = "lines"
    width: int = 8
    columns: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Row:
    """Panels that answer one question."""

    title: str
    panels: tuple[Panel, ...]


def _panel(document: dict[str, Any]) -> Panel:
    queries = tuple(Query(**query) for query in document.pop("queries"))
    columns = tuple(document.pop("columns", {}).items())
    return Panel(**document, queries=queries, columns=columns)


def _rows() -> tuple[Row, ...]:
    rows = yaml.safe_load(PATH.read_text(encoding="utf-8"))
    return tuple(Row(row["row"], tuple(map(_panel, row["panels"]))) for row in rows)


ROWS = _rows()
PANELS = tuple(panel for row in ROWS for panel in row.panels)
