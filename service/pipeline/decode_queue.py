"""The queue in front of the decode threads: work waits for a thread and for memory.

Memory is counted when work starts on a thread, not when it arrives: photographs that wait hold
their encoded bytes only. A client gets its answer at its deadline, whatever the thread does.
"""

import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import Protocol

from service.inflight import Inflight
from service.pipeline.alarm import Alarm, Loop

# Niceness of the decode threads above the process's own: the lowest priority. Measured on one core,
# small images at 16 connections beside a stream of photographs: their p99 rises 1.4 times with it,
# and 3.2 times with 5 or 10.
_NICE = 19


class DecodeWork(Protocol):
    """The images of one request.

    Attributes:
        deadline: When they must be done, seconds of the queue's clock.
        size: Bytes that its next step on a thread holds.
        is_over: Whether the request was answered; set here, and read on the thread.
    """

    deadline: float
    size: int
    is_over: bool

    def run(self) -> None:
        """Take the next step, on a thread; must not raise."""

    def finish(self) -> bool:
        """Use the result of a step, on the loop; return whether there is no other step."""

    def expire(self) -> None:
        """Answer that the deadline has passed, on the loop."""


class DecodeQueue:
    """One queue for all models; used on the event loop's thread.

    Args:
        threads: Where work runs.
        count: Number of threads.
        loop: Event loop.
        inflight: Budget of bytes; None: no bound.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        threads: Executor,
        count: int,
        loop: Loop,
        inflight: Inflight | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._threads = threads
        self._count = count
        self._loop = loop
        self._inflight = inflight
        self._clock = clock
        self._waiting: deque[DecodeWork] = deque()
        self._running: set[DecodeWork] = set()
        self._alarm = Alarm(loop, clock)

    def put(self, work: DecodeWork) -> None:
        """Start work now, or when a thread and memory are free."""
        self._waiting.append(work)
        self._alarm.set(work.deadline, self._expire)
        self._start()

    def _start(self) -> None:
        while self._waiting and len(self._running) < self._count:
            work = self._waiting[0]
            # What is alone starts in any case, else it could never be answered.
            if not self._take(work.size, is_alone=not self._running):
                return
            self._waiting.popleft()
            self._running.add(work)
            self._threads.submit(self._run, work, work.size)

    def _take(self, size: int, *, is_alone: bool) -> bool:
        if self._inflight is None or self._inflight.take(size):
            return True
        if is_alone:
            self._inflight.used += size
        return is_alone

    def _run(self, work: DecodeWork, size: int) -> None:
        work.run()  # may set the size of the next step
        self._loop.call_soon_threadsafe(self._back_on_loop, work, size)

    def _back_on_loop(self, work: DecodeWork, size: int) -> None:
        self._running.remove(work)
        if self._inflight is not None:
            self._inflight.give(size)
        if not work.is_over:
            work.is_over = work.finish()
            if not work.is_over:
                self._waiting.appendleft(work)
        self._start()
        if not self._running and not self._waiting:
            self._alarm.stop()

    def _expire(self) -> None:
        """Answer what is too late; what runs still holds its thread and its memory."""
        now = self._clock()
        late = [w for w in (*self._waiting, *self._running) if w.deadline <= now and not w.is_over]
        for work in late:
            work.is_over = True
        self._waiting = deque(work for work in self._waiting if not work.is_over)
        for work in late:
            work.expire()
        left = [w.deadline for w in (*self._waiting, *self._running) if not w.is_over]
        if left:
            self._alarm.set(min(left), self._expire)


def decode_threads(count: int) -> ThreadPoolExecutor:
    """Return threads of the lowest priority: large images may wait, small ones on the loop not."""
    return ThreadPoolExecutor(count, "decode", initializer=_yield_to_loop)


def _yield_to_loop() -> None:
    if sys.platform == "linux":  # elsewhere priorities belong to processes, not to threads
        nice = os.getpriority(os.PRIO_PROCESS, os.getpid()) + _NICE
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), nice)
