"""When this worker looks at the repository: every so often, and when it is told to (SIGHUP).

Looking is ``model_control``'s; each worker does it by itself.
"""

import asyncio
import contextlib
import logging
import signal
from collections.abc import Awaitable, Callable

logger = logging.getLogger("foveal.watch")


class Watch:
    """Looks again and again, never twice at once.

    Args:
        look: What is done each time.
        interval_s: Seconds from the end of a look to the next; 0: only when told.
    """

    def __init__(self, look: Callable[[], Awaitable[None]], interval_s: float) -> None:
        self._look = look
        self._interval_s = interval_s or None
        self._is_told = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._task = self._loop.create_task(self._watch())
        with contextlib.suppress(NotImplementedError, RuntimeError, ValueError, AttributeError):
            self._loop.add_signal_handler(signal.SIGHUP, self._is_told.set)

    def close(self) -> None:
        """Look no more."""
        self._task.cancel()

    async def _watch(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._is_told.wait(), self._interval_s)
            self._is_told.clear()
            try:
                await self._look()
            except Exception:
                logger.exception("looking at the repository failed; this is a bug")
