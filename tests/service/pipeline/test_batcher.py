"""The batcher's laws, one by one and under every schedule that hypothesis finds."""

import logging
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from service.errors import DeadlineError, InferenceError, NotReadyError, QueueFullError
from service.pipeline.job import BatchLimits, Job
from tests.service.pipeline.simulator import FAILURE, ROW_SHAPE, World, row

THREADED = pytest.mark.parametrize("is_threaded", [False, True], ids=["loop", "thread"])


def world(is_threaded: bool, batch: int = 4, queue: int = 100, delay_s: float = 0.0) -> World:
    return World(BatchLimits(batch, queue, delay_s), is_threaded=is_threaded)


# Work conserving


@THREADED
def test_lone_row_runs_at_once(is_threaded: bool) -> None:
    w = world(is_threaded)
    job = w.submit()
    w.loop.turn()
    assert w.batcher.queued_rows == 0
    if w.executor is not None:
        assert w.executor.is_busy
        w.finish_run()
    w.assert_answered(job)
    assert w.runs == [[0]]


@THREADED
def test_arrivals_of_one_turn_share_a_run(is_threaded: bool) -> None:
    w = world(is_threaded)
    jobs = [w.submit() for _ in range(3)]
    w.run_all()
    assert w.runs == [[0, 1, 2]]
    for job in jobs:
        w.assert_answered(job)


def test_what_arrives_during_a_run_is_the_next_batch() -> None:
    w = world(True)
    w.submit()
    w.loop.settle()
    later = [w.submit() for _ in range(6)]
    w.finish_run()
    assert w.executor is not None
    assert w.executor.is_busy, "the runner must not wait while rows do"
    w.run_all()
    assert w.runs == [[0], [1, 2, 3, 4], [5, 6]]
    for job in later:
        w.assert_answered(job)


def test_next_run_starts_before_the_answers_go_out() -> None:
    w = world(True)
    seen: list[bool] = []
    assert w.executor is not None
    executor = w.executor
    w.submit(then=lambda _job: seen.append(executor.is_busy))
    w.loop.settle()
    w.submit()
    w.finish_run()
    assert seen == [True]


@THREADED
def test_rows_of_a_large_request_run_in_several_batches(is_threaded: bool) -> None:
    w = world(is_threaded, batch=4)
    jobs = [w.submit(1), w.submit(10), w.submit(2)]
    w.run_all()
    assert [len(numbers) for numbers in w.runs] == [4, 4, 4, 1]
    for job in jobs:
        w.assert_answered(job)
    assert len(jobs[1].parts) == 3


@THREADED
@pytest.mark.parametrize("rows", [1, 3, 4, 9])
def test_rows_as_one_array(is_threaded: bool, rows: int) -> None:
    w = world(is_threaded, batch=4)
    jobs = [w.submit(rows, is_array=True), w.submit(2), w.submit(rows, is_array=True)]
    w.run_all()
    for job in jobs:
        w.assert_answered(job)


@THREADED
def test_delay_waits_for_company(is_threaded: bool) -> None:
    w = world(is_threaded, delay_s=0.5)
    w.submit()
    w.loop.advance(0.4)
    assert not w.runs
    assert w.batcher.queued_rows == 1
    w.submit()
    w.loop.advance(0.2)
    if w.executor is not None:
        w.finish_run()
    assert w.runs == [[0, 1]]


@THREADED
def test_delay_ends_when_a_batch_is_full(is_threaded: bool) -> None:
    w = world(is_threaded, batch=4, delay_s=0.5)
    w.submit(3)
    w.loop.settle()
    w.submit(1)
    w.loop.settle()
    if w.executor is not None:
        w.finish_run()
    assert w.runs == [[0, 1, 2, 3]]
    w.run_all()
    assert not w.loop.timers


@THREADED
def test_delay_counts_from_the_first_row(is_threaded: bool) -> None:
    w = world(is_threaded, batch=4, delay_s=0.5)
    for _ in range(3):
        w.submit()
        w.loop.advance(0.25)
    if w.executor is not None:
        w.finish_run()
    assert w.runs[0][:2] == [0, 1]


# Law 2: a failed run gives each member the same error, and the queue lives on


@THREADED
@pytest.mark.parametrize("error", [FAILURE, ValueError("secret /path"), MemoryError()])
def test_failed_run(is_threaded: bool, error: Exception) -> None:
    w = world(is_threaded)
    w.failures = [error]
    failed = [w.submit(), w.submit(2)]
    w.run_all()
    for job in failed:
        w.assert_failed(job, InferenceError)
    assert failed[0].error is failed[1].error
    assert "secret" not in str(failed[0].error)
    well = w.submit()
    w.run_all()
    w.assert_answered(well)


@THREADED
def test_failed_run_is_logged_with_its_reason(
    is_threaded: bool, caplog: pytest.LogCaptureFixture
) -> None:
    w = world(is_threaded)
    w.failures = [ValueError("the very reason")]
    w.submit()
    w.run_all()
    assert "the very reason" in caplog.text


@THREADED
def test_rest_of_a_request_is_not_run_once_a_part_failed(is_threaded: bool) -> None:
    w = world(is_threaded, batch=4)
    w.failures = [FAILURE]
    failed, well = w.submit(11), w.submit(1)
    w.run_all()
    w.assert_failed(failed, InferenceError)
    w.assert_answered(well)
    assert max(number for numbers in w.runs for number in numbers if number < 11) < 8
    assert w.batcher.queued_rows == 0


# Law 3: a job is done once


@THREADED
def test_cancelled_job_is_never_done(is_threaded: bool) -> None:
    w = world(is_threaded)
    gone, well = w.submit(), w.submit()
    w.batcher.cancel(gone)
    w.run_all()
    assert w.done == [well]
    assert w.runs == [[1]], "the row of a client that left was run"
    assert w.batcher.dropped_rows == 1


def test_job_cancelled_during_its_run_is_never_done() -> None:
    w = world(True)
    gone, well = w.submit(), w.submit()
    w.loop.settle()
    w.batcher.cancel(gone)
    w.run_all()
    assert w.done == [well]
    w.assert_answered(well)


@THREADED
def test_cancel_after_done_changes_nothing(is_threaded: bool) -> None:
    w = world(is_threaded)
    job = w.submit()
    w.run_all()
    w.batcher.cancel(job)
    w.run_all()
    w.assert_answered(job)


@THREADED
def test_answer_that_raises_does_not_take_its_neighbours_along(
    is_threaded: bool, caplog: pytest.LogCaptureFixture
) -> None:
    w = world(is_threaded)

    def burst(_job: Job) -> None:
        raise RuntimeError("a bug in a protocol")

    w.submit(then=burst)
    well = w.submit()
    w.run_all()
    w.assert_answered(well)
    assert "this is a bug" in caplog.text


@THREADED
def test_answer_may_submit_again(is_threaded: bool) -> None:
    w = world(is_threaded)
    second: list[Job] = []
    w.submit(then=lambda _job: second.append(w.submit()))
    w.run_all()
    w.assert_answered(second[0])


@THREADED
def test_answer_may_cancel_a_neighbour_of_its_batch(is_threaded: bool) -> None:
    w = world(is_threaded)
    jobs: list[Job] = []
    jobs.append(w.submit(then=lambda _job: w.batcher.cancel(jobs[1])))
    jobs.append(w.submit())
    w.run_all()
    assert w.done == jobs[:1]


# Law 4: deadlines


def test_deadline_that_passes_while_waiting_is_answered_on_time() -> None:
    """The runner is held by another run; the client is told at its deadline, not after the run."""
    w = world(True)
    w.submit()
    w.loop.settle()
    late, other = w.submit(timeout_s=2), w.submit(timeout_s=5)
    w.loop.advance(1.9)
    assert not w.done
    w.loop.advance(0.2)
    w.assert_failed(late, DeadlineError)
    assert w.batcher.queued_rows == 1
    w.run_all()
    w.assert_answered(other)
    assert w.batcher.dropped_rows == 1
    assert w.runs == [[0], [2]], "a row past its deadline was run"


@THREADED
def test_deadline_shorter_than_the_delay_is_answered_on_time(is_threaded: bool) -> None:
    w = world(is_threaded, delay_s=10)
    late = w.submit(timeout_s=1)
    w.loop.advance(1.5)
    w.assert_failed(late, DeadlineError)


@THREADED
def test_row_past_its_deadline_is_not_run(is_threaded: bool) -> None:
    w = world(is_threaded)
    late, well = w.submit(timeout_s=0), w.submit()
    w.run_all()
    w.assert_failed(late, DeadlineError)
    w.assert_answered(well)
    assert w.runs == [[1]]


def test_earlier_deadline_of_a_later_request_is_kept() -> None:
    w = world(True)
    w.submit()
    w.loop.settle()
    patient, hasty = w.submit(timeout_s=20), w.submit(timeout_s=1)
    w.loop.advance(1.1)
    w.assert_failed(hasty, DeadlineError)
    w.run_all()
    w.assert_answered(patient)


# Law 5: bounded, refuses at the door


@THREADED
def test_full_queue_refuses(is_threaded: bool) -> None:
    w = world(is_threaded, queue=5)
    w.submit(3)
    with pytest.raises(QueueFullError, match="3 of 5 rows waiting.*FOVEAL_MAX_QUEUE_ROWS"):
        w.submit(3)
    w.submit(2)
    with pytest.raises(QueueFullError, match="5 of 5 rows waiting"):
        w.submit(1)
    w.run_all()
    w.submit(5)


def test_rows_that_run_no_longer_wait() -> None:
    w = world(True, batch=4, queue=5)
    w.submit(5)
    w.loop.settle()
    assert w.batcher.queued_rows == 1
    w.submit(4)
    with pytest.raises(QueueFullError):
        w.submit(1)


@THREADED
def test_reserved_places_count(is_threaded: bool) -> None:
    w = world(is_threaded, queue=5)
    w.batcher.reserve(4)
    assert not w.batcher.is_idle
    with pytest.raises(QueueFullError, match="4 of 5"):
        w.submit(2)
    w.submit(1)
    with pytest.raises(QueueFullError):
        w.batcher.reserve(1)
    w.run_all()
    w.batcher.release(4)
    assert w.batcher.is_idle
    w.submit(5)


def test_retry_after_is_the_time_that_the_queue_takes() -> None:
    w = world(True, batch=4, queue=40)
    w.submit(4)
    w.loop.settle()
    w.loop.advance(2)  # 2 rows a second
    w.finish_run()
    w.submit(40)
    with pytest.raises(QueueFullError) as refused:
        w.submit(1)
    assert refused.value.retry_after_s == 20
    assert refused.value.headers == ((b"retry-after", b"20"),)


@pytest.mark.parametrize("has_run", [False, True])
def test_retry_after_is_at_least_a_second(has_run: bool) -> None:
    w = world(True, batch=4, queue=4)
    if has_run:
        w.submit(4)
        w.loop.settle()
        w.loop.advance(0.001)
        w.finish_run()
    with pytest.raises(QueueFullError) as refused:
        w.submit(5)
    assert refused.value.retry_after_s == 1


# Law 6: no polling, one timer at most


@THREADED
def test_many_requests_leave_one_timer_at_most(is_threaded: bool) -> None:
    w = world(is_threaded, batch=4)
    for i in range(200):
        w.submit(timeout_s=30 + i % 7)
        w.loop.turn()
        if w.executor is not None and w.executor.is_busy and i % 3 == 0:
            w.executor.finish()
        assert len(w.loop.timers) <= 1
    while w.executor is not None and w.executor.is_busy:
        w.finish_run()
    assert w.batcher.is_idle
    assert len(w.loop.timers) <= 1
    w.loop.advance(100)
    assert not w.loop.timers, "a timer that winds itself up again is polling"


@THREADED
def test_idle_batcher_has_no_callbacks(is_threaded: bool) -> None:
    w = world(is_threaded)
    w.submit()
    w.run_all()
    w.loop.settle()
    assert not w.loop.timers


# Law 8: whatever happens, every accepted job is done


@THREADED
def test_close_answers_what_waits(is_threaded: bool) -> None:
    w = world(is_threaded, batch=2)
    jobs = [w.submit() for _ in range(5)]
    if is_threaded:
        w.loop.settle()
    w.batcher.close()
    running = jobs[:2] if is_threaded else []
    for job in jobs[len(running) :]:
        w.assert_failed(job, NotReadyError)
    w.run_all()
    for job in running:
        w.assert_answered(job)
    assert w.batcher.is_idle
    assert not w.loop.timers
    with pytest.raises(NotReadyError):
        w.submit()
    with pytest.raises(NotReadyError):
        w.batcher.reserve(1)


def test_close_amid_a_request_of_several_batches() -> None:
    w = world(True, batch=2)
    job = w.submit(5)
    w.loop.settle()
    w.batcher.close()
    w.assert_failed(job, NotReadyError)
    w.run_all()
    assert w.done == [job]


@THREADED
def test_observer_that_raises_leaves_nobody_waiting(is_threaded: bool) -> None:
    w = world(is_threaded)

    def burst(_batch: Any) -> None:
        raise RuntimeError("a bug in the metrics")

    w.batcher._observe = burst  # as the constructor would set it
    job = w.submit()
    w.run_all()
    w.assert_answered(job)


@THREADED
def test_row_of_another_shape_leaves_nobody_waiting(is_threaded: bool) -> None:
    """Law 1 is the callers' to keep; should one break it, its neighbours still get an answer."""
    w = world(is_threaded)
    well = w.submit()
    poison = w.batcher.submit([row(1).repeat(2)], w.loop.now + 30, w.done.append)
    w.run_all()
    assert sorted(map(id, w.done)) == sorted(map(id, (well, poison)))
    assert isinstance(poison.error, InferenceError)
    after = w.submit()
    w.run_all()
    w.assert_answered(after)


def test_row_shape_is_the_simulators() -> None:
    assert row(0x01020304).shape == ROW_SHAPE
    assert row(0x01020304).ravel().tolist() == [1, 2, 3, 4]


# Every schedule


@dataclass
class Known:
    """What the model of the queue knows of an accepted job."""

    job: Job
    rows: int
    deadline: float
    is_cancelled: bool = False
    calls: int = 0


ROWS = st.integers(1, 7)
SECONDS = st.sampled_from([0.0, 0.1, 0.5, 1.0, 2.0, 30.0])
EVENTS = st.lists(
    st.one_of(
        st.tuples(
            st.just("submit"), ROWS, SECONDS, st.booleans(),
            st.sampled_from(["", "", "", "submit", "cancel", "raise"]),
        ),
        st.tuples(st.just("cancel"), st.integers(0, 30)),
        st.tuples(st.just("turn")),
        st.tuples(st.just("advance"), SECONDS),
        st.tuples(st.just("finish"), st.sampled_from([False, False, True])),
        st.tuples(st.just("reserve"), ROWS),
        st.tuples(st.just("release")),
        st.tuples(st.just("close")),
    ),
    max_size=40,
)  # fmt: skip
LIMITS = st.builds(
    BatchLimits,
    max_batch_size=st.integers(1, 5),
    max_queue_rows=st.integers(1, 16),
    max_queue_delay_s=st.sampled_from([0.0, 0.0, 0.3]),
)


class Schedule:
    """Plays events into a batcher and holds every law after each of them."""

    def __init__(self, limits: BatchLimits, is_threaded: bool) -> None:
        self.w = World(limits, is_threaded=is_threaded)
        self.w.on_run = self.check_run
        self.known: list[Known] = []
        self.reserved: list[int] = []
        self.is_closed = False
        self.started_at = self.w.loop.now

    def submit(self, rows: int, timeout_s: float, is_array: bool, then: str) -> None:
        w, batcher = self.w, self.w.batcher
        waiting = batcher.queued_rows + batcher.reserved_rows
        known: list[Known] = []

        def on_done(job: Job) -> None:
            mine = known[0]
            assert mine.job is job
            mine.calls += 1
            assert mine.calls == 1, "done twice"
            assert not mine.is_cancelled, "the client left; nobody is to be told"
            self.check_outcome(mine)
            if then == "submit" and len(self.known) < 60:
                self.submit(rows, timeout_s, is_array, "")
            elif then == "cancel":
                self.cancel(len(self.known) // 2)
            elif then == "raise":
                raise RuntimeError("a bug in a protocol")

        try:
            job = w.submit(rows, timeout_s, is_array=is_array, then=on_done)
        except QueueFullError as error:
            assert waiting + rows > w.limits.max_queue_rows, "refused although there was room"
            assert error.retry_after_s >= 1
            return
        except NotReadyError:
            assert self.is_closed
            return
        assert not self.is_closed
        assert waiting + rows <= w.limits.max_queue_rows, "the bound was passed"
        known.append(Known(job, rows, w.loop.now + timeout_s))
        self.known.append(known[0])

    def cancel(self, index: int) -> None:
        if self.known:
            mine = self.known[index % len(self.known)]
            if not mine.calls:
                mine.is_cancelled = True
            self.w.batcher.cancel(mine.job)

    def reserve(self, rows: int) -> None:
        try:
            self.w.batcher.reserve(rows)
        except (QueueFullError, NotReadyError):
            return
        self.reserved.append(rows)

    def finish(self, is_failing: bool) -> None:
        w = self.w
        if is_failing:
            w.failures = [FAILURE]
        if w.executor is not None and w.executor.is_busy:
            w.executor.finish()

    def play(self, events: list[Any]) -> None:
        loop = self.w.loop
        for name, *arguments in events:
            match name:
                case "turn":
                    loop.turn()
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
        for mine in self.known:
            assert mine.calls == (not mine.is_cancelled), "an accepted job was left without answer"
        assert w.batcher.queued_rows == w.batcher.reserved_rows == 0
        ran = sum(map(len, w.runs))
        assert ran + w.batcher.dropped_rows <= sum(mine.rows for mine in self.known)

    def check_run(self, numbers: list[int]) -> None:
        """Called as a run begins to read its rows."""
        assert 1 <= len(numbers) <= self.w.limits.max_batch_size
        flat = [number for run in self.w.runs for number in run]
        assert flat == sorted(set(flat)), "rows ran twice, or not in the order of arrival"
        if self.w.executor is None:
            for mine in self.known:
                if set(numbers) & set(self.w.numbers[id(mine.job)]):
                    assert not mine.is_cancelled, "a row was run whose client had left"
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
        batcher, limits = self.w.batcher, self.w.limits
        assert batcher.queued_rows >= 0
        assert batcher.queued_rows + batcher.reserved_rows <= limits.max_queue_rows
        assert len(self.w.loop.timers) <= 2  # the next deadline, the end of the delay

    def check_settled(self) -> None:
        """Once a turn is over: no runner is idle while rows wait, nobody waits past a deadline."""
        w = self.w
        waiting = [mine for mine in self.known if not mine.calls and not mine.is_cancelled]
        for mine in waiting:
            untaken = mine.rows - mine.job.taken
            assert not untaken or mine.deadline > w.loop.now, "a deadline passed in silence"
        is_running = w.executor is not None and w.executor.is_busy
        if not w.limits.max_queue_delay_s and not is_running:
            assert not waiting, "the runner is free and rows wait"


def play(limits: BatchLimits, is_threaded: bool, events: list[Any]) -> None:
    logging.disable(logging.CRITICAL)
    try:
        Schedule(limits, is_threaded).play(events)
    finally:
        logging.disable(logging.NOTSET)


@settings(max_examples=1_000, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(LIMITS, st.booleans(), EVENTS)
def test_laws_under_any_schedule(limits: BatchLimits, is_threaded: bool, events: list[Any]) -> None:
    play(limits, is_threaded, events)


@pytest.mark.slow
@settings(max_examples=10_000, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(LIMITS, st.booleans(), EVENTS)
def test_laws_under_very_many_schedules(
    limits: BatchLimits, is_threaded: bool, events: list[Any]
) -> None:
    play(limits, is_threaded, events)
