"""One timer for the earliest of many times, and the part of an event loop that makes timers."""

import math
from collections.abc import Callable
from typing import Any, Protocol


class Timer(Protocol):
    """What ``Loop.call_later`` gives: a call that can be called off."""

    def cancel(self) -> None:
        """Call it off."""


class Loop(Protocol):
    """The part of asyncio's event loop that the pipeline uses; tests pass one of their own."""

    def call_soon(self, callback: Callable[..., Any], *arguments: Any) -> Any:
        """Call once the current turn of the loop is over."""

    def call_soon_threadsafe(self, callback: Callable[..., Any], *arguments: Any) -> Any:
        """Call on the loop's thread; may be called from any thread."""

    def call_later(self, delay: float, callback: Callable[..., Any], *arguments: Any) -> Timer:
        """Call after a delay in seconds."""


class Alarm:
    """Rings once, at the earliest time that it was set to.

    It holds on to whom it calls only while it is set: its owner is freed without the collector.

    Args:
        loop: Scheduler.
        clock: Seconds; times are its own.

    Attributes:
        at: When it rings; infinite if it does not.
    """

    __slots__ = ("_clock", "_loop", "_timer", "at")

    def __init__(self, loop: Loop, clock: Callable[[], float]) -> None:
        self._loop = loop
        self._clock = clock
        self._timer: Timer | None = None
        self.at = math.inf

    def set(self, at: float, ring: Callable[[], None]) -> None:
        """Call ``ring`` at this time, if that is earlier than the one that is set."""
        if at < self.at:
            self.stop()
            self.at = at
            self._timer = self._loop.call_later(at - self._clock(), self._over, ring)

    def stop(self) -> None:
        """Do not ring."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
            self.at = math.inf

    def _over(self, ring: Callable[[], None]) -> None:
        self._timer, self.at = None, math.inf
        ring()
