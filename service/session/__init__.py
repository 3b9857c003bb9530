"""How a graph runs: a session under a plan, on the CPU or a GPU.

``devices`` selects the device and ``planning`` chooses one of the ``plans`` and opens a ``session``
under it. On a GPU, rows are filled up to ``buckets`` and run in buffers of ``gpu.binding``, which
lie in the device's ``gpu.memory``; all sessions on it share its ``gpu.accelerator``.
"""

import os

# Here, before any module of this package imports onnxruntime: with its telemetry on it starts a
# thread, keeps a database in the user's cache and logs where it cannot. Nothing phones home.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
