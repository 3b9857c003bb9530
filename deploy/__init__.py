"""Run the service: the stack around it, Kubernetes, and what is watched.

The Python here writes files that are checked in (``dashboard``, ``rules``) and asks whether a
service is ready. It imports none of the other rooms.
"""
