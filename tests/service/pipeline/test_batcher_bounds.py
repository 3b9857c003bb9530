"""The batcher at its bounds: deadlines, timers, the end. Laws 4, 6 and 8."""

from typing import Any

import pytest

from service.errors import DeadlineError, InferenceError, NotReadyError
from tests.service.pipeline.callback_job import submit
from tests.service.pipeline.simulator import ROW_SHAPE, RUNNERS, row, world

# Law 4: deadlines


def test_deadline_that_passes_while_waiting_is_answered_on_time() -> None:
    """The runner is held by another run; the client is told at its deadline, not after the run."""
    w = world(1)
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


@RUNNERS
def test_deadline_shorter_than_the_delay_is_answered_on_time(threads: int) -> None:
    w = world(threads, delay_s=10)
    late = w.submit(timeout_s=1)
    w.loop.advance(1.5)
    w.assert_failed(late, DeadlineError)


@RUNNERS
def test_row_past_its_deadline_is_not_run(threads: int) -> None:
    w = world(threads)
    late, well = w.submit(timeout_s=0), w.submit()
    w.run_all()
    w.assert_failed(late, DeadlineError)
    w.assert_answered(well)
    assert w.runs == [[1]]


def test_earlier_deadline_of_a_later_request_is_kept() -> None:
    w = world(1)
    w.submit()
    w.loop.settle()
    patient, hasty = w.submit(timeout_s=20), w.submit(timeout_s=1)
    w.loop.advance(1.1)
    w.assert_failed(hasty, DeadlineError)
    w.run_all()
    w.assert_answered(patient)


# Law 6: no polling, one timer at most


@RUNNERS
def test_many_requests_leave_one_timer_at_most(threads: int) -> None:
    w = world(threads, batch=4)
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


@RUNNERS
def test_idle_batcher_has_no_callbacks(threads: int) -> None:
    w = world(threads)
    w.submit()
    w.run_all()
    w.loop.settle()
    assert not w.loop.timers


# Law 8: whatever happens, every accepted job is done


@RUNNERS
def test_close_answers_what_waits(threads: int) -> None:
    w = world(threads, batch=2)
    jobs = [w.submit() for _ in range(5)]
    if threads:
        w.loop.settle()
    w.batcher.close()
    running = jobs[: 2 * threads]
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
    w = world(1, batch=2)
    job = w.submit(5)
    w.loop.settle()
    w.batcher.close()
    w.assert_failed(job, NotReadyError)
    w.run_all()
    assert w.done == [job]


@RUNNERS
def test_observer_that_raises_leaves_nobody_waiting(threads: int) -> None:
    w = world(threads)

    def burst(_batch: Any) -> None:
        raise RuntimeError("a bug in the metrics")

    w.batcher._observe = burst  # as the constructor would set it
    job = w.submit()
    w.run_all()
    w.assert_answered(job)


@RUNNERS
def test_row_of_another_shape_leaves_nobody_waiting(threads: int) -> None:
    """Law 1 is the callers' to keep; should one break it, its neighbours still get an answer."""
    w = world(threads)
    well = w.submit()
    poison = submit(w.batcher, [row(1).repeat(2)], w.loop.now + 30, w.done.append)
    w.run_all()
    assert sorted(map(id, w.done)) == sorted(map(id, (well, poison)))
    assert isinstance(poison.error, InferenceError)
    after = w.submit()
    w.run_all()
    w.assert_answered(after)


def test_row_shape_is_the_simulators() -> None:
    assert row(0x01020304).shape == ROW_SHAPE
    assert row(0x01020304).ravel().tolist() == [1, 2, 3, 4]
