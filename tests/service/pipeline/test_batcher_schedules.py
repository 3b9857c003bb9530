"""The batcher's laws under every schedule that hypothesis finds."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from service.errors import DeadlineError, InferenceError, NotReadyError, QueueFullError
from service.pipeline.job import Batch, Job
from service.pipeline.limits import BatchLimits
from tests.service.pipeline.simulator import FAILURE, World


@dataclass
class Known:
    """What the model of the queue knows of an accepted job."""

    job: Job
    rows: int
    deadline: float
    is_cancelled: bool = False
    is_excused: bool = False  # cancelled by another's answer, maybe while its batch was made
    calls: int = 0


ROWS = st.sampled_from([1, 1, 1, 2, 3, 7])
SECONDS = st.sampled_from([0.0, 0.1, 0.5, 1.0, 2.0, 30.0, 30.0, 30.0])
SUBMIT = st.tuples(
    st.just("submit"),
    ROWS,
    SECONDS,
    st.booleans(),
    st.sampled_from(["", "", "", "submit", "cancel", "raise"]),
)
FINISH = st.tuples(st.just("finish"), st.integers(0, 2), st.booleans())
OTHER = st.one_of(
    st.tuples(st.just("cancel"), st.integers(0, 30)),
    st.tuples(st.just("turn")),
    st.tuples(st.just("come")),
    st.tuples(st.just("advance"), SECONDS),
    st.tuples(st.just("reserve"), ROWS),
    st.tuples(st.just("release")),
)
# Most schedules are long, most events bring rows, and few schedules are closed before their end.
EVENTS = st.builds(
    lambda busy, last: [*busy, *last],
    st.lists(st.one_of(SUBMIT, SUBMIT, FINISH, OTHER), min_size=8, max_size=40),
    st.lists(st.one_of(st.tuples(st.just("close")), SUBMIT, OTHER), max_size=3),
)
LIMITS = st.builds(
    BatchLimits,
    max_batch_size=st.integers(1, 5),
    max_wait_s=st.sampled_from([0.0, 0.5, 3.0, 1000.0]),
    max_queue_delay_s=st.sampled_from([0.0, 0.0, 0.3]),
)


THREADS = st.integers(0, 3)


class Schedule:
    """Plays events into a batcher and holds every law after each of them."""

    def __init__(self, limits: BatchLimits, threads: int) -> None:
        self.w = World(limits, threads)
        self.taken: list[int] = []  # numbers of the rows that were handed to the executor
        self.batches: list[Batch] = []  # that were handed to the executor
        # What these find is kept: the batcher, rightly, survives whatever its callbacks raise.
        self.broken: list[AssertionError] = []
        self.w.on_run = self.keeping(self.check_run)
        if self.w.executor is not None:
            self.w.executor.on_submit = self.keeping(self.check_members)
        self.known: list[Known] = []
        self.reserved: list[int] = []
        self.is_closed = False
        self.started_at = self.w.loop.now

    def keeping(self, check: Callable[[Any], None]) -> Callable[[Any], None]:
        def keep(argument: Any) -> None:
            try:
                check(argument)
            except AssertionError as error:
                self.broken.append(error)

        return keep

    def submit(self, rows: int, timeout_s: float, is_array: bool, then: str) -> None:
        w, batcher = self.w, self.w.batcher
        waiting = batcher.queued_rows + batcher.reserved_rows
        known: list[Known] = []

        def check(job: Job) -> None:
            mine = known[0]
            assert mine.job is job
            mine.calls += 1
            assert mine.calls == 1, "done twice"
            assert not mine.is_cancelled, "the client left; nobody is to be told"
            self.check_outcome(mine)

        def on_done(job: Job) -> None:
            self.keeping(check)(job)
            if then == "submit" and len(self.known) < 60:
                self.submit(rows, timeout_s, is_array, "")
            elif then == "cancel":
                self.cancel(len(self.known) // 2, is_excused=True)
            elif then == "raise":
                raise RuntimeError("a bug in a protocol")

        try:
            job = w.submit(rows, timeout_s, is_array=is_array, then=on_done)
        except QueueFullError as error:
            if not self.may_wait_long(waiting):
                assert self.may_be_late(waiting + rows, timeout_s), (
                    "refused although there was room"
                )
            assert error.retry_after_s >= 1
            return
        except NotReadyError:
            assert self.is_closed
            return
        assert not self.is_closed
        known.append(Known(job, rows, w.loop.now + timeout_s))
        self.known.append(known[0])

    def may_be_late(self, rows: int, timeout_s: float) -> bool:
        """Whether rows could miss their deadline if every run was as slow a row as the slowest.

        One that is out and late is expected to take as long again.
        """
        seen = [batch.run_s / batch.rows for batch in self.batches if batch.outputs is not None]
        out = [self.w.loop.now - batch.started_at for batch in self.batches if not batch.run_s]
        full = self.w.limits.max_batch_size
        runs_before = -(-rows // full) + 1  # and the one that is out
        run_s = max(seen, default=0.0) * full
        return timeout_s * 0.8 < run_s * runs_before + max(out, default=0.0)

    def may_wait_long(self, waiting: int) -> bool:
        """Whether rows could wait too long if every run was as slow a row as the slowest."""
        seen = [batch.run_s / batch.rows for batch in self.batches if batch.outputs is not None]
        out = [self.w.loop.now - batch.started_at for batch in self.batches if not batch.run_s]
        full = self.w.limits.max_batch_size
        run_s = max(seen, default=0.0) * full
        return waiting >= full and (
            self.w.limits.max_wait_s < run_s * (1 + waiting // full) + max(out, default=0.0)
        )

    def cancel(self, index: int, *, is_excused: bool = False) -> None:
        if self.known:
            mine = self.known[index % len(self.known)]
            if not mine.calls:
                mine.is_cancelled = True
                mine.is_excused = is_excused
            self.w.batcher.cancel(mine.job)

    def reserve(self, rows: int) -> None:
        try:
            self.w.batcher.reserve(rows)
        except (QueueFullError, NotReadyError):
            return
        self.reserved.append(rows)

    def finish(self, which: int, is_failing: bool) -> None:
        w = self.w
        if is_failing:
            w.failures = [FAILURE]
        if w.executor is not None and w.executor.is_busy:
            w.executor.finish(which)

    def play(self, events: list[Any]) -> None:
        loop = self.w.loop
        for name, *arguments in events:
            match name:
                case "turn":
                    loop.turn()
                case "come":
                    self.w.clients += 1
                case "advance":
                    loop.advance(*arguments)
                    self.check_settled()
                case "release":
                    if self.reserved:
                        self.w.batcher.release(self.reserved.pop())
                case "close":
                    self.is_closed = True
                    self.w.batcher.close()
                case _:
                    getattr(self, name)(*arguments)
            self.check_always()
        while self.reserved:
            self.w.batcher.release(self.reserved.pop())
        self.w.failures.clear()
        self.come_to_rest()

    def come_to_rest(self) -> None:
        """All runs finish; no time passes that the queue does not ask for."""
        w = self.w
        for _ in range(200):
            w.loop.settle()
            self.check_settled()
            if w.executor is not None and w.executor.is_busy:
                w.executor.finish()
            elif w.batcher.is_idle:
                break
            else:
                w.loop.advance(min(t.at for t in w.loop.timers) - w.loop.now)
        assert w.batcher.is_idle
        assert w.batcher.queued_rows == 0
        assert len(w.loop.timers) <= 1
        w.run_all()
        self.check_always()
        for mine in self.known:
            assert mine.calls == (not mine.is_cancelled), "an accepted job was left without answer"
        assert w.batcher.queued_rows == w.batcher.reserved_rows == 0
        ran = sum(map(len, w.runs))
        assert ran + w.batcher.dropped_rows <= sum(mine.rows for mine in self.known)

    def check_run(self, numbers: list[int]) -> None:
        """Called as a run begins to read its rows."""
        assert 1 <= len(numbers) <= self.w.limits.max_batch_size
        flat = [number for run in self.w.runs for number in run]
        assert len(flat) == len(set(flat)), "rows ran twice"
        if self.w.executor is None:
            assert flat == sorted(flat), "rows did not run in the order of arrival"
            for mine in self.known:
                if set(numbers) & set(self.w.numbers[id(mine.job)]):
                    self.check_alive(mine)

    def check_members(self, batch: Batch) -> None:
        """Called as the loop hands a batch to the executor, some time before it is read."""
        self.batches.append(batch)
        for job, first, count in batch.jobs:
            self.check_alive(next(mine for mine in self.known if mine.job is job))
            self.taken += self.w.numbers[id(job)][first : first + count]
        assert self.taken == sorted(set(self.taken)), "rows were not taken in the order of arrival"

    def check_alive(self, mine: Known) -> None:
        assert not mine.is_cancelled or mine.is_excused, "a row was run whose client had left"
        assert mine.deadline > self.w.loop.now, "a row was run past its deadline"

    def check_outcome(self, mine: Known) -> None:
        w, error = self.w, mine.job.error
        numbers = self.w.numbers[id(mine.job)]
        match error:
            case None:
                assert w.answer(mine.job) == list(numbers), "an answer is another row's"
            case DeadlineError():
                assert w.loop.now >= mine.deadline
            case InferenceError():
                assert w.failed_numbers & set(numbers), "failed although its run did not"
            case NotReadyError():
                assert self.is_closed
            case _:
                raise AssertionError(f"unexpected {error!r}")

    def check_always(self) -> None:
        batcher = self.w.batcher
        for error in self.broken:
            raise error
        assert batcher.queued_rows >= 0
        assert self.w.inflight.queued == 4 * batcher.queued_rows
        assert len(self.w.loop.timers) <= 2  # the next deadline, the end of the delay

    def check_settled(self) -> None:
        """Once a turn is over: no runner is idle while rows wait, nobody waits past a deadline."""
        w = self.w
        waiting = [mine for mine in self.known if not mine.calls and not mine.is_cancelled]
        for mine in waiting:
            rest = mine.rows - mine.job.taken
            assert not rest or mine.deadline > w.loop.now, "a deadline passed in silence"
        is_full = w.executor is not None and w.executor.is_full
        if is_full or (
            w.limits.max_queue_delay_s and w.batcher.queued_rows < w.limits.max_batch_size
        ):
            return
        untaken = [mine for mine in waiting if mine.job.taken < mine.rows]
        assert not untaken, "a runner is free and rows wait"
        if w.executor is None or not w.executor.is_busy:
            assert not waiting, "nothing runs, and somebody waits"


def play(limits: BatchLimits, threads: int, events: list[Any]) -> None:
    logging.disable(logging.CRITICAL)
    try:
        Schedule(limits, threads).play(events)
    finally:
        logging.disable(logging.NOTSET)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(LIMITS, THREADS, EVENTS)
def test_laws_under_any_schedule(limits: BatchLimits, threads: int, events: list[Any]) -> None:
    play(limits, threads, events)


@pytest.mark.thorough
@settings(max_examples=1_000, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(LIMITS, THREADS, EVENTS)
def test_laws_under_many_schedules(limits: BatchLimits, threads: int, events: list[Any]) -> None:
    play(limits, threads, events)


@pytest.mark.slow
@settings(max_examples=10_000, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(LIMITS, THREADS, EVENTS)
def test_laws_under_very_many_schedules(
    limits: BatchLimits, threads: int, events: list[Any]
) -> None:
    play(limits, threads, events)
