"""The start of a worker: its models load on a thread while its event loop answers probes.

Knows no model: it is given what loads and what serves the result. A stop needs no help from here:
nothing was accepted yet, so the process may end at any moment.
"""

import asyncio
import logging
import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")

logger = logging.getLogger("foveal.starting")

# A start that takes longer says so at this interval, seconds.
TELL_S = 5.0


class Starting(Generic[T]):
    """One start.

    Args:
        load: Loads; is given a function to call with each step as it begins.
        serve: Called with the result, on the loop.
        loop: Event loop of the worker.

    Attributes:
        step: What is loaded now.
    """

    def __init__(
        self,
        load: Callable[[Callable[[str], None]], T],
        serve: Callable[[T], None],
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._load = load
        self._serve = serve
        self._loop = loop
        self._began_at = time.monotonic()
        self._is_over = False
        self.step = "models"

    @property
    def seconds(self) -> float:
        """Return the seconds since it began."""
        return time.monotonic() - self._began_at

    @property
    def reason(self) -> str:
        """Return why the service is not ready, for a client."""
        return f"not ready: loading {self.step}, {self.seconds:.0f} s so far; retry"

    def begin(self) -> None:
        """Load on a thread; a failure ends the process."""
        # A daemon: it must not keep a process that is to end.
        threading.Thread(target=self._run, name="start", daemon=True).start()
        self._loop.call_later(TELL_S, self._log)

    def block(self) -> T:
        """Load on the calling thread, which is the loop's: nothing is answered meanwhile."""
        self._is_over = True
        return self._load(self._note)

    def _note(self, step: str) -> None:
        self.step = step

    def _run(self) -> None:
        try:
            loaded = self._load(self._note)
        except BaseException as error:
            self._call(self._fail, error)
        else:
            self._call(self._finish, loaded)

    def _call(self, function: Callable[..., None], argument: object) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(function, argument)

    def _finish(self, loaded: T) -> None:
        self._is_over = True
        self._serve(loaded)

    def _fail(self, error: BaseException) -> None:
        logger.error("the start failed at %s", self.step, exc_info=error)
        raise SystemExit(1)

    def _log(self) -> None:
        if not self._is_over:
            logger.info("loading %s, %.0f s so far", self.step, self.seconds)
            self._loop.call_later(TELL_S, self._log)
