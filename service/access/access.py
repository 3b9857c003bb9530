"""Access to one process: what the settings ask for, read at the start and again when it changes."""

import asyncio
import contextlib
import logging
import os
from collections.abc import Callable
from pathlib import Path

from service.access.cors import Cors
from service.access.door import Door
from service.access.keys import Keys, Rates, shared_rates
from service.access.tls import Certificate
from service.access.watched import POLL_S, Watched
from service.settings import Settings, SettingsError

logger = logging.getLogger("foveal.access")


class Access:
    """Keys, cross-origin rules and certificate of one process.

    Args:
        settings: The service's.

    Attributes:
        door: For the lane; None if no request has to pass one.
        keys: None without a keys file.
        certificate: None without TLS.

    Raises:
        ValueError: A file is wrong; the message names it.
    """

    def __init__(self, settings: Settings) -> None:
        origins = settings.cors_origins.strip()
        cors = Cors(origins.split(",")) if origins else None
        keys, certificate, key = settings.api_keys_file, settings.tls_cert, settings.tls_key
        self.keys = Keys(Path(keys), _rates(settings.workers)) if keys else None
        self.door = Door(self.keys, cors) if self.keys or cors else None
        self.certificate = Certificate(Path(certificate), Path(key)) if certificate else None
        self._watched: list[Watched] = []
        if self.keys is not None:
            self._watched.append(Watched([self.keys.path], self.keys.read))
        if self.certificate is not None:
            self._watched.append(Watched(self.certificate.paths, self.certificate.read))

    async def watch(self, count: Callable[[str, str, int], None]) -> None:
        """Read again what has changed, for as long as the process lives.

        Args:
            count: Called with a key's name, an outcome, and how many requests had it.
        """
        loop = asyncio.get_running_loop()
        while self._watched:
            await asyncio.sleep(POLL_S)
            await loop.run_in_executor(None, self.poll)
            if self.keys is not None:
                for (name, outcome), requests in self.keys.tally.items():
                    count(name, outcome, requests)
                self.keys.tally.clear()

    def poll(self) -> None:
        """Read again what has changed; never raises. Blocks on the disk."""
        for watched in self._watched:
            watched.poll()


def open_access(settings: Settings) -> Access:
    """Return the access of this process.

    Raises:
        SettingsError: A file that a setting names is wrong.
    """
    try:
        return Access(settings)
    except ValueError as error:
        raise SettingsError(str(error)) from None


def _rates(workers: int) -> Rates | None:
    """Return the rates that workers share; None where one is alone, or where they can't."""
    folder = os.environ.get("PROMETHEUS_MULTIPROC_DIR")
    if workers > 1 and folder:
        with contextlib.suppress(OSError):
            return shared_rates(Path(folder))
        logger.warning("%s: no room for the rates of the keys; each worker counts alone", folder)
    return None
