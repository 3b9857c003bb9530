"""Make Grafana's dashboard of ``panels``: ``python -m deploy.dashboard`` writes its JSON.

The JSON is checked in; a test makes it again and compares. Grafana's schema is the business of
grafana-foundation-sdk, Grafana's own library, of the version that compose.yaml runs.
"""

import itertools
import json
from pathlib import Path

from grafana_foundation_sdk.builders import common, dashboard, prometheus, stat, table, timeseries
from grafana_foundation_sdk.cog import builder
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import common as shapes
from grafana_foundation_sdk.models import dashboard as models
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

from deploy.panels import ROWS, Panel, Query

GRAFANA = "11.6.0"  # compose.yaml's; the library's version is made for it
PATH = Path(__file__).parent / "grafana" / "dashboards" / "foveal.json"
WHERE = 'model=~"$model", instance=~"$instance"'
# At least four scrapes, as Grafana reckons it from the data source's interval.
WINDOW = "$__rate_interval"
_HEIGHT = 8
_SOURCE = models.DataSourceRef(type_val="prometheus", uid="${datasource}")


def dashboard_json() -> str:
    """Return the dashboard as Grafana reads it."""
    made = (
        dashboard.Dashboard("Foveal")
        .uid("foveal")
        .description("Requests, errors, latency by stage, batches, versions and drift.")
        .tags(["foveal"])
        .timezone("browser")
        .time("now-1h", "now")
        .refresh("30s")
        .tooltip(models.DashboardCursorSync.CROSSHAIR)
        .readonly()
        .with_variable(dashboard.DatasourceVariable("datasource").type("prometheus"))
        .with_variable(_choice("model", "foveal_model_info"))
        .with_variable(_choice("instance", "foveal_model_info"))
    )
    numbers = itertools.count(1)
    for row in ROWS:
        made.with_row(dashboard.Row(row.title).id(next(numbers)))
        for panel in row.panels:
            made.with_panel(_MAKERS[panel.kind](panel, next(numbers)))
    return json.dumps(made.build(), cls=JSONEncoder, indent=2, sort_keys=True) + "\n"


def _choice(label: str, metric: str) -> dashboard.QueryVariable:
    """Return a variable with the values of a label; all of them at first, and none counts as all.

    Requests that found no model have an empty label: "all" must match it.
    """
    return (
        dashboard.QueryVariable(label)
        .label(label)
        .datasource(_SOURCE)
        .query(f"label_values({metric}, {label})")
        .refresh(models.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(models.VariableSort.ALPHABETICAL_ASC)
        .multi(True)
        .include_all(True)
        .all_value(".*")
        .current(models.VariableOption(selected=True, text=["All"], value=["$__all"]))
    )


def _target(query: Query, letter: str) -> prometheus.Dataquery:
    return (
        prometheus.Dataquery()
        .ref_id(letter)
        .datasource(_SOURCE)
        .expr(query.filled(WHERE, WINDOW))
        .legend_format(query.legend)
    )


def _lines(panel: Panel, number: int) -> builder.Builder[models.Panel]:
    legend = (
        common.VizLegendOptions()
        .show_legend(True)
        .display_mode(shapes.LegendDisplayMode.LIST)
        .placement(shapes.LegendPlacement.BOTTOM)
    )
    tooltip = common.VizTooltipOptions().mode(shapes.TooltipDisplayMode.MULTI)
    made = (
        timeseries.Panel()
        .id(number)
        .title(panel.title)
        .description(panel.description)
        .datasource(_SOURCE)
        .unit(panel.unit)
        .min(0)
        .height(_HEIGHT)
        .span(panel.width)
        .legend(legend)
        .tooltip(tooltip)
        .line_width(1)
        .show_points(shapes.VisibilityMode.AUTO)
    )
    if panel.kind == "stacked":
        made.stacking(common.StackingConfig().mode(shapes.StackingMode.NORMAL)).fill_opacity(25)
    for letter, query in zip("ABCDEFGH", panel.queries, strict=False):
        made.with_target(_target(query, letter))
    return made


def _number(panel: Panel, number: int) -> builder.Builder[models.Panel]:
    made = (
        stat.Panel()
        .id(number)
        .title(panel.title)
        .description(panel.description)
        .datasource(_SOURCE)
        .unit(panel.unit)
        .height(_HEIGHT)
        .span(panel.width)
        .graph_mode(shapes.BigValueGraphMode.AREA)
        .color_mode(shapes.BigValueColorMode.NONE)
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
    )
    for letter, query in zip("ABCDEFGH", panel.queries, strict=False):
        made.with_target(_target(query, letter))
    return made


def _table(panel: Panel, number: int) -> builder.Builder[models.Panel]:
    labels = [label for label, _ in panel.columns]
    organize = models.DataTransformerConfig(
        id_val="organize",
        options={
            "excludeByName": {"Time": True},
            "indexByName": {label: i for i, label in enumerate(labels)},
            "renameByName": dict(panel.columns),
        },
    )
    made = (
        table.Panel()
        .id(number)
        .title(panel.title)
        .description(panel.description)
        .datasource(_SOURCE)
        .unit(panel.unit)
        .height(_HEIGHT)
        .span(panel.width)
        .with_transformation(organize)
    )
    for letter, query in zip("ABCDEFGH", panel.queries, strict=False):
        made.with_target(_target(query, letter).instant().format(PromQueryFormat.TABLE))
    return made


_MAKERS = {"lines": _lines, "stacked": _lines, "number": _number, "table": _table}


if __name__ == "__main__":
    PATH.write_text(dashboard_json())
