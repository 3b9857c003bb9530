"""Grafana's dashboard: what is checked in is what the generator gives, in Grafana's schema."""

import json
import re
from importlib.metadata import version
from typing import Any

import yaml
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import Dashboard, Panel
from prometheus_client import Counter
from prometheus_client.metrics import MetricWrapperBase

import deploy.dashboard
import service.metrics.families
from deploy.panels import PANELS
from tests.server import ROOT

GRAFANA = ROOT / "deploy" / "grafana"
WRITTEN = deploy.dashboard.PATH.read_text()


def panels(document: dict[str, Any]) -> list[dict[str, Any]]:
    return [panel for panel in document["panels"] if panel["type"] != "row"]


def test_the_file_is_what_the_generator_gives() -> None:
    assert deploy.dashboard.dashboard_json() == WRITTEN, "run python -m deploy.dashboard"


def test_grafanas_own_types_read_all_of_it() -> None:
    """What the library does not know would be lost on the way."""
    document = json.loads(WRITTEN)
    read = json.loads(json.dumps(Dashboard.from_json(document), cls=JSONEncoder))
    assert read == document
    assert sum(isinstance(p, Panel) for p in Dashboard.from_json(document).panels or []) == len(
        PANELS
    )


def test_every_panel_and_query_is_there() -> None:
    found = panels(json.loads(WRITTEN))
    assert [panel["title"] for panel in found] == [panel.title for panel in PANELS]
    for panel, meant in zip(found, PANELS, strict=True):
        assert len(panel["targets"]) == len(meant.queries)
        assert len({target["refId"] for target in panel["targets"]}) == len(meant.queries)
        assert panel["description"] == meant.description
        assert all(
            "$where" not in t["expr"] and "$window" not in t["expr"] for t in panel["targets"]
        )


def test_every_metric_of_the_service_is_shown_and_documented() -> None:
    """A metric that nobody sees is counted for nothing."""
    counted = [
        m for m in vars(service.metrics.families).values() if isinstance(m, MetricWrapperBase)
    ]
    assert len(counted) > 20
    shown = {
        name
        for panel in PANELS
        for query in panel.queries
        for name in re.findall(r"foveal_\w+", query.expression)
    }
    page = (ROOT / "docs" / "reference" / "metrics.md").read_text()
    documented = set(re.findall(r"`(foveal_\w+)`", page))
    for metric in counted:
        [family] = metric.describe()
        name = family.name + ("_total" if isinstance(metric, Counter) else "")
        assert name in documented, name
        assert shown & {name, f"{name}_sum", f"{name}_bucket"}, name


def test_every_variable_that_is_used_is_declared() -> None:
    document = json.loads(WRITTEN)
    declared = {variable["name"] for variable in document["templating"]["list"]}
    used = set(re.findall(r"\$\{?(\w+)", json.dumps(document["panels"])))
    assert used - {"__rate_interval"} == declared


def test_ids_are_unique_and_panels_do_not_overlap() -> None:
    document = json.loads(WRITTEN)
    ids = [panel["id"] for panel in document["panels"]]
    assert len(set(ids)) == len(ids)
    taken: set[tuple[int, int]] = set()
    for panel in document["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert place["x"] + place["w"] <= 24 and not cells & taken, panel["title"]
        taken |= cells


def test_grafana_finds_dashboard_and_prometheus() -> None:
    """The provisioning files, the compose file's mounts and the dashboard name the same things."""
    compose = yaml.safe_load((ROOT / "deploy" / "compose.yaml").read_text())["services"]
    mounts = dict(
        mount.split(":")[:2] for mount in compose["grafana"]["volumes"] if mount[0] == "."
    )
    inside = {target: GRAFANA.parent / source for source, target in mounts.items()}
    [provider] = yaml.safe_load((GRAFANA / "provisioning/dashboards/foveal.yaml").read_text())[
        "providers"
    ]
    assert (inside[provider["options"]["path"]] / "foveal.json").samefile(deploy.dashboard.PATH)
    assert inside["/etc/grafana/provisioning"].samefile(GRAFANA / "provisioning")
    [source] = yaml.safe_load((GRAFANA / "provisioning/datasources/prometheus.yaml").read_text())[
        "datasources"
    ]
    assert source["url"] == "http://prometheus:9090" and "prometheus" in compose
    config = yaml.safe_load((ROOT / "deploy/prometheus/prometheus.yml").read_text())
    assert source["jsonData"]["timeInterval"] == config["global"]["scrape_interval"]
    [job] = config["scrape_configs"]
    assert job["static_configs"] == [{"targets": ["foveal:3000"]}] and "foveal" in compose


def test_the_library_is_made_for_the_grafana_that_runs() -> None:
    compose = yaml.safe_load((ROOT / "deploy" / "compose.yaml").read_text())["services"]
    assert compose["grafana"]["image"].endswith(f":{deploy.dashboard.GRAFANA}")
    assert version("grafana-foundation-sdk").endswith(f"!{deploy.dashboard.GRAFANA}")
