"""How a graph runs: a session under a plan, on the CPU or a GPU."""

import os

# Here, before any module of this package imports onnxruntime: with its telemetry on it starts a
# thread, keeps a database in the user's cache and logs where it cannot. Nothing phones home.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
