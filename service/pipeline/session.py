"""Run a model: one onnxruntime session under a plan, outputs counted and typed.

Knows ONNX bytes, arrays and threads; nothing about requests, queues or files. ``run`` keeps no
state of its own and onnxruntime's is thread-safe: the batcher runs one batch at a time, the batch
scorer one a core.

Layout legend: N rows, H height, W width, C channels, K classes.
"""

import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

# Before onnxruntime is imported: with its telemetry on it starts a thread, keeps a database in the
# user's cache and speaks up where it can't. Nothing phones home.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from models.artifact import Precision
from service.errors import InferenceError

onnxruntime.disable_telemetry_events()  # builds that do not know the variable

_SILENT = 3  # onnxruntime's severity: errors only; what matters is raised anyway


class Outputs(NamedTuple):
    """What one run gives: logits_NK and probabilities_NK, both float32 [N, K]."""

    logits: NDArray[np.float32]
    probabilities: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Plan:
    """How a session runs.

    Attributes:
        device: ``cpu``.
        precision: Which file of the artifact it runs.
        threads: onnxruntime's intra-op threads, at least 1.
    """

    device: str = "cpu"
    precision: Precision = "fp32"
    threads: int = 1


class Session:
    """One loaded model.

    Args:
        content: The ONNX file's bytes, already verified against the contract.
        plan: How to run it.

    Raises:
        InferenceError: onnxruntime refuses the model, or gives another provider than the plan's.
    """

    def __init__(self, content: bytes, plan: Plan) -> None:
        self.plan = plan
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = plan.threads
        options.inter_op_num_threads = 1
        options.log_severity_level = _SILENT
        # Spinning workers would burn the cores that decode and parse between runs.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        providers = ["CPUExecutionProvider"]
        try:
            self._session = onnxruntime.InferenceSession(content, options, providers=providers)
        except Exception as error:  # onnxruntime raises many classes without a common base
            raise InferenceError(f"onnxruntime refused the model: {_first_line(error)}") from error
        if self._session.get_providers()[0] != providers[0]:
            raise InferenceError(
                f"expected provider {providers[0]}, got {self._session.get_providers()}"
            )
        self._outputs = ["logits", "probabilities"]

    def run(self, images_NHWC: NDArray[np.uint8]) -> Outputs:
        """Classify one batch in a single onnxruntime call, on the calling thread.

        Args:
            images_NHWC: uint8 [N, H, W, C], 0-255, N >= 1, contiguous. Not modified.

        Raises:
            InferenceError: onnxruntime failed, or gave another number of rows than it got.
        """
        try:
            logits, probabilities = self._session.run(self._outputs, {"images": images_NHWC})
        except Exception as error:
            raise InferenceError(
                f"run of batch {images_NHWC.shape} failed: {_first_line(error)}"
            ) from error
        if len(logits) != len(images_NHWC) or len(probabilities) != len(images_NHWC):
            raise InferenceError(
                f"expected {len(images_NHWC)} rows out, got {len(logits)}, {len(probabilities)}"
            )
        return Outputs(logits, probabilities)


def available_cpus() -> int:
    """Return how many cores this process may use: affinity and cgroup quota, at least 1.

    Sources: sched_getaffinity(2); cgroup v2 ``cpu.max`` and v1 ``cpu.cfs_quota_us`` of the Linux
    kernel's documentation, as seen from inside a container's own cgroup namespace.
    """
    cores = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    quota = _cgroup_quota(Path("/sys/fs/cgroup"))
    return max(1, cores if quota is None else min(cores, math.ceil(quota)))


def _cgroup_quota(root: Path) -> float | None:
    """Return the CPU quota in cores, None where none is set or none can be read."""
    try:
        if (root / "cpu.max").exists():
            quota, period = (root / "cpu.max").read_text().split()
        else:
            quota = (root / "cpu/cpu.cfs_quota_us").read_text().strip()
            period = (root / "cpu/cpu.cfs_period_us").read_text().strip()
        return None if quota in ("max", "-1") else int(quota) / int(period)
    except (OSError, ValueError, ZeroDivisionError):
        return None


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
