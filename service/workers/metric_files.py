"""The files that prometheus-client keeps of every process: taken over, and safe on a full disk.

It writes them as memory. Where the disk has no room for a page, the kernel ends the process by
SIGBUS at the write, and the next worker likewise. So the room is taken before it is written;
without it, the numbers stay in this process's own memory, and ``/metrics`` lacks them until the
worker is started again.
Leans on names inside prometheus-client; tests/service/workers/test_metric_files.py lists them.
"""

import contextlib
import logging
import mmap as real
import os
import struct
from pathlib import Path
from typing import Any

import prometheus_client.mmap_dict
from prometheus_client.mmap_dict import MmapedDict

logger = logging.getLogger("foveal.metrics")


class _Roomy:
    """Stands for the module ``mmap`` inside prometheus-client."""

    ACCESS_READ = real.ACCESS_READ
    ACCESS_WRITE = real.ACCESS_WRITE
    PAGESIZE = real.PAGESIZE

    def __init__(self) -> None:
        self._is_logged = False

    def mmap(self, descriptor: int, size: int, access: int = real.ACCESS_WRITE) -> real.mmap:
        """Map a file whose room on the disk is taken, else memory with the file's content."""
        if access != real.ACCESS_READ and hasattr(os, "posix_fallocate"):
            try:
                os.posix_fallocate(descriptor, 0, size)
            except OSError as error:
                self._log(error)
                memory = real.mmap(-1, size)
                content = os.pread(descriptor, size, 0)
                memory[: len(content)] = content
                return memory
        return real.mmap(descriptor, size, access=access)

    def _log(self, error: OSError) -> None:
        if not self._is_logged:
            self._is_logged = True
            logger.error("/metrics lacks numbers of worker %d: %s", os.getpid(), error.strerror)


def take_room() -> None:
    """Have the files of metrics that are opened or grow from now on take their room first."""
    module: Any = prometheus_client.mmap_dict
    module.mmap = _Roomy()


def adopt_files(folder: Path) -> None:
    """Take over the files of a worker that ended: what it counted goes on in this one's.

    prometheus-client keeps the files of every process that ever counted, so the folder would grow
    with each worker that ends. Files of the suffix ``.v2`` have the same form, and are V2's
    statistics. Call it before this process counts anything.

    Args:
        folder: What PROMETHEUS_MULTIPROC_DIR names.
    """
    for path in sorted((*folder.glob("*_*.db"), *folder.glob("*_*.v2"))):
        kind, _, pid = path.stem.rpartition("_")
        if not pid.isdecimal() or _is_alive(int(pid)):
            continue
        own = path.with_name(f"{kind}_{os.getpid()}{path.suffix}")
        with contextlib.suppress(FileNotFoundError):  # another worker was first
            if kind.startswith("gauge_live") or not _is_whole(path):
                path.unlink()
            elif not own.exists():
                path.rename(own)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's
        return True
    return True


def _is_whole(path: Path) -> bool:
    """Return whether prometheus-client can read a file: one on a full disk may be cut."""
    try:
        for _ in MmapedDict.read_all_values_from_file(str(path)):  # type: ignore[no-untyped-call]
            pass
    except (RuntimeError, ValueError, struct.error):
        return False
    return True
