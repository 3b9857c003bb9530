"""One timer for the earliest of many times, and the protocol of an event loop."""

import math
from collections.abc import Callable
from typing import Any, Protocol


class Timer(Protocol):
    """A call of ``Loop.call_later`` that can be cancelled."""

    def cancel(self) -> None:
        """Cancel the call."""


class Loop(Protocol):
    """The methods of asyncio's event loop that the pipeline uses; tests pass their own."""

    def call_soon(self, callback: Callable[..., Any], *arguments: Any) -> Any:
        """Call in the next turn of the loop."""

    def call_soon_threadsafe(self, callback: Callable[..., Any], *arguments: Any) -> Any:
        """Call on the loop's thread; may be called from any thread."""

    def call_later(self, delay: float, callback: Callable[..., Any], *arguments: Any) -> Timer:
        """Call after a delay in seconds."""


class Alarm:
    """Calls once, at the earliest time that it was set to.

    It refers to its callback only while it is set: its owner is freed without the collector.

    Args:
        loop: Event loop.
        clock: Clock that times are given in, seconds.

    Attributes:
        at: Time of the call; infinite if none is set.
    """

    __slots__ = ("_clock", "_loop", "_timer", "at")

    def __init__(self, loop: Loop, clock: Callable[[], float]) -> None:
        self._loop = loop
        self._clock = clock
        self._timer: Timer | None = None
        self.at = math.inf

    def set(self, at: float, ring: Callable[[], None]) -> None:
        """Call ``ring`` at this time if it is earlier than the time that is set."""
        if at < self.at:
            self.stop()
            self.at = at
            self._timer = self._loop.call_later(at - self._clock(), self._over, ring)

    def stop(self) -> None:
        """Cancel the call, if one is set."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
            self.at = math.inf

    def _over(self, ring: Callable[[], None]) -> None:
        self._timer, self.at = None, math.inf
        ring()
