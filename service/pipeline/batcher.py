"""The queue and its batches: work-conserving, bounded, one run at a time on each runner.

When a runner is free and rows wait, they run now; they wait for more rows only if
``max_queue_delay_s`` > 0. Rows, not requests, are counted. The laws, each with a test:

1. only decoded, validated rows enter (callers ensure it);  2. a failed run gives each member the
same error and the queue lives on;  3. a job is done once;  4. a row whose client left or whose
deadline passed is dropped before the run;  5. the queue is bounded in bytes and in time and
refuses on arrival, also what would be done too late;
6. monotonic clock, no polling, one timer of each kind;  7. outputs are counted (``session``);
8. whatever happens, every accepted job is done;  10. a row that is not finite is that row's error.

Everything runs on one event loop's thread, except ``run``, which runs on the executor if there is
one. Knows no HTTP and no model: it sees arrays of rows and functions that run them.
"""

import logging
import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from contextlib import AbstractContextManager, nullcontext
from typing import Final

import numpy as np
from numpy.typing import NDArray

from service.errors import (
    DeadlineError,
    NotReadyError,
    RunMemoryError,
    ServiceError,
)
from service.inflight import Inflight
from service.pipeline.admission import Admission
from service.pipeline.alarm import Alarm, Loop, Timer
from service.pipeline.failures import LOST, answer_to, log_failure
from service.pipeline.job import Batch, Job, Runner
from service.pipeline.limits import BatchLimits
from service.pipeline.postprocess import not_finite
from service.session.outputs import Outputs

logger = logging.getLogger("foveal.batcher")

# The precision of runs in a brownout: the only lower one that is faster on a CPU.
LOWER: Final = "int8"
# A budget for a queue whose bytes nobody counts.
_UNBOUNDED = 1 << 62


class Batcher:
    """One queue in front of one or more runners.

    Args:
        runners: Runners, all with buffers of one shape; exactly one without an executor.
        limits: Bounds.
        loop: Event loop; all methods are called on its thread.
        executor: Threads for the runs, one for each runner; None: the loop's own thread.
        observe: Called after each run, before its jobs are done, with the batch.
        answering: Entered while the jobs of one run are done.
        newcomers: Returns the number of connections accepted so far. While it grows from one turn
            of the loop to the next, a batch that is not full waits for their requests.
        clock: Monotonic seconds. Not the loop's own, as uvloop's has a resolution of 1 ms.
        inflight: Budget for the bytes of waiting rows, shared by all queues; None: no bound.
        admission: Decides which rows are run in time (default: by ``limits``).
        rows_now: How many of 0, 1, 2, … waiting rows are run together; empty: all.

    Attributes:
        on_lost: Called when a run found that the GPU does no further work in this process.
    """

    def __init__(  # noqa: PLR0913 - wiring, called in one place
        self,
        runners: Sequence[Runner],
        limits: BatchLimits,
        *,
        loop: Loop,
        executor: Executor | None = None,
        observe: Callable[[Batch], None] | None = None,
        answering: AbstractContextManager[None] | None = None,
        newcomers: Callable[[], int] = lambda: 0,
        clock: Callable[[], float] = time.monotonic,
        inflight: Inflight | None = None,
        admission: Admission | None = None,
        rows_now: Sequence[int] = (),
    ) -> None:
        assert runners, "a queue without a runner never drains; this is a bug"
        assert executor is not None or len(runners) == 1, "one loop is one runner; this is a bug"
        assert all(len(runner.buffer) >= limits.max_batch_size for runner in runners)
        self._limits = limits
        self._loop = loop
        self._executor = executor
        self._observe = observe
        self._answering = answering or nullcontext()
        self._newcomers = newcomers
        self._known_clients = newcomers()
        self._clock = clock
        self._rows_now = rows_now
        self._queue: deque[Job] = deque()
        # The one that ran last is the first to run again: its buffer is still in the cache.
        self._free = list(runners)
        self._runners = len(runners)
        # Inline and without a delay, rows wait a few turns of the loop at most: their deadlines are
        # checked when they are taken, and no timer is needed.
        self._may_wait = executor is not None or limits.max_queue_delay_s > 0
        self._is_scheduled = False
        self._is_closed = False
        self._expiry = Alarm(loop, clock)
        self._delay: Timer | None = None
        self.admission = admission or Admission(limits, len(runners))
        # Fewer waiting rows than one full run are admitted without an estimate, if their deadline
        # is far: two comparisons a request.
        self._room = limits.max_batch_size
        self._far_deadline = -math.inf
        self._inflight = inflight or Inflight(_UNBOUNDED)
        self._row_bytes = runners[0].buffer[0].nbytes
        self._running: list[Batch] = []
        self.queued_rows = 0
        self.reserved_rows = 0
        self.dropped_rows = 0
        self.brownout_rows = 0
        self.on_lost: Callable[[], None] = lambda: None

    @property
    def is_idle(self) -> bool:
        """Whether nothing waits and nothing runs."""
        return len(self._free) == self._runners and not self._queue and not self.reserved_rows

    @property
    def is_brownout(self) -> bool:
        """Whether rows are run at the lower precision now."""
        return self.admission.is_brownout and not self.is_idle

    def reserve(self, rows: int, deadline: float = math.inf, decode_s: float = 0.0) -> None:
        """Reserve places for rows that are still being decoded; ``release`` frees them.

        Args:
            rows: How many.
            deadline: When they must have been run.
            decode_s: Expected seconds until their decoding begins.

        Raises:
            QueueFullError: They would wait too long, or miss their deadline.
            NotReadyError: The batcher is closed.
        """
        self.admit(rows, deadline)
        if decode_s:
            left_s = deadline - self._clock()
            self.admission.check_decode(self.reserved_rows, left_s, decode_s)
        self.reserved_rows += rows

    def release(self, rows: int) -> None:
        """Free reserved places."""
        self.reserved_rows -= rows

    def enqueue(self, job: Job) -> None:
        """Queue the rows of one request.

        ``job.done`` is called once, its ``parts`` whole or its ``error`` set; never for a job that
        was cancelled.

        Raises:
            QueueFullError: No memory for its rows, or no time to run them.
            NotReadyError: The batcher is closed.
        """
        rows = job.count
        self.admit(rows, job.deadline)
        inflight, size = self._inflight, rows * self._row_bytes
        if inflight.queued + size > inflight.queue_bytes and inflight.queued:
            self.admission.refuse_memory(inflight.queue_bytes, self.queued_rows)
        inflight.queued += size
        job.accepted_at = self._clock()
        self._queue.append(job)
        self.queued_rows += rows
        if self._free and not self._is_scheduled:
            self._schedule()
        if self._may_wait and job.deadline < self._expiry.at:
            self._expiry.set(job.deadline, self._expire)

    def cancel(self, job: Job) -> None:
        """Drop a job whose client left: its waiting rows never run, no callback is called."""
        job.is_done = True

    def close(self) -> None:
        """Refuse new jobs and fail waiting ones with NotReadyError; what runs finishes."""
        self._is_closed = True
        error = NotReadyError("the model was unloaded; retry")
        self._room = -1
        jobs, self._queue = self._queue, deque()
        self._leave(self.queued_rows)
        for job in jobs:
            self._fail(job, error)
        self._expiry.stop()
        if self._delay is not None:
            self._delay.cancel()

    def admit(self, rows: int, deadline: float = math.inf) -> None:
        """Check that more rows would be run in time.

        Raises:
            QueueFullError: They would wait too long, or miss their deadline.
            NotReadyError: The batcher is closed.
        """
        if self.queued_rows + self.reserved_rows >= self._room or deadline < self._far_deadline:
            self._estimate(rows, deadline)

    def _estimate(self, rows: int, deadline: float) -> None:
        if self._is_closed:
            raise NotReadyError("the model was unloaded; retry")
        waiting = self.queued_rows + self.reserved_rows
        if not waiting and self._free:  # rows that run at once are never refused
            return
        now = self._clock()
        until_free_s = 0.0
        if not self._free:
            until_free_s = min(self.admission.left_s(batch, now) for batch in self._running)
        self.admission.check(waiting, rows, deadline - now, until_free_s)

    def _leave(self, rows: int) -> None:
        """Count rows that no longer wait."""
        self.queued_rows -= rows
        self._inflight.queued -= rows * self._row_bytes

    def _schedule(self) -> None:
        """Run what waits in the next turn of the loop, so that other arrivals of this turn join."""
        self._far_deadline = self._queue[0].accepted_at + self.admission.slack_s
        wait_s = self._limits.max_queue_delay_s
        if wait_s and self.queued_rows < self._limits.max_batch_size:
            left_s = self._queue[0].accepted_at + wait_s - self._clock()
            if left_s > 0:
                if self._delay is None:
                    self._delay = self._loop.call_later(left_s, self._delay_over)
                return
        self._is_scheduled = True
        self._loop.call_soon(self._start_or_wait, self._limits.max_batch_size)

    def _start_or_wait(self, turns: int) -> None:
        """Run what waits, after at most ``turns`` turns in which new connections may join.

        libuv accepts one connection in a turn of the loop: many connections at once would be
        answered one by one, and a run of one row costs about as much as a run of eight. Each turn
        accepts at least one of them, so a full batch takes at most ``max_batch_size`` turns.
        """
        clients = self._newcomers()
        if (
            turns
            and clients != self._known_clients
            and self.queued_rows < self._limits.max_batch_size
        ):
            self._known_clients = clients
            self._loop.call_soon(self._start_or_wait, turns - 1)
        else:
            self._start()

    def _delay_over(self) -> None:
        self._delay = None
        if self._queue and self._free and not self._is_scheduled:
            self._is_scheduled = True
            self._loop.call_soon(self._start)

    def _start(self) -> None:
        """Make a batch of the waiting rows and run it."""
        self._is_scheduled = False
        if not self._free:
            return
        if self._delay is not None:
            self._delay.cancel()
            self._delay = None
        batch = Batch(0, [], self._clock())
        self._far_deadline = batch.started_at + self.admission.slack_s
        if self.admission.choose(self.queued_rows + self.reserved_rows):
            batch.precision = LOWER
        self._take(batch)
        if not batch.rows:
            return
        self.admission.started(batch)
        runner = self._free.pop()
        try:
            images = self._gather(batch, runner)
            if runner.stage is not None and not batch.precision:
                # Before the executor's thread is free: the upload overlaps with the run before it.
                runner.stage(images)
        except Exception as error:  # of the upload, or law 1 was broken: each job gets an answer
            self._free.append(runner)
            what = "putting a batch together failed; this is a bug"
            self._finish(batch, log_failure(error, what))
        else:
            if self._executor is None:
                outcome = self._run_safely(batch, runner, images)
                self._free.append(runner)
                self._finish(batch, outcome)
            else:
                self._running.append(batch)
                self._executor.submit(self._run_on_executor, batch, runner, images)
        if self._queue and self._free and not self._is_scheduled:
            self._schedule()

    def _take(self, batch: Batch) -> None:
        """Move jobs from the queue to a batch, in order; drop expired and cancelled ones.

        A batch stays short enough for the deadlines of its rows: later ones join it, of which those
        that came first knew nothing when they were admitted.
        """
        taken, most = 0, self._limits.max_batch_size
        if self._rows_now:  # a bucket that is full does more rows a second than a padded one
            most = self._rows_now[min(self.queued_rows, most)]
        now = batch.started_at
        near = now + self.admission.full_run_s(batch)
        queue, members = self._queue, batch.jobs
        while queue and taken < most:
            job = queue[0]
            waiting = job.count - job.taken
            if job.is_done or job.deadline <= now:
                queue.popleft()
                self._leave(waiting)
                self._drop(job, waiting)
                continue
            if job.deadline < near:
                in_time = self.admission.rows_within(job.deadline - now, batch)
                if in_time > taken:  # else it is late, whatever is taken
                    most = min(most, in_time)
            count = min(waiting, most - taken)
            members.append((job, job.taken, count))
            # Set now, not after the run: runs may end in another order than they began.
            job.parts.append((batch, taken, count))
            job.taken += count
            taken += count
            self.queued_rows -= count
            if count == waiting:
                queue.popleft()
        batch.rows = taken
        self._inflight.queued -= taken * self._row_bytes

    def _gather(self, batch: Batch, runner: Runner) -> NDArray[np.uint8]:
        job, first, count = batch.jobs[0]
        if len(batch.jobs) == 1 and isinstance(job.rows, np.ndarray):
            return job.rows[first : first + count]
        images: list[NDArray[np.uint8]] = []
        for job, first, count in batch.jobs:
            if job.count == 1:
                images.append(job.rows[0])
            else:
                images.extend(job.rows[first : first + count])
        # One call copies all rows; assigning them one by one takes 0.5 us a row.
        np.concatenate(images, out=runner.lines[: batch.rows * runner.row_lines])
        return runner.buffer[: batch.rows]

    def _run_safely(
        self, batch: Batch, runner: Runner, images: NDArray[np.uint8]
    ) -> Outputs | ServiceError:
        try:
            return self._run_within_memory(runner, images, bool(batch.precision))
        except Exception as error:
            return log_failure(error, f"run of batch {images.shape} failed")

    def _run_within_memory(
        self, runner: Runner, images: NDArray[np.uint8], is_lower: bool
    ) -> Outputs:
        """Run a batch; where memory lacks, once more in two halves."""
        try:
            return runner.run_batch(images, is_lower=is_lower)
        except RunMemoryError as error:
            # A staged batch is on the device already, in memory that was taken at the start.
            if len(images) == 1 or runner.stage is not None:
                raise
            logger.warning("%s; it runs again in two halves", error.message)
        return runner.run_halves(images, is_lower=is_lower)

    def _run_on_executor(self, batch: Batch, runner: Runner, images: NDArray[np.uint8]) -> None:
        outcome = self._run_safely(batch, runner, images)
        self._loop.call_soon_threadsafe(self._finish_on_loop, batch, runner, outcome)

    def _finish_on_loop(
        self, batch: Batch, runner: Runner, outcome: Outputs | ServiceError
    ) -> None:
        run_s = self._clock() - batch.started_at
        self._free.append(runner)
        self._running.remove(batch)
        if self._queue and not self._is_scheduled:
            if self._limits.max_queue_delay_s:
                self._schedule()
            else:
                self._start()  # first, so that the runner is busy while the answers are written
        self._finish(batch, outcome, run_s)

    def _finish(
        self, batch: Batch, outcome: Outputs | ServiceError, run_s: float | None = None
    ) -> None:
        batch.run_s = self._clock() - batch.started_at if run_s is None else run_s
        is_running = len(self._free) < self._runners
        self.admission.ended(batch, is_running=is_running)
        if isinstance(outcome, ServiceError):
            error = answer_to(outcome)
            for job, _, _ in batch.jobs:
                self._fail(job, error)
            batch.jobs = []
            if error is LOST:
                self.on_lost()
            return
        batch.outputs = outcome
        batch.not_finite = not_finite(outcome.probabilities)
        self.admission.learn(batch)
        if batch.precision:
            self.brownout_rows += batch.rows
        if self._observe is not None:
            try:
                self._observe(batch)
            except Exception:
                logger.exception("observing a batch failed; this is a bug")
        with self._answering:
            for job, _, count in batch.jobs:
                job.left -= count
                if not job.left and not job.is_done:
                    self._done(job)
        batch.jobs = []

    def _fail(self, job: Job, error: ServiceError) -> None:
        if not job.is_done:
            job.error = error
            self._done(job)

    def _done(self, job: Job) -> None:
        job.is_done = True
        try:
            job.done()
        except Exception:
            logger.exception("answering a job failed; this is a bug")

    def _drop(self, job: Job, rows: int) -> None:
        self.dropped_rows += rows
        self._fail(job, DeadlineError("the request's deadline passed while it waited; retry later"))

    def _expire(self) -> None:
        """Fail the jobs whose deadline passed while all runners are busy."""
        now = self._clock()
        expired = [job for job in self._queue if job.deadline <= now or job.is_done]
        self._queue = deque(job for job in self._queue if job.deadline > now and not job.is_done)
        for job in expired:
            waiting = job.count - job.taken
            self._leave(waiting)
            self._drop(job, waiting)
        if self._queue:
            self._expiry.set(min(job.deadline for job in self._queue), self._expire)
