"""A deterministic world for the batcher: loop, clock and executor that move only when told."""

import heapq
import itertools
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from service.errors import InferenceError
from service.inflight import Inflight
from service.pipeline.admission import Admission
from service.pipeline.batcher import Batcher
from service.pipeline.job import Batch, Job, Runner
from service.pipeline.limits import BatchLimits
from service.session.outputs import Outputs
from tests.service.pipeline.callback_job import submit
from tests.tiny import tiny_logits

FAILURE = InferenceError("the run failed")
RUNNERS = pytest.mark.parametrize("threads", [0, 1, 2, 3], ids=["loop", "one", "two", "three"])

# One pixel a stripe: the closed form of a row is its four bytes, so a row is its own number.
ROW_SHAPE = (4, 1, 1)


def row(number: int) -> NDArray[np.uint8]:
    return np.frombuffer(number.to_bytes(4, "big"), np.uint8).reshape(ROW_SHAPE)


def number(logits_K: NDArray[np.float32]) -> int:
    return int.from_bytes(logits_K.astype(np.uint8).tobytes(), "big")


class FakeTimer:
    def __init__(self, at: float, callback: Callable[[], None]) -> None:
        self.at = at
        self.callback = callback
        self.is_over = False
        self._is_cancelled = False

    def cancel(self) -> None:
        self.is_over = self._is_cancelled = True

    def fire(self) -> None:
        """As asyncio does: a timer cancelled in the turn that it is due in is not called."""
        if not self._is_cancelled:
            self.callback()


class FakeLoop:
    """Time stands still until ``advance``; callbacks run in ``turn``, those they add later."""

    def __init__(self) -> None:
        self.now = 1000.0
        self._ready: deque[Callable[[], None]] = deque()
        self._timers: list[tuple[float, int, FakeTimer]] = []
        self._order = itertools.count()

    def clock(self) -> float:
        return self.now

    def call_soon(self, callback: Callable[..., Any], *arguments: Any) -> None:
        self._ready.append(lambda: callback(*arguments))

    call_soon_threadsafe = call_soon

    def call_later(self, delay: float, callback: Callable[..., Any], *arguments: Any) -> FakeTimer:
        timer = FakeTimer(self.now + delay, lambda: callback(*arguments))
        heapq.heappush(self._timers, (timer.at, next(self._order), timer))
        return timer

    @property
    def timers(self) -> list[FakeTimer]:
        """Those that would still go off."""
        return [timer for _, _, timer in self._timers if not timer.is_over]

    def turn(self) -> None:
        """One turn of the loop: what is ready now, and the timers that are due."""
        while self._timers and self._timers[0][0] <= self.now:
            timer = heapq.heappop(self._timers)[2]
            if not timer.is_over:
                timer.is_over = True
                self._ready.append(timer.fire)
        for _ in range(len(self._ready)):
            self._ready.popleft()()

    def settle(self) -> None:
        """Turn until nothing is left to do at this time."""
        for _ in range(1000):
            self.turn()
            if not self._ready and not any(t.at <= self.now for t in self.timers):
                return
        raise AssertionError("the loop spins: callbacks add callbacks without end")

    def advance(self, seconds: float) -> None:
        """Let time pass, stopping at each timer on the way."""
        end = self.now + seconds
        while self.timers and (at := min(timer.at for timer in self.timers)) <= end:
            self.now = max(self.now, at)
            self.settle()
        self.now = end
        self.settle()


class FakeExecutor(Executor):
    """Takes calls and runs them when told: what they read then is what slow threads would read."""

    def __init__(self, threads: int) -> None:
        self._threads = threads
        self._calls: list[Callable[[], None]] = []
        self.on_submit: Callable[[Batch], None] = lambda _batch: None

    @property
    def is_busy(self) -> bool:
        return bool(self._calls)

    @property
    def is_full(self) -> bool:
        return len(self._calls) == self._threads

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        assert not self.is_full, "more runs at once than there are runners"
        self._calls.append(lambda: fn(*args, **kwargs))
        self.on_submit(args[0])
        return Future()

    def finish(self, which: int = 0) -> None:
        """Run one of the calls that are out, counted from the oldest."""
        assert self._calls, "nothing runs"
        self._calls.pop(which % len(self._calls))()


class World:
    """A batcher, everything around it, and what was seen of it.

    Args:
        limits: The batcher's.
        threads: How many runners it has; 0: one, on the loop.
        lower_s: Seconds of a full run at the lower precision as measured at the load; None: there
            is none.
        queue_bytes: Bytes of rows that may wait.
        full_s: Seconds of a full run as measured at the load; 0: unknown.
        rows_now: How many of 0, 1, 2, … waiting rows are run together; empty: all.
    """

    def __init__(
        self,
        limits: BatchLimits,
        threads: int,
        lower_s: float | None = None,
        queue_bytes: int = 1 << 30,
        full_s: float = 0.0,
        rows_now: Sequence[int] = (),
    ) -> None:
        self.loop = FakeLoop()
        self.executor = FakeExecutor(threads) if threads else None
        self.limits = limits
        self.runs: list[list[int]] = []
        self.failures: list[Exception] = []  # raised by the next runs
        self.failed_numbers: set[int] = set()
        self.on_run: Callable[[list[int]], None] = lambda _numbers: None
        shape = limits.max_batch_size, *ROW_SHAPE
        self.lower_runs: list[list[int]] = []
        runners = [
            Runner(self._run, np.empty(shape, np.uint8), run_lower=self._run_lower)
            for _ in range(threads or 1)
        ]
        self.inflight = Inflight(2 * queue_bytes)
        self.clients = 0
        self.batcher = Batcher(
            runners,
            limits,
            loop=self.loop,
            executor=self.executor,
            newcomers=lambda: self.clients,
            clock=self.loop.clock,
            inflight=self.inflight,
            admission=Admission(limits, len(runners), full_s, lower_s),
            rows_now=rows_now,
        )
        self.done: list[Job] = []
        self.numbers: dict[int, range] = {}  # id(job) -> its rows' numbers
        self._next = 0

    def _run(self, images_NHWC: NDArray[np.uint8]) -> Outputs:
        logits = tiny_logits(images_NHWC)
        numbers = [number(logits_K) for logits_K in logits]
        self.runs.append(numbers)
        self.on_run(numbers)
        if self.failures:
            self.failed_numbers.update(numbers)
            raise self.failures.pop(0)
        return Outputs(logits, logits / np.float32(1000))

    def _run_lower(self, images_NHWC: NDArray[np.uint8]) -> Outputs:
        outputs = self._run(images_NHWC)
        self.lower_runs.append(self.runs[-1])
        return outputs

    def submit(
        self,
        rows: int = 1,
        timeout_s: float = 30,
        *,
        is_array: bool = False,
        then: Callable[[Job], None] = lambda _job: None,
    ) -> Job:
        numbers = range(self._next, self._next + rows)
        images: Any = [row(n) for n in numbers]

        def on_done(job: Job) -> None:
            self.done.append(job)
            then(job)

        job = submit(
            self.batcher,
            np.stack(images) if is_array else images,
            self.loop.now + timeout_s,
            on_done,
        )
        self._next += rows
        self.numbers[id(job)] = numbers
        return job

    def answer(self, job: Job) -> list[int]:
        """The numbers that came back for a job, in its order."""
        answered = []
        for batch, first, count in job.parts:
            assert batch.outputs is not None
            answered += [number(k) for k in batch.outputs.logits[first : first + count]]
        return answered

    def assert_answered(self, job: Job) -> None:
        assert self.done.count(job) == 1
        assert job.error is None, job.error
        assert self.answer(job) == list(self.numbers[id(job)])

    def assert_failed(self, job: Job, kind: type[Exception]) -> None:
        assert self.done.count(job) == 1
        assert isinstance(job.error, kind), job.error

    def finish_run(self, which: int = 0) -> None:
        assert self.executor is not None
        self.executor.finish(which)
        self.loop.settle()

    def run_all(self) -> None:
        """Let everything happen that can, time included."""
        for _ in range(1000):
            self.loop.settle()
            if self.executor is not None and self.executor.is_busy:
                self.finish_run()
            elif self.loop.timers:
                self.loop.advance(min(t.at for t in self.loop.timers) - self.loop.now)
            else:
                return
        raise AssertionError("the world never comes to rest")


def world(threads: int, batch: int = 4, wait_s: float = 1000.0, delay_s: float = 0.0) -> World:
    return World(BatchLimits(batch, wait_s, delay_s), threads)
