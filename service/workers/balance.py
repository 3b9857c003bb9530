"""Which worker accepts a connection: one that holds more than another leaves the next to it.

All workers wait for the same listening socket, and the fastest to wake up would take them all.
Whoever is ahead stops listening for a moment; after it, a connection that nobody took is accepted.
The accepting itself stays libuv's: counting costs well below a microsecond a connection.
"""

import asyncio
import contextlib
import os
import select
from typing import Any

# Connections by which a worker may be ahead of the one with the fewest.
AHEAD = 1
# The pause of a worker that is ahead. Others that are idle need far less; longer than this they
# are busy, and their clients are better served here.
PAUSE_S = 0.004
# Connections that are accepted after a pause before the next one.
AFTER_PAUSE = 4


class Balance:
    """Counts this worker's connections and pauses the listening socket when it is ahead.

    Args:
        loop: uvloop's event loop; on any other nothing is paused.
        listener: Descriptor of the listening socket.
        shares: Connections of all workers, shared memory.
        slot: This worker's entry.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, listener: int, shares: Any, slot: int
    ) -> None:
        self._loop = loop
        self._listener = listener
        self._shares = shares
        self._slot = slot
        self._spare = 0
        self.is_paused = False
        self._poll: Any = None
        backend = getattr(loop, "_get_backend_id", None)
        if backend is not None and hasattr(select, "epoll"):
            self._poll = select.epoll.fromfd(os.dup(backend()))  # the object closes what it has

    def opened(self, connections: int) -> None:
        """Count a new connection; pause where another worker should take the next one."""
        shares = self._shares
        shares[self._slot] = connections
        if self._poll is None or connections <= min(shares) + AHEAD or self.is_paused:
            return
        if self._spare:
            self._spare -= 1
            return
        self.is_paused = True
        self._listen(0)
        self._loop.call_later(PAUSE_S, self._resume)

    def closed(self, connections: int) -> None:
        """Count a connection that is gone."""
        self._shares[self._slot] = connections

    def hold(self) -> None:
        """Accept nothing until ``release``; again and again, as the socket may be served later."""
        self._listen(0)

    def release(self) -> None:
        """Accept connections from now on."""
        self._resume()

    def close(self) -> None:
        """Stop: the socket is about to be closed, and its descriptor may become another's."""
        self._poll = None

    def _resume(self) -> None:
        self.is_paused = False
        self._spare = AFTER_PAUSE - 1
        self._listen(getattr(select, "EPOLLIN", 1))

    def _listen(self, events: int) -> None:
        # libuv does not notice: it keeps the socket registered, with its descriptor as the key.
        if self._poll is not None:
            with contextlib.suppress(OSError):
                self._poll.modify(self._listener, events)
