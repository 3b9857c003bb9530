"""Make the Prometheus operator's rules of the alerts: ``python -m deploy.rules`` writes them.

Kustomize reads no file from outside its folder, so the alerts stand twice; a test compares.
"""

from pathlib import Path

import yaml

HERE = Path(__file__).parent
ALERTS = HERE / "prometheus" / "alerts.yaml"
PATH = HERE / "kubernetes" / "components" / "monitoring" / "rules.yaml"


class _Readable(yaml.SafeDumper):
    """Writes texts of several lines as blocks."""


def _block(dumper: _Readable, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar(
        "tag:yaml.org,2002:str", text, style="|" if "\n" in text else None
    )


_Readable.add_representer(str, _block)


def rules_yaml() -> str:
    """Return the alerts as a resource of the Prometheus operator."""
    rule = {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {"name": "foveal", "labels": {"app.kubernetes.io/name": "foveal"}},
        "spec": yaml.safe_load(ALERTS.read_text()),
    }
    text = yaml.dump(rule, Dumper=_Readable, sort_keys=False, width=1000)
    return "# Made of ../../../prometheus/alerts.yaml by python -m deploy.rules.\n" + text


if __name__ == "__main__":
    PATH.write_text(rules_yaml())
