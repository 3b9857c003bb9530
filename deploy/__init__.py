"""Run the service: the stack around it, Kubernetes, and what is watched.

The Python here makes files that are checked in (``dashboard``) and draws them without Grafana
(``page``). It asks a Prometheus, never the service, and imports none of the other rooms.
"""
