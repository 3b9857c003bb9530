"""Files that are read again when they change: the keys, the certificate."""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

logger = logging.getLogger("foveal.access")

# Seconds between polls; as often as the repository's.
POLL_S = 2.0


class Watched:
    """Some files, and what reads them.

    Files that are wrong are logged once, and what was read before stays in use.

    Args:
        paths: The files. A link is followed, so a mounted secret of Kubernetes may be one.
        read: Reads them; raises ValueError or OSError, and then has changed nothing.
    """

    def __init__(self, paths: Sequence[Path], read: Callable[[], None]) -> None:
        self._paths = paths
        self._read = read
        self._seen: list[tuple[int, int, int]] = []
        self.poll()  # they may have changed since the process read them

    def poll(self) -> None:
        """Read the files if they have changed since the last poll; never raises."""
        seen = self._fingerprint()
        if seen == self._seen:
            return
        is_first, self._seen = not self._seen, seen
        names = ", ".join(map(str, self._paths))
        try:
            self._read()
        except (ValueError, OSError) as error:
            logger.error("%s; what was read before stays in use", error)
        else:
            if not is_first:
                logger.info("%s: read again", names)

    def _fingerprint(self) -> list[tuple[int, int, int]]:
        seen = []
        for path in self._paths:
            try:
                status = path.stat()
            except OSError:
                seen.append((0, 0, 0))
            else:
                seen.append((status.st_ino, status.st_size, status.st_mtime_ns))
        return seen
