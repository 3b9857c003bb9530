"""The folder of one service's metric files: its own, whatever else runs for the same user.

BentoML's default folder is shared by all services of a user, and each start empties it. This one
is made at each start, locked while the supervisor lives, and removed at its end. The next start
removes those whose supervisor was killed: their lock is gone.
"""

import atexit
import contextlib
import fcntl
import functools
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
_PARENT = "foveal_metrics"


@functools.cache
def own_folder(home: Path) -> Path:
    """Return this process's folder, made by the first call.

    Args:
        home: BentoML's home, which holds the folders of all services.

    Raises:
        OSError: No folder can be made there.
    """
    parent = home / _PARENT
    parent.mkdir(parents=True, exist_ok=True)
    with _locked(parent, fcntl.LOCK_EX):  # nobody removes a folder between its making and its lock
        for folder in parent.iterdir():
            with contextlib.suppress(OSError), _locked(folder, fcntl.LOCK_EX | fcntl.LOCK_NB):
                shutil.rmtree(folder)
        folder = Path(tempfile.mkdtemp(prefix=f"{os.getpid()}-", dir=parent))
        # Never closed: the kernel gives the lock back at the end of the process, a kill included.
        fcntl.flock(os.open(folder, os.O_RDONLY), fcntl.LOCK_SH)
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


@contextlib.contextmanager
def _locked(folder: Path, kind: int) -> Iterator[None]:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, kind)
        yield
    finally:
        os.close(descriptor)


def forget_gauges(folder: Path, pid: int) -> None:
    """Delete the gauges of a worker that ended; what it counted stays."""
    for path in folder.glob(f"gauge_live*_{pid}.db"):
        path.unlink(missing_ok=True)
