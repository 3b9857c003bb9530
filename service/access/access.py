"""Access to one process: what the settings ask for, read at the start and again when it changes."""

import asyncio
import contextlib
import logging
import os
from pathlib import Path

from service.access.cors import Cors
from service.access.door import Door
from service.access.keys import Keys, Rates, shared_rates
from service.access.tls import Certificate
from service.access.watched import POLL_S, Watched

logger = logging.getLogger("foveal.access")


class Access:
    """Keys, cross-origin rules and certificate of one process.

    Args:
        keys_file: Of hashed keys; empty: no request needs a key.
        origins: Origins with commas between; empty: none.
        certificate: PEM certificate chain; empty: no TLS.
        key: PEM private key.
        workers: Processes that share the rates of the keys.

    Attributes:
        door: For the lane; None if no request has to pass one.
        keys: None without a keys file.
        certificate: None without TLS.

    Raises:
        ValueError: A file is wrong; the message names it.
    """

    def __init__(
        self, keys_file: str, origins: str, certificate: str, key: str, workers: int
    ) -> None:
        cors = Cors(origins.split(",")) if origins.strip() else None
        self.keys = Keys(Path(keys_file), _rates(workers)) if keys_file else None
        self.door = Door(self.keys, cors) if self.keys or cors else None
        self.certificate = Certificate(Path(certificate), Path(key)) if certificate else None
        self._watched: list[Watched] = []
        if self.keys is not None:
            self._watched.append(Watched([self.keys.path], self.keys.read))
        if self.certificate is not None:
            self._watched.append(Watched(self.certificate.paths, self.certificate.read))

    async def watch(self) -> None:
        """Read again what has changed, for as long as the process lives."""
        loop = asyncio.get_running_loop()
        while self._watched:
            await asyncio.sleep(POLL_S)
            await loop.run_in_executor(None, self.poll)

    def poll(self) -> None:
        """Read again what has changed; never raises. Blocks on the disk."""
        for watched in self._watched:
            watched.poll()


def _rates(workers: int) -> Rates | None:
    """Return the rates that workers share; None where one is alone, or where they can't."""
    folder = os.environ.get("PROMETHEUS_MULTIPROC_DIR")
    if workers > 1 and folder:
        with contextlib.suppress(OSError):
            return shared_rates(Path(folder))
        logger.warning("%s: no room for the rates of the keys; each worker counts alone", folder)
    return None
