"""The queue in front of the decode threads: work waits for a thread and for memory.

Memory is counted when work starts on a thread, not when it arrives: photographs that wait hold
their encoded bytes only. A client gets its answer at its deadline, whatever the thread does.

What a card may decode waits for the card (``card_lane``), after a step on a thread that finds it
so; what the card leaves comes back for the threads.

Work that takes milliseconds has a thread of its own, so it never waits for photographs, and takes
the others where no photograph waits. The models whose photographs wait take turns.
"""

import itertools
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import Any, Protocol

from models.machine import available_cpus
from service.inflight import Inflight
from service.pipeline.alarm import Alarm, Loop
from service.pipeline.card_lane import CardLane

# Niceness of the decode threads above the process's own: the lowest priority. Measured on one core,
# small images at 16 connections beside a stream of photographs: their p99 rises 1.4 times with it,
# and 3.2 times with 5 or 10.
_NICE = 19
# Where decoding and runs share one core, a thread decodes up to three photographs in a turn while
# many wait, so the run after it has a batch: 7.7 ms a row of MobileNetV3 in place of 8.4, 31.3 of
# ViT-tiny in place of 31.1 (of four: 7.6 and 31.9), and the loop wakes half as often. One in three
# of those that wait may join; a photograph that holds more than this goes alone.
_TURN = 3
_TURN_BYTES = 4 << 20
# Of the thread for quick work. Measured on two cores, images of 320 x 240 beside a loop that never
# rests: p99 of 66 to 73 ms with 19, 28 to 33 ms with 10.
_QUICK_NICE = 10
# Weight of the newest step when the time of a photograph is estimated.
_NEWEST = 0.1


class DecodeWork(Protocol):
    """The images of one request.

    Attributes:
        deadline: When they must be done, seconds of the queue's clock.
        size: Bytes that its next step on a thread holds.
        is_quick: Whether it takes milliseconds and holds little.
        is_over: Whether the request was answered; set here, and read on the thread.
    """

    deadline: float
    size: int
    is_quick: bool
    is_over: bool

    @property
    def tickets(self) -> Sequence[Any]:
        """Return those for the card, if it does the next step: then this is also a ``CardWork``.

        Empty: a thread does the next step.
        """

    @property
    def model(self) -> Hashable:
        """Return what stands for the model whose images they are."""

    def run(self) -> None:
        """Take the next step, on a thread; must not raise."""

    def finish(self) -> bool:
        """Use the result of a step, on the loop; return whether there is no other step."""

    def expire(self) -> None:
        """Answer that the deadline has passed, or that nobody waits, on the loop."""


Works = list[tuple[DecodeWork, int]]
"""What a thread does in one turn, each with the bytes that are counted for it."""


class DecodeQueue:
    """One queue for all models; used on the event loop's thread.

    Args:
        threads: Where work runs.
        count: Number of threads.
        loop: Event loop.
        inflight: Budget of bytes; None: no bound.
        clock: Monotonic seconds.
        quick: One thread more, for quick work alone; None: quick work waits for the others.
        turn: Works that a thread does in one turn, at most, where several times as many wait.
        card: The thread of a card that decodes; None: no work has tickets for one.

    Attributes:
        threads: Where work runs; other work may use them, too.
    """

    def __init__(  # noqa: PLR0913 - wiring
        self,
        threads: Executor,
        count: int,
        loop: Loop,
        inflight: Inflight | None = None,
        clock: Callable[[], float] = time.monotonic,
        quick: Executor | None = None,
        *,
        turn: int = 1,
        card: Executor | None = None,
    ) -> None:
        self.threads = threads
        self._count = count
        self._loop = loop
        self._inflight = inflight
        self._clock = clock
        self._quick = quick
        self._turn = turn
        self._busy_threads = 0
        self._waiting = _Turns()
        self._quick_waiting: deque[DecodeWork] = deque()
        self._running: set[DecodeWork] = set()
        self._quick_running: DecodeWork | None = None
        self._alarm = Alarm(loop, clock)
        self._card = CardLane(card or threads, loop, self._back_from_card, clock)
        self._owns_card = card is not None
        # Decayed sums of all steps; quick work is not in them.
        self._seconds = self._done = 0.0

    def wait_s(self, model: Hashable) -> float:
        """Return the expected seconds until a thread takes further work of a model; 0: unknown."""
        wait_s = self._card.wait_s
        if self._done:
            turns = self._waiting.count(model) * self._waiting.models
            wait_s += turns * self._seconds / self._done / self._count
        return wait_s

    def put(self, work: DecodeWork) -> None:
        """Start work now, or when a thread and memory are free."""
        if work.is_quick and self._quick is not None:
            self._quick_waiting.append(work)
        else:
            self._waiting.append(work)
        self._alarm.set(work.deadline, self._expire)
        self._start()

    def cancel(self, work: DecodeWork) -> None:
        """Drop work that waits and that nobody waits for; what runs already ends by itself."""
        is_running = work in self._running or work is self._quick_running
        if work.is_over or is_running or self._card.is_running(work):
            return
        work.is_over = True
        self._drop_over()
        work.expire()
        self._start()  # another one may fit

    def close(self) -> None:
        """Let the threads end, after the work that they have begun."""
        self.threads.shutdown(wait=False)
        if self._quick is not None:
            self._quick.shutdown(wait=False)
        if self._owns_card:
            self._card.close()

    def _start(self) -> None:
        if self._quick is not None and self._quick_waiting and self._quick_running is None:
            self._quick_running = work = self._quick_waiting.popleft()
            # It never waits for memory: it holds little, one at a time.
            self._take(work.size, is_alone=True)
            self._quick.submit(self._run, [(work, work.size)])
        while self._busy_threads < self._count and (self._waiting or self._quick_waiting):
            work = self._waiting.first if self._waiting else self._quick_waiting[0]
            # What is alone starts in any case, else it could never be answered.
            if not self._take(work.size, is_alone=not self._running):
                return
            works = [(work, work.size)]
            if self._waiting:
                self._waiting.take()
                self._join(works)
            else:
                self._quick_waiting.popleft()
            self._running.update(work for work, _ in works)
            self._busy_threads += 1
            self.threads.submit(self._run, works)

    def _join(self, works: Works) -> None:
        """Add others that wait to the turn of a thread."""
        for _ in range(min(self._turn - 1, len(self._waiting) // self._turn)):
            work = self._waiting.first
            if work.size > _TURN_BYTES or not self._take(work.size, is_alone=False):
                return
            self._waiting.take()
            works.append((work, work.size))

    def _take(self, size: int, *, is_alone: bool) -> bool:
        if self._inflight is None or self._inflight.take(size):
            return True
        if is_alone:
            self._inflight.used += size
        return is_alone

    def _run(self, works: Works) -> None:
        started = self._clock()
        for work, _ in works:
            work.run()  # may set the size of the next step
        each_s = (self._clock() - started) / len(works)
        self._loop.call_soon_threadsafe(self._back_on_loop, works, each_s)

    def _back_on_loop(self, works: Works, each_s: float) -> None:
        if works[0][0] is self._quick_running:
            self._quick_running = None
        else:
            self._running.difference_update(work for work, _ in works)
            self._busy_threads -= 1
        for work, size in works:
            if self._inflight is not None:
                self._inflight.give(size)
            if not work.is_over:
                self._go_on(work)
            if not work.is_quick:
                is_done = work.is_over or bool(work.tickets)  # of its steps on threads
                self._seconds += (each_s - self._seconds) * _NEWEST
                self._done += (is_done - self._done) * _NEWEST
        self._start_or_rest()

    def _back_from_card(self, work: DecodeWork) -> None:
        if not work.is_over:
            self._go_on(work)
        self._start_or_rest()

    def _go_on(self, work: DecodeWork) -> None:
        """Use the result of a step, and put the work where its next one is done."""
        work.is_over = work.finish()
        if work.is_over:
            return
        if work.tickets:
            self._card.put(work)
        else:
            self._waiting.put_back(work)

    def _start_or_rest(self) -> None:
        self._start()
        if not (
            self._waiting
            or self._running
            or self._quick_waiting
            or self._quick_running
            or self._card
        ):
            self._alarm.stop()

    def _all(self) -> list[DecodeWork]:
        quick = [] if self._quick_running is None else [self._quick_running]
        return [*self._waiting, *self._running, *self._quick_waiting, *quick, *self._card]

    def _drop_over(self) -> None:
        self._card.drop_over()
        self._waiting.drop_over()
        self._quick_waiting = deque(work for work in self._quick_waiting if not work.is_over)

    def _expire(self) -> None:
        """Answer what is too late; what runs still holds its thread and its memory."""
        now = self._clock()
        late = [work for work in self._all() if work.deadline <= now and not work.is_over]
        for work in late:
            work.is_over = True
        self._drop_over()
        for work in late:
            work.expire()
        left = [work.deadline for work in self._all() if not work.is_over]
        if left:
            self._alarm.set(min(left), self._expire)


class _Turns:
    """Work that waits: one of each model in turn, what is put back before all others."""

    def __init__(self) -> None:
        self._begun: deque[DecodeWork] = deque()
        self._models: dict[Hashable, deque[DecodeWork]] = {}  # whose turn it is stands first

    def __bool__(self) -> bool:
        return bool(self._begun or self._models)

    def __len__(self) -> int:
        return len(self._begun) + sum(map(len, self._models.values()))

    def __iter__(self) -> Iterator[DecodeWork]:
        return itertools.chain(self._begun, *self._models.values())

    @property
    def models(self) -> int:
        """Return how many models take turns."""
        return len(self._models)

    def count(self, model: Hashable) -> int:
        """Return how much work of a model waits."""
        return len(self._models.get(model, ()))

    @property
    def first(self) -> DecodeWork:
        return next(iter(self))

    def append(self, work: DecodeWork) -> None:
        self._models.setdefault(work.model, deque()).append(work)

    def put_back(self, work: DecodeWork) -> None:
        self._begun.appendleft(work)

    def take(self) -> None:
        """Remove the first; its model's next one follows those of the others."""
        if self._begun:
            self._begun.popleft()
            return
        model = next(iter(self._models))
        works = self._models.pop(model)
        works.popleft()
        if works:
            self._models[model] = works

    def drop_over(self) -> None:
        """Remove what was answered."""
        begun, models = self._begun, self._models
        self._begun, self._models = deque(work for work in begun if not work.is_over), {}
        for work in itertools.chain(*models.values()):
            if not work.is_over:
                self.append(work)


def open_queue(count: int, loop: Loop, inflight: Inflight, workers: int = 1) -> DecodeQueue:
    """Open a queue with threads of its own: of low priority, as small images are on the loop.

    Args:
        count: Threads for large images, 0: one for each core; quick work has one more.
        loop: Event loop.
        inflight: Budget of bytes.
        workers: Processes that share the cores.
    """
    turn = _TURN if available_cpus() <= workers else 1
    count = count or available_cpus()
    threads, quick = _threads(count, _NICE), _threads(1, _QUICK_NICE)
    card = ThreadPoolExecutor(1, "card")  # its thread begins with its first batch
    return DecodeQueue(threads, count, loop, inflight, quick=quick, turn=turn, card=card)


def _threads(count: int, nice: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(count, "decode", initializer=_yield_to_loop, initargs=(nice,))


def _yield_to_loop(nice: int) -> None:
    if sys.platform == "linux":  # elsewhere priorities belong to processes, not to threads
        nice += os.getpriority(os.PRIO_PROCESS, os.getpid())
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), nice)
