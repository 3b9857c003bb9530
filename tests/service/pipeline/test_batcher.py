"""The batcher at work, and what a failed run or an answered job leaves behind: laws 2 and 3."""

import pytest

from service.errors import InferenceError
from service.pipeline.job import Job
from tests.service.pipeline.simulator import FAILURE, THREADED, world

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
