"""The batcher at work, and what a failed run or an answered job leaves behind: laws 2 and 3."""

import itertools

import pytest

from service.errors import InferenceError
from service.pipeline.job import Job
from service.pipeline.limits import BatchLimits
from tests.service.pipeline.simulator import FAILURE, RUNNERS, World, world

# Work conserving


@RUNNERS
def test_lone_row_runs_at_once(threads: int) -> None:
    w = world(threads)
    job = w.submit()
    w.loop.turn()
    assert w.batcher.queued_rows == 0
    if w.executor is not None:
        assert w.executor.is_busy
        w.finish_run()
    w.assert_answered(job)
    assert w.runs == [[0]]


@RUNNERS
def test_arrivals_of_one_turn_share_a_run(threads: int) -> None:
    w = world(threads)
    jobs = [w.submit() for _ in range(3)]
    w.run_all()
    assert w.runs == [[0, 1, 2]]
    for job in jobs:
        w.assert_answered(job)


@RUNNERS
def test_newcomers_of_successive_turns_share_a_run(threads: int) -> None:
    w = world(threads)
    jobs = []
    for _ in range(3):
        w.clients += 1
        jobs.append(w.submit())
        w.loop.turn()
    assert w.batcher.queued_rows == 3, "clients still came; their rows were to wait for each other"
    w.run_all()
    assert w.runs == [[0, 1, 2]]
    for job in jobs:
        w.assert_answered(job)


@RUNNERS
def test_a_full_batch_does_not_wait_for_newcomers(threads: int) -> None:
    w = world(threads, batch=4)
    w.clients += 1
    w.submit(4)
    w.loop.turn()
    assert w.batcher.queued_rows == 0


@RUNNERS
def test_newcomers_who_ask_for_nothing_hold_nobody_up(threads: int) -> None:
    w = world(threads, batch=4)
    w.submit()
    for _ in range(4):
        w.clients += 1
        w.loop.turn()
        assert w.batcher.queued_rows == 1
    w.clients += 1
    w.loop.turn()
    assert w.batcher.queued_rows == 0


def test_what_arrives_during_a_run_is_the_next_batch() -> None:
    w = world(1)
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


# Buckets of 1, 4 and 8 rows, of which one of 8 takes little less than two of 4.
FULL_FIRST = (0, 1, 2, 3, 4, 4, 4, 7, 8)


@pytest.mark.parametrize("threads", [1, 2])
def test_a_bucket_is_filled_before_a_larger_one_is_padded(threads: int) -> None:
    w = World(BatchLimits(8), threads, rows_now=FULL_FIRST)
    w.submit(8)
    w.loop.settle()
    jobs = [w.submit(), *(w.submit(rows) for rows in (2, 3)), w.submit(8)]
    w.run_all()
    assert [len(run) for run in w.runs] == [8, 8, 4, 2]
    lone = [w.submit() for _ in range(6)]
    w.run_all()
    assert [len(run) for run in w.runs[4:]] == [4, 2]
    for job in (*jobs, *lone):
        w.assert_answered(job)


def test_a_row_that_left_makes_a_bucket_no_smaller() -> None:
    w = World(BatchLimits(8), 1, rows_now=FULL_FIRST)
    jobs = [w.submit() for _ in range(6)]
    w.batcher.cancel(jobs[0])
    w.run_all()
    assert [len(run) for run in w.runs] == [4, 1]
    for job in jobs[1:]:
        w.assert_answered(job)


def test_next_run_starts_before_the_answers_go_out() -> None:
    w = world(1)
    seen: list[bool] = []
    assert w.executor is not None
    executor = w.executor
    w.submit(then=lambda _job: seen.append(executor.is_busy))
    w.loop.settle()
    w.submit()
    w.finish_run()
    assert seen == [True]


@pytest.mark.parametrize("threads", [2, 3])
def test_a_free_runner_takes_what_arrives_during_another_run(threads: int) -> None:
    w = world(threads)
    for _ in range(threads):
        w.submit()
        w.loop.settle()
    assert w.executor is not None
    assert w.executor.is_full
    later = [w.submit() for _ in range(2)]
    w.loop.settle()
    assert w.batcher.queued_rows == 2
    w.finish_run(threads - 1)
    w.run_all()
    assert w.runs == [[threads - 1], *([n] for n in range(threads - 1)), [threads, threads + 1]]
    for job in later:
        w.assert_answered(job)


@pytest.mark.parametrize("threads", [2, 3])
def test_rows_that_wait_are_spread_over_free_runners_a_full_batch_each(threads: int) -> None:
    w = world(threads, batch=4)
    job = w.submit(4 * threads)
    w.loop.settle()
    assert w.executor is not None
    assert w.executor.is_full
    assert w.batcher.queued_rows == 0
    w.run_all()
    w.assert_answered(job)


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_parts_are_in_the_order_of_the_rows_whichever_run_ends_first(
    order: tuple[int, ...],
) -> None:
    w = world(3, batch=2)
    job, other = w.submit(5), w.submit(1, is_array=True)
    w.loop.settle()
    out = [0, 1, 2]
    for run in order:
        assert job not in w.done
        w.finish_run(out.index(run))
        out.remove(run)
    w.assert_answered(job)
    w.assert_answered(other)


def test_delay_holds_for_the_second_runner_too() -> None:
    w = world(2, batch=4, delay_s=0.5)
    w.submit(6)
    w.loop.settle()
    assert w.batcher.queued_rows == 2, "a batch that is not full waits for company"
    w.loop.advance(0.5)
    assert w.batcher.queued_rows == 0
    w.run_all()
    assert [len(numbers) for numbers in w.runs] == [4, 2]


@RUNNERS
def test_rows_of_a_large_request_run_in_several_batches(threads: int) -> None:
    w = world(threads, batch=4)
    jobs = [w.submit(1), w.submit(10), w.submit(2)]
    w.run_all()
    assert [len(numbers) for numbers in w.runs] == [4, 4, 4, 1]
    for job in jobs:
        w.assert_answered(job)
    assert len(jobs[1].parts) == 3


@RUNNERS
@pytest.mark.parametrize("rows", [1, 3, 4, 9])
def test_rows_as_one_array(threads: int, rows: int) -> None:
    w = world(threads, batch=4)
    jobs = [w.submit(rows, is_array=True), w.submit(2), w.submit(rows, is_array=True)]
    w.run_all()
    for job in jobs:
        w.assert_answered(job)


@RUNNERS
def test_delay_waits_for_company(threads: int) -> None:
    w = world(threads, delay_s=0.5)
    w.submit()
    w.loop.advance(0.4)
    assert not w.runs
    assert w.batcher.queued_rows == 1
    w.submit()
    w.loop.advance(0.2)
    if w.executor is not None:
        w.finish_run()
    assert w.runs == [[0, 1]]


@RUNNERS
def test_delay_ends_when_a_batch_is_full(threads: int) -> None:
    w = world(threads, batch=4, delay_s=0.5)
    w.submit(3)
    w.loop.settle()
    w.submit(1)
    w.loop.settle()
    if w.executor is not None:
        w.finish_run()
    assert w.runs == [[0, 1, 2, 3]]
    w.run_all()
    assert not w.loop.timers


@RUNNERS
def test_delay_counts_from_the_first_row(threads: int) -> None:
    w = world(threads, batch=4, delay_s=0.5)
    for _ in range(3):
        w.submit()
        w.loop.advance(0.25)
    if w.executor is not None:
        w.finish_run()
    assert w.runs[0][:2] == [0, 1]


# Law 2: a failed run gives each member the same error, and the queue lives on


@RUNNERS
@pytest.mark.parametrize("error", [FAILURE, ValueError("secret /path"), MemoryError()])
def test_failed_run(threads: int, error: Exception) -> None:
    w = world(threads)
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


@RUNNERS
def test_failed_run_is_logged_with_its_reason(
    threads: int, caplog: pytest.LogCaptureFixture
) -> None:
    w = world(threads)
    w.failures = [ValueError("the very reason")]
    w.submit()
    w.run_all()
    assert "the very reason" in caplog.text


@RUNNERS
def test_rest_of_a_request_is_not_run_once_a_part_failed(threads: int) -> None:
    w = world(threads, batch=4)
    w.failures = [FAILURE]
    failed, well = w.submit(23), w.submit(1)
    w.run_all()
    w.assert_failed(failed, InferenceError)
    w.assert_answered(well)
    last = max(number for numbers in w.runs for number in numbers if number < 23)
    assert last < 4 * ((threads or 1) + 1), "more ran than what was out, and one run after it"
    assert w.batcher.queued_rows == 0


# Law 3: a job is done once


@RUNNERS
def test_cancelled_job_is_never_done(threads: int) -> None:
    w = world(threads)
    gone, well = w.submit(), w.submit()
    w.batcher.cancel(gone)
    w.run_all()
    assert w.done == [well]
    assert w.runs == [[1]], "the row of a client that left was run"
    assert w.batcher.dropped_rows == 1


def test_job_cancelled_during_its_run_is_never_done() -> None:
    w = world(1)
    gone, well = w.submit(), w.submit()
    w.loop.settle()
    w.batcher.cancel(gone)
    w.run_all()
    assert w.done == [well]
    w.assert_answered(well)


@RUNNERS
def test_cancel_after_done_changes_nothing(threads: int) -> None:
    w = world(threads)
    job = w.submit()
    w.run_all()
    w.batcher.cancel(job)
    w.run_all()
    w.assert_answered(job)


@RUNNERS
def test_answer_that_raises_does_not_take_its_neighbours_along(
    threads: int, caplog: pytest.LogCaptureFixture
) -> None:
    w = world(threads)

    def burst(_job: Job) -> None:
        raise RuntimeError("a bug in a protocol")

    w.submit(then=burst)
    well = w.submit()
    w.run_all()
    w.assert_answered(well)
    assert "this is a bug" in caplog.text


@RUNNERS
def test_answer_may_submit_again(threads: int) -> None:
    w = world(threads)
    second: list[Job] = []
    w.submit(then=lambda _job: second.append(w.submit()))
    w.run_all()
    w.assert_answered(second[0])


@RUNNERS
def test_answer_may_cancel_a_neighbour_of_its_batch(threads: int) -> None:
    w = world(threads)
    jobs: list[Job] = []
    jobs.append(w.submit(then=lambda _job: w.batcher.cancel(jobs[1])))
    jobs.append(w.submit())
    w.run_all()
    assert w.done == jobs[:1]
