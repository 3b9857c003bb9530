"""Run the service: the stack around it, Kubernetes, and what is watched.

The Python here makes files that are checked in (``dashboard``, ``rules``), asks whether a service
is ready, and measures what it costs before it has done anything (``footprint``).
"""
