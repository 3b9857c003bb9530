"""Every expression of the dashboard and of the alerts answers with what a real service counted."""

import math

import pytest
import yaml

from deploy.panels import PANELS, ROWS, Panel, Query
from tests.deploy.manifests import KUBERNETES
from tests.deploy.watched import RULES, WINDOW_S, Watched

pytestmark = pytest.mark.e2e

WINDOW = f"{WINDOW_S:.0f}s"
WHERE = 'job="foveal", model=~".*", instance=~".*"'


# Empty without a GPU that decodes; their queries are answered all the same.
OF_A_CARD = ("JPEGs decoded by the card", "Kinds of JPEG for the card")


@pytest.mark.parametrize(
    ("panel", "query"),
    [
        pytest.param(panel, query, id=f"{row.title}-{panel.title}-{i}")
        for row in ROWS
        for panel in row.panels
        for i, query in enumerate(panel.queries)
    ],
)
def test_query_answers(watched: Watched, panel: Panel, query: Query) -> None:
    series = watched.during_load(query.filled(WHERE, WINDOW))
    assert bool(series) == (panel.title not in OF_A_CARD), query.filled(WHERE, WINDOW)
    for labels, values in series:
        assert any(math.isfinite(value) for value in values), (labels, values)
        if panel.unit == "percentunit" and panel.title != "Runner busy":
            assert all(-1e-9 <= value <= 1 + 1e-9 for value in values if math.isfinite(value)), (
                labels
            )


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_what_an_alert_compares_answers(watched: Watched, rule: dict[str, str]) -> None:
    compared, _, threshold = rule["expr"].rstrip().rpartition("\n")
    assert threshold.split()[0] in (">", "<", "=="), threshold
    series = watched.during_load(compared)
    assert series, compared
    assert all(any(math.isfinite(value) for value in values) for _, values in series)


def test_every_rule_is_evaluated(watched: Watched) -> None:
    [group] = watched.ask("rules")["groups"]
    assert {rule["name"] for rule in group["rules"]} == {rule["alert"] for rule in RULES}
    for rule in group["rules"]:
        assert rule["health"] == "ok", rule
    states = {rule["name"]: rule["state"] for rule in group["rules"]}
    assert states["FovealVersionRefused"] == "pending"  # version 3 is no model
    assert states["FovealGone"] == states["FovealDown"] == "inactive"


def value(watched: Watched, title: str, index: int = 0, **labels: str) -> float:
    """Return a panel's largest value of those series whose labels include these."""
    [panel] = [panel for panel in PANELS if panel.title == title]
    series = watched.during_load(panel.queries[index].filled(WHERE, WINDOW))
    return max(v for got, values in series if labels.items() <= got.items() for v in values)


def test_what_the_autoscaler_goes_by_answers(watched: Watched) -> None:
    """The adapter's own query, with the label of a pod that is none here."""
    [rule] = yaml.safe_load((KUBERNETES / "prometheus-adapter.yaml").read_text())["rules"]["custom"]
    name = rule["seriesQuery"].partition("{")[0]
    query = rule["metricsQuery"].replace("<<.Series>>", name).replace("[1m]", f"[{WINDOW}]")
    query = query.replace("<<.GroupBy>>", "instance").replace("<<.LabelMatchers>>", 'job="foveal"')
    [(labels, values)] = watched.during_load(query)
    assert set(labels) == {"instance"}
    assert max(values) > 0.01  # seconds waited a second; four floods wait for one runner


def test_panels_tell_what_was_sent(watched: Watched) -> None:
    """Figures that are known: who was asked, how often, what was refused, what is loaded."""
    assert value(watched, "Instances up") == 1
    assert value(watched, "Refused") == 1
    assert value(watched, "Loaded", version="2") == 1
    assert value(watched, "Share refused for a full queue", model="slow") > 0
    assert value(watched, "Share refused for a full queue", model="tiny") == 0
    assert value(watched, "Refusals by reason", model="slow", reason="wait") > 0
    assert value(watched, "Refusals by reason", model="tiny", reason="wait") == 0
    assert value(watched, "Brownout", model="dim") > 0.5
    assert value(watched, "Share of answers that are our fault", model="slow") > 0
    assert value(watched, "Share of answers that are our fault", model="tiny") == 0
    assert 0.5 < value(watched, "Share by version", model="tiny", version="1") < 1
    assert 0 < value(watched, "Share by version", model="tiny", version="2") < 0.5
    assert value(watched, "Share by version", model="slow") == 1
    assert value(watched, "Padding", model="tiny") > 0  # buckets of 1, 16 and 64 are set
    assert value(watched, "Placement", buckets="1,16,64", device="cpu") == 1
    assert value(watched, "Fell to the CPU") == value(watched, "Memory of the GPU") == 0
    assert value(watched, "Mean pixel", 1) == 90
    assert 110 < value(watched, "Mean pixel", model="tiny", version="1") < 145
    assert value(watched, "Rows a run", model="slow") > 8
    assert value(watched, "Share of the candidate", model="rising", version="2") == 0.2
    assert value(watched, "Evidence by limit", model="rising", limit="flips") <= 0
    assert value(watched, "Steps", model="rising", outcome="grown") == 0
    assert value(watched, "Shadow: rows by outcome", outcome="differed", version="2") > 0
    assert 0 < value(watched, "Right answers", model="tiny", version="1") < 0.5
    assert value(watched, "Right answers", 3, model="tiny", version="1") == 0.99
    assert value(watched, "Right answers by label", label="upper") <= 0.5
    assert value(watched, "Truths that were refused", reason="unknown") > 0
    for status in ("400", "404", "429", "504"):
        assert value(watched, "Answers other than 200", status=status) > 0
