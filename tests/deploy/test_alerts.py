"""The alert rules: understood by Prometheus, each seen to fire and to be silent, each explained."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deploy.programs import program, run
from tests.deploy.watched import PROMETHEUS, RULES
from tests.server import ROOT

README = (ROOT / "deploy" / "README.md").read_text()
CASES = [
    case
    for test in yaml.safe_load((PROMETHEUS / "alerts_test.yaml").read_text())["tests"]
    for case in test["alert_rule_test"]
]
EVERY = pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])


def test_prometheus_understands_rules_and_configuration() -> None:
    assert f"{len(RULES)} rules found" in run(
        "promtool", "check", "rules", "alerts.yaml", cwd=PROMETHEUS
    )
    run("promtool", "check", "config", "prometheus.yml", cwd=PROMETHEUS)


def test_rules_fire_and_are_silent_as_their_cases_say() -> None:
    assert "SUCCESS" in run("promtool", "test", "rules", "alerts_test.yaml", cwd=PROMETHEUS)


def test_a_case_that_is_wrong_fails(tmp_path: Path) -> None:
    """The cases could be silent because promtool looked at nothing."""
    (tmp_path / "alerts.yaml").write_text(
        (PROMETHEUS / "alerts.yaml").read_text().replace("> 0.01", "> 0.5")
    )
    (tmp_path / "alerts_test.yaml").write_text((PROMETHEUS / "alerts_test.yaml").read_text())
    program("promtool")
    with pytest.raises(AssertionError, match="FovealRefuses"):
        run("promtool", "test", "rules", "alerts_test.yaml", cwd=tmp_path)


@EVERY
def test_each_alert_is_seen_to_fire_and_to_be_silent(rule: dict[str, Any]) -> None:
    cases = [case["exp_alerts"] for case in CASES if case["alertname"] == rule["alert"]]
    assert any(cases), "no case in which it fires"
    assert not all(cases), "no case in which it is silent"


@EVERY
def test_each_alert_has_its_paragraph(rule: dict[str, Any]) -> None:
    """What to do is in deploy/README.md, under a heading that its annotation links to."""
    name = rule["alert"]
    assert rule["annotations"]["runbook"] == f"deploy/README.md#{name.lower()}"
    assert re.search(rf"^#+ {name}$", README, re.MULTILINE), name
    assert rule["labels"]["severity"] in ("page", "ticket") and rule["for"]


def test_no_paragraph_is_left_of_an_alert_that_is_gone() -> None:
    headings = re.findall(r"^#+ (Foveal[A-Z]\w+)$", README, re.MULTILINE)
    assert headings == [rule["alert"] for rule in RULES]
