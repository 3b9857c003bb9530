"""The files of metrics on a full disk: prometheus-client writes them as memory.

Where the disk has no room for a page, the kernel ends the process by SIGBUS at the write, and the
next worker likewise. So the room is taken before it is written; without it, the numbers stay in
this process's own memory, and ``/metrics`` lacks them until the worker is started again.
Leans on names inside prometheus-client; tests/service/workers/test_metric_files.py lists them.
"""

import logging
import mmap as real
import os
from typing import Any

import prometheus_client.mmap_dict

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
