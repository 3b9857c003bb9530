"""The machine that a measurement depends on: its processor and the available cores."""

import math
import os
import platform
import re
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Machine:
    """What a measurement depends on besides the model.

    Attributes:
        cpu: Name of the processor.
        cores: Cores that the service may use: affinity and quota.
        workers: Processes of the service that share the cores.
        device: Device of the sessions: ``cpu``, or the name of a GPU.
        onnxruntime: Version of onnxruntime.
    """

    cpu: str
    cores: int
    workers: int
    device: str
    onnxruntime: str


def available_cpus() -> int:
    """Return the number of cores that this process may use: affinity and quota, at least 1.

    Sources: sched_getaffinity(2); cgroup v2 ``cpu.max`` and v1 ``cpu.cfs_quota_us`` of the Linux
    kernel's documentation, as seen from inside a container's own cgroup namespace.
    """
    cores = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    quota = _cgroup_quota(Path("/sys/fs/cgroup"))
    return max(1, cores if quota is None else min(cores, math.ceil(quota)))


def _cgroup_quota(root: Path) -> float | None:
    """Return the CPU quota in cores, None if none is set or it cannot be read."""
    try:
        if (root / "cpu.max").exists():
            quota, period = (root / "cpu.max").read_text().split()
        else:
            quota = (root / "cpu/cpu.cfs_quota_us").read_text().strip()
            period = (root / "cpu/cpu.cfs_period_us").read_text().strip()
        return None if quota in ("max", "-1") else int(quota) / int(period)
    except (OSError, ValueError, ZeroDivisionError):
        return None


def cpu_name() -> str:
    """Return the processor's name as the system gives it, "unknown" if it gives none."""
    try:
        found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.M)
    except OSError:
        found = None
    return found[1].strip() if found else platform.processor() or platform.machine() or "unknown"
