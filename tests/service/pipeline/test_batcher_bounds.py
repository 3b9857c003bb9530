"""The batcher at its bounds: deadlines, a full queue, timers, the end. Laws 4 to 8."""

from typing import Any

import pytest

from service.errors import DeadlineError, InferenceError, NotReadyError, QueueFullError
from tests.service.pipeline.callback_job import submit
from tests.service.pipeline.simulator import ROW_SHAPE, RUNNERS, World, row, world

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


# Law 5: bounded, refuses at the door


@RUNNERS
def test_full_queue_refuses(threads: int) -> None:
    w = world(threads, queue=5)
    w.submit(3)
    with pytest.raises(QueueFullError, match=r"3 of 5 rows waiting.*FOVEAL_MAX_QUEUE_ROWS"):
        w.submit(3)
    w.submit(2)
    with pytest.raises(QueueFullError, match="5 of 5 rows waiting"):
        w.submit(1)
    w.run_all()
    w.submit(5)


def test_rows_that_run_no_longer_wait() -> None:
    w = world(1, batch=4, queue=5)
    w.submit(5)
    w.loop.settle()
    assert w.batcher.queued_rows == 1
    w.submit(4)
    with pytest.raises(QueueFullError):
        w.submit(1)


@RUNNERS
def test_reserved_places_count(threads: int) -> None:
    w = world(threads, queue=5)
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


def taught(threads: int = 1, run_s: float = 2.0) -> World:
    """A world whose full runs of four rows take so long, and that knows it."""
    w = world(threads, batch=4, queue=400)
    for _ in range(threads):
        w.submit(4)
        w.loop.settle()
    w.loop.advance(run_s)
    for _ in range(threads):
        w.finish_run()
    assert w.batcher.is_idle
    return w


def test_rows_that_would_come_too_late_are_refused_at_the_door() -> None:
    w = taught()
    w.submit(8, timeout_s=30)  # one run is out, one waits: 4 s
    w.loop.settle()
    well = w.submit(2, timeout_s=8)  # with those before it two full runs: done after 6 s
    with pytest.raises(
        QueueFullError, match=r"about 6000 ms with 6 rows waiting, expected in 7000"
    ):
        w.submit(1, timeout_s=7)
    with pytest.raises(QueueFullError, match="queue too long"):
        w.batcher.reserve(1, w.loop.now + 7)
    w.loop.advance(1)  # of the run that is out, too, a second is over
    w.submit(1, timeout_s=7)
    w.run_all()
    w.assert_answered(well)


def test_runners_share_what_waits() -> None:
    w = taught(threads=2)
    w.submit(16)  # two runs are out, two wait: 4 s
    w.loop.settle()
    w.submit(1, timeout_s=7)
    with pytest.raises(QueueFullError, match="queue too long"):
        w.submit(1, timeout_s=5)


def test_rows_that_are_next_are_let_in_whatever_their_deadline() -> None:
    w = taught()
    hasty = w.submit(4, timeout_s=0.5)
    w.loop.settle()
    w.finish_run()
    w.assert_answered(hasty)


def test_a_few_rows_are_not_taken_for_a_full_run() -> None:
    w = taught(run_s=8.0)
    w.submit(1)
    w.loop.settle()
    w.loop.advance(1)
    w.finish_run()  # alone: a second
    w.submit(1)
    w.loop.settle()
    w.submit(1, timeout_s=2.6)  # after the one that is out, both alone: 2 s
    with pytest.raises(QueueFullError, match="queue too long"):
        w.submit(1, timeout_s=0.5)


def test_a_queue_without_experience_refuses_nobody_for_its_deadline() -> None:
    w = world(1, batch=4, queue=400)
    w.submit(300)
    w.submit(1, timeout_s=0.1)


def test_failed_runs_teach_nothing() -> None:
    w = world(1, batch=4, queue=400)
    w.failures.append(InferenceError("at once"))
    w.submit(4)
    w.loop.settle()
    w.loop.advance(5)
    w.finish_run()
    w.submit(300)
    w.submit(1, timeout_s=0.1)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_retry_after_is_the_time_that_the_queue_takes(threads: int) -> None:
    w = world(threads, batch=4, queue=400)
    for _ in range(20):
        w.submit(4 * threads)
        w.loop.settle()
        w.loop.advance(2)  # 2 rows a second and runner
        for _ in range(threads):
            w.finish_run()
        w.loop.advance(1000)  # nothing to do is no time of the queue's
    w.submit(400)
    with pytest.raises(QueueFullError) as refused:
        w.submit(1)
    got = refused.value.retry_after_s
    assert refused.value.headers == ((b"retry-after", b"%d" % got),)
    assert got == 200 if threads == 1 else 0.85 * 200 / threads < got < 1.1 * 200 / threads


def test_retry_after_counts_what_the_loop_does_between_runs() -> None:
    """A loop that is busy with other things drains no faster than it gets to its runs."""
    w = world(0, batch=4, queue=40)
    w.submit(40)
    for _ in range(5):
        w.loop.now += 2
        w.loop.turn()  # 4 rows in 2 seconds, though the runs took none
    with pytest.raises(QueueFullError) as refused:
        w.submit(21)
    assert refused.value.retry_after_s == 10


@pytest.mark.parametrize("has_run", [False, True])
def test_retry_after_is_at_least_a_second(has_run: bool) -> None:
    w = world(1, batch=4, queue=4)
    if has_run:
        w.submit(4)
        w.loop.settle()
        w.loop.advance(0.001)
        w.finish_run()
    with pytest.raises(QueueFullError) as refused:
        w.submit(5)
    assert refused.value.retry_after_s == 1


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
