"""Poll the repository at an interval and on SIGHUP, in each worker by itself.

Knows no repository: ``model_control`` reloads.
"""

import asyncio
import contextlib
import logging
import signal
from collections.abc import Awaitable, Callable

logger = logging.getLogger("foveal.watch")


class Watch:
    """Calls a function at an interval, never twice at once.

    Args:
        reload: Called each time.
        interval_s: Seconds from the end of a call to the next; 0: only on SIGHUP.
        is_due: Whether to call it at once, as a SIGHUP came before.
    """

    def __init__(
        self, reload: Callable[[], Awaitable[None]], interval_s: float, *, is_due: bool = False
    ) -> None:
        self._reload = reload
        self._interval_s = interval_s or None
        self._is_signalled = asyncio.Event()
        if is_due:
            self._is_signalled.set()
        self._loop = asyncio.get_running_loop()
        self._task = self._loop.create_task(self._watch())
        with contextlib.suppress(NotImplementedError, RuntimeError, ValueError, AttributeError):
            self._loop.add_signal_handler(signal.SIGHUP, self._is_signalled.set)

    def close(self) -> None:
        """Stop."""
        self._task.cancel()

    async def _watch(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._is_signalled.wait(), self._interval_s)
            self._is_signalled.clear()
            try:
                await self._reload()
            except Exception:
                logger.exception("polling the repository failed; this is a bug")
