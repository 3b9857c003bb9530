"""The bytes that requests hold in one worker: counted, paused, refused and given back.

A request that is not whole at once, waits for its turn, or is large holds a ``Claim``. Claims share
the worker's budget of bytes in flight with decoded pixels: beyond half of it, connections are read
no further; beyond three quarters, a request that has to wait is refused. The request that began
first is read on all the same, so two half-received bodies never wait for each other; but not while
whole requests hold the half, as they are answered and leave room.
"""

import asyncio
import threading
from typing import Protocol

from service.errors import QueueFullError
from service.inflight import Inflight

# A body up to this size that arrives in one piece is not counted: 2,048 connections that each wait
# for an answer take 32 MiB.
UNCOUNTED_BYTES = 16 << 10
# What one read may bring: uvloop's and asyncio's buffers are this large.
READ_BYTES = 256 << 10
# As long as a body on its way may take to leave.
_RETRY_AFTER_S = 2


class Receiver(Protocol):
    """What is needed of a connection whose request arrives."""

    def read_on(self) -> None:
        """Continue to read, as there is room again."""


class Claim:
    """Bytes of one request; given back when the last that holds the request drops it.

    So a body that a decode thread still reads after its deadline stays counted.
    """

    __slots__ = ("_bodies", "_whole", "size")

    def __init__(self, bodies: "Bodies") -> None:
        self._bodies = bodies
        self.size = self._whole = 0

    def grow(self, size: int) -> None:
        """Count further bytes up to a total."""
        self._bodies.count(size - self.size)
        self.size = size

    def complete(self, size: int) -> None:
        """Count a request that is whole, of so many bytes."""
        self.grow(size)
        self._bodies.whole += size
        self._whole = size

    def __del__(self) -> None:
        """Give the bytes back; on the loop's thread, whichever thread dropped the request."""
        bodies = self._bodies
        if threading.get_ident() == bodies.thread:
            bodies.count(-self.size, -self._whole)
        elif not bodies.loop.is_closed():
            bodies.loop.call_soon_threadsafe(bodies.count, -self.size, -self._whole)


class Bodies:
    """Counts the claims of one worker, and decides whose connection is read.

    Args:
        inflight: The budget, shared with whatever else holds bytes for requests.

    Attributes:
        held: Bytes of all claims.
        whole: Those of requests that have arrived.
        loop: The loop of all connections, and its ``thread``.
    """

    loop: asyncio.AbstractEventLoop

    def __init__(self, inflight: Inflight) -> None:
        self.held = self.whole = 0
        self.thread = threading.get_ident()
        self._inflight = inflight
        self._share = inflight.limit_bytes // 2
        self._most = inflight.limit_bytes * 3 // 4
        self._arriving: dict[Receiver, None] = {}  # the one that began first stands first
        self._waiting: dict[Receiver, None] = {}
        self._is_waking = False

    def run_on(self, loop: asyncio.AbstractEventLoop) -> None:
        """Note the loop that all connections run on, and its thread, which is this one."""
        self.loop = loop
        self.thread = threading.get_ident()

    def count(self, size: int, whole: int = 0) -> None:
        """Count bytes, and of them those of whole requests; negative numbers give them back."""
        self.held += size
        self.whole += whole
        self._inflight.used += size
        if size < 0 and self._waiting and not self._is_waking:
            self._is_waking = True
            self.loop.call_soon(self.wake)

    def must_wait(self, receiver: Receiver) -> bool:
        """Return whether a request that is not whole must wait; ``read_on`` is called later.

        Raises:
            QueueFullError: There is no room, not even to wait.
        """
        arriving = self._arriving
        arriving[receiver] = None
        if self._has_room():
            return False
        if self.whole <= self._share and next(iter(arriving)) is receiver:
            return False
        if self.is_full:
            raise self.full()
        self._waiting[receiver] = None
        return True

    def leave(self, receiver: Receiver) -> None:
        """Forget a connection whose request is whole, refused or lost."""
        self._waiting.pop(receiver, None)
        if receiver in self._arriving:
            del self._arriving[receiver]
            first = next(iter(self._arriving), None)
            if first is not None and first in self._waiting:
                self._read_on(first)

    @property
    def is_full(self) -> bool:
        """Whether there is no room, not even to wait."""
        return self.held > self._most

    def wake(self) -> None:
        """Read on where there is room, the longest waiting first."""
        self._is_waking = False
        room = self._share - self.held
        for receiver in list(self._waiting):
            if room <= 0 or not self._has_room():
                break
            room -= READ_BYTES
            self._read_on(receiver)
        first = next(iter(self._arriving), None)
        if first in self._waiting and self.whole <= self._share:
            self._read_on(first)

    def full(self) -> QueueFullError:
        """Return the error for a request that there is no room for."""
        return QueueFullError(
            f"request bodies: expected room for one more, got {self.held >> 20} MiB in flight of "
            f"{self._inflight.limit_bytes >> 20} for bodies and pixels; "
            "retry later or raise FOVEAL_MAX_INFLIGHT_MIB",
            _RETRY_AFTER_S,
        )

    def _has_room(self) -> bool:
        inflight = self._inflight
        return self.held <= self._share and not inflight.is_full

    def _read_on(self, receiver: Receiver) -> None:
        del self._waiting[receiver]
        receiver.read_on()
