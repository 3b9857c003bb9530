"""The machine: its processor, and the cores and the memory that this process may use."""

import math
import os
import platform
import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

_CGROUPS = Path("/sys/fs/cgroup")
_OWN_CGROUPS = Path("/proc/self/cgroup")


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
    kernel's documentation.
    """
    cores = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    quotas = [_quota(folder) for folder in _cgroups("cpu")]
    return max(1, min([cores, *(math.ceil(quota) for quota in quotas if quota is not None)]))


def available_memory() -> int:
    """Return the bytes of memory that this process may use: the machine's and its limits.

    Sources: sysconf(3); cgroup v2 ``memory.max`` and v1 ``memory.limit_in_bytes`` of the Linux
    kernel's documentation.
    """
    limits = [_memory_limit(folder) for folder in _cgroups("memory")]
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min([total, *(limit for limit in limits if limit is not None)])


def _cgroups(controller: str) -> list[Path]:
    """Return the folders of this process's control groups, outwards: each one's limits hold.

    In a container the process's path may be one of the host; then the root is its own group.
    """
    try:
        lines = [line.split(":", 2) for line in _OWN_CGROUPS.read_text().splitlines()]
    except OSError:  # not Linux
        return []
    folders: dict[Path, None] = {}
    for _, controllers, path in lines:
        if controllers and controller not in controllers.split(","):
            continue
        base = _CGROUPS / controller if controllers else _CGROUPS
        inside = PurePosixPath(path.lstrip("/"))
        folders |= dict.fromkeys(base / each for each in (inside, *inside.parents))
    return [folder for folder in folders if folder.is_dir()]


def _quota(folder: Path) -> float | None:
    """Return a group's CPU quota in cores, None if none is set or it cannot be read."""
    try:
        if (folder / "cpu.max").exists():
            quota, period = (folder / "cpu.max").read_text().split()
        else:
            quota = (folder / "cpu.cfs_quota_us").read_text().strip()
            period = (folder / "cpu.cfs_period_us").read_text().strip()
        return None if quota in ("max", "-1") else int(quota) / int(period)
    except (OSError, ValueError, ZeroDivisionError):
        return None


def _memory_limit(folder: Path) -> int | None:
    """Return a group's memory limit in bytes, None if none is set or it cannot be read."""
    for name in ("memory.max", "memory.limit_in_bytes"):
        try:
            return int((folder / name).read_text())
        except (OSError, ValueError):  # "max": no limit
            continue
    return None


def cpu_name() -> str:
    """Return the processor's name as the system gives it, "unknown" if it gives none."""
    try:
        found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.M)
    except OSError:
        found = None
    return found[1].strip() if found else platform.processor() or platform.machine() or "unknown"


def cpu_features() -> frozenset[str]:
    """Return what the processor has beyond its base, as Linux names it; empty: unknown."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return frozenset()
    found = re.search(r"^(?:flags|Features)\s*:(.*)$", text, re.M)
    return frozenset(found[1].split()) if found else frozenset()


def multiplies_whole() -> bool:
    """Return whether products of uint8 and int8 are added up without being cut off on this CPU.

    Before VNNI, x86's instruction for them adds two products in 16 bits, which 255 * 127 * 2 does
    not fit into; with weights of 7 bits it does. Source: onnxruntime, Quantize ONNX Models, "When
    and why do I need to try U8U8 or reduce_range?".
    """
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return True
    features = cpu_features()
    return not features or any("vnni" in feature for feature in features)
