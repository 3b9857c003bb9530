"""Make the Prometheus operator's rules of the alerts: ``python -m deploy.rules`` writes them.

Kustomize reads no file from outside its folder, so the alerts stand twice; a test compares.
"""

import textwrap
from pathlib import Path

HERE = Path(__file__).parent
ALERTS = HERE / "prometheus" / "alerts.yaml"
PATH = HERE / "kubernetes" / "components" / "monitoring" / "rules.yaml"
_HEAD = """\
# Made of ../../../prometheus/alerts.yaml by python -m deploy.rules.
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: foveal
  labels:
    app.kubernetes.io/name: foveal
spec:
"""


def rules_yaml() -> str:
    """Return the alerts as a resource of the Prometheus operator, their text as it is."""
    return _HEAD + textwrap.indent(ALERTS.read_text(), "  ")


if __name__ == "__main__":
    PATH.write_text(rules_yaml())
