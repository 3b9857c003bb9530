"""Law 5: a queue is bounded in bytes and in time, and refuses at the door; brownout."""

import pytest

from service.errors import InferenceError, QueueFullError
from service.pipeline.limits import BatchLimits
from tests.service.pipeline.simulator import World, world


@pytest.mark.parametrize("threads", [1, 2])
def test_rows_that_would_wait_too_long_are_refused(threads: int) -> None:
    w = taught(threads, wait_s=5)  # a full run takes 2 s
    for _ in range(threads):
        w.submit(4)
        w.loop.settle()
    w.submit(8 * threads)  # the runs that are out, and two each: 6 s
    with pytest.raises(QueueFullError, match=r"at most 5000 ms.*raise FOVEAL_MAX_WAIT_MS") as no:
        w.submit(1)
    assert no.value.retry_after_s == 6
    with pytest.raises(QueueFullError):
        w.batcher.reserve(1)
    w.loop.advance(1)  # a second of the run that is out is over
    w.submit(1)
    assert w.batcher.admission.refused == {"wait": 2, "deadline": 0, "memory": 0}
    w.run_all()
    w.submit(100)


def test_rows_of_the_next_run_are_never_refused_for_their_wait() -> None:
    """A run that takes longer than the bound takes as long as it takes."""
    w = taught(run_s=60, wait_s=5)
    w.submit(4, timeout_s=1000)
    w.loop.settle()
    for _ in range(3):
        w.submit(1, timeout_s=1000)
    w.submit(400, timeout_s=10_000)  # its first row is of the next run
    with pytest.raises(QueueFullError):
        w.submit(1)


def test_reserved_places_are_rows_that_wait() -> None:
    w = taught(wait_s=5)
    w.submit(4)
    w.loop.settle()
    w.batcher.reserve(8)
    assert not w.batcher.is_idle
    with pytest.raises(QueueFullError):
        w.submit(1)
    w.batcher.release(8)
    w.submit(1)
    w.run_all()
    assert w.batcher.is_idle


def test_an_unknown_queue_goes_by_the_run_that_was_measured_at_the_load() -> None:
    w = World(BatchLimits(4, 5.0), threads=1, full_s=2.0)
    w.submit(16)
    w.loop.settle()
    with pytest.raises(QueueFullError):
        w.submit(1)


def test_the_estimate_follows_a_machine_that_gets_slow() -> None:
    """After four runs of ten times the time as many rows are let in as it can run."""
    w = taught(wait_s=100)  # 2 s a run
    for _ in range(8):
        w.submit(4)
        w.loop.settle()
        w.loop.advance(20)
        w.finish_run()
    w.submit(4)
    w.loop.settle()
    admitted = 0
    with pytest.raises(QueueFullError):
        while admitted < 400:
            w.submit(4, timeout_s=10_000)
            admitted += 4
    assert 16 <= admitted <= 24  # of 100 s / 20 s a run


def test_runs_of_a_few_rows_tell_of_a_slow_machine_too() -> None:
    w = taught(wait_s=5)  # a full run takes 2 s
    for run_s in (0.5, *[5.0] * 12):  # of one row: ten times as long as the first
        w.submit(1)
        w.loop.settle()
        w.loop.advance(run_s)
        w.finish_run()
    w.submit(4, timeout_s=1000)
    w.loop.settle()
    w.submit(4, timeout_s=1000)
    with pytest.raises(QueueFullError):
        w.submit(1, timeout_s=1000)  # after two runs of 20 s


def test_a_run_that_stands_still_lets_nobody_wait_behind_it() -> None:
    w = taught(wait_s=5)
    w.submit(4)
    w.loop.settle()
    w.loop.advance(30)  # it should have taken 2 s
    w.submit(4)
    with pytest.raises(QueueFullError) as refused:
        w.submit(1)
    assert refused.value.retry_after_s >= 28


def test_a_queue_is_bounded_by_the_bytes_of_all() -> None:
    """A row has four bytes; rows that run, were dropped or failed wait no longer."""
    w = World(BatchLimits(4, 1000.0), threads=1, queue_bytes=40)
    w.submit(4)
    w.loop.settle()
    w.submit(8)
    w.submit(2, timeout_s=1)
    assert w.inflight.queued == 40
    with pytest.raises(QueueFullError, match="FOVEAL_MAX_INFLIGHT_MIB"):
        w.submit(1)
    assert w.batcher.admission.refused["memory"] == 1
    w.loop.advance(2)
    assert w.inflight.queued == 32
    w.inflight.queued += 8  # of another model
    with pytest.raises(QueueFullError):
        w.submit(1)
    w.inflight.queued -= 8
    w.submit(1)
    w.batcher.close()
    assert w.inflight.queued == 0


def test_one_request_may_hold_more_where_nothing_waits() -> None:
    w = World(BatchLimits(4, 1000.0), threads=1, queue_bytes=40)
    job = w.submit(20)
    w.run_all()
    w.assert_answered(job)
    assert w.inflight.queued == 0


def test_photographs_that_wait_for_their_decoding_are_bounded_too() -> None:
    w = world(1, batch=4, wait_s=5)
    w.batcher.reserve(3, w.loop.now + 30, decode_s=20)
    w.batcher.reserve(3, w.loop.now + 30, decode_s=20)  # of one run: they always may
    with pytest.raises(QueueFullError, match="FOVEAL_MAX_WAIT_MS") as refused:
        w.batcher.reserve(1, w.loop.now + 30, decode_s=6)
    assert refused.value.retry_after_s == 6
    w.batcher.reserve(1, w.loop.now + 30, decode_s=4)
    with pytest.raises(QueueFullError, match="deadline"):
        w.batcher.reserve(1, w.loop.now + 2, decode_s=4)
    assert w.batcher.reserved_rows == 7
    assert w.batcher.admission.refused == {"wait": 1, "deadline": 1, "memory": 0}


# Brownout


def dimmed(threads: int = 1) -> World:
    """A world whose full runs take 2 s, and 1 s at the lower precision; rows may wait 5 s."""
    return World(BatchLimits(4, 5.0), threads, 1.0, full_s=2.0)


def test_brownout_takes_in_what_would_be_refused_and_ends() -> None:
    w = dimmed()
    w.submit(4)
    w.loop.settle()
    w.submit(8)
    assert not w.batcher.is_brownout
    jobs = [w.submit(4), w.submit(4)]  # behind 6 s; at the lower precision 2 + 2 and 2 + 3
    assert w.batcher.is_brownout
    with pytest.raises(QueueFullError):
        w.submit(1)
    assert w.batcher.admission.refused["wait"] == 1
    w.loop.advance(2)
    w.finish_run()
    for _ in range(4):
        w.loop.advance(1)
        w.finish_run()
    # 8 s, 6 s and 4 s wait at the usual one; half of the bound, 2.5 s, ends it.
    assert [len(run) for run in w.lower_runs] == [4, 4, 4]
    assert jobs[1].precision == "" and jobs[0].precision == "int8"
    assert not w.batcher.is_brownout
    for job in jobs:
        w.assert_answered(job)


def test_brownout_meets_a_deadline_and_ends() -> None:
    w = dimmed()
    w.submit(4)
    w.loop.settle()
    before = w.submit(4)
    w.submit(4, timeout_s=5.5)  # done after 6 s; after 5 s if the run before it is shorter
    assert w.batcher.is_brownout
    w.run_all()
    assert before.precision == "int8"
    assert not w.batcher.is_brownout


def test_a_deadline_that_brownout_would_miss_too_begins_none() -> None:
    w = dimmed()
    w.submit(4)
    w.loop.settle()
    with pytest.raises(QueueFullError, match="deadline"):
        w.submit(1, timeout_s=1)
    assert not w.batcher.is_brownout
    assert w.batcher.admission.refused["deadline"] == 1


def test_a_queue_without_a_lower_precision_has_no_brownout() -> None:
    w = World(BatchLimits(4, 5.0), 1, full_s=2.0)
    w.submit(16)
    w.loop.settle()
    with pytest.raises(QueueFullError):
        w.submit(1)
    w.run_all()
    assert not w.lower_runs


def test_a_run_longer_than_the_bound_is_run_at_the_lower_precision() -> None:
    w = World(BatchLimits(4, 1.0), 1, 1.0, full_s=2.0)
    long, short = w.submit(4), w.submit(1)
    w.run_all()
    assert (long.precision, short.precision) == ("int8", "")


def test_a_request_of_several_runs_is_marked_if_one_of_them_was_dimmed() -> None:
    w = dimmed()
    both = w.submit(20)
    w.run_all()
    assert both.precision == "int8"
    assert 0 < len(w.lower_runs) < len(w.runs)
    w.assert_answered(both)


def taught(threads: int = 1, run_s: float = 2.0, wait_s: float = 1000.0) -> World:
    """A world whose full runs of four rows take so long, and that knows it."""
    w = world(threads, batch=4, wait_s=wait_s)
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
    with pytest.raises(QueueFullError, match="expected to be done before the deadline"):
        w.submit(1, timeout_s=7)
    with pytest.raises(QueueFullError, match="deadline"):
        w.batcher.reserve(1, w.loop.now + 7)
    w.loop.advance(1)  # of the run that is out, too, a second is over
    w.submit(1, timeout_s=7)
    w.run_all()
    w.assert_answered(well)


def test_a_run_is_no_longer_than_the_deadlines_of_its_rows_allow() -> None:
    """Who came first was told a short run; those who joined it since must not make it late."""
    w = taught()  # half a second a row
    w.submit(4)
    w.loop.settle()
    w.loop.advance(1.9)
    hurried = w.submit(1, timeout_s=1.5)
    patient = w.submit(3)
    w.loop.advance(0.1)
    w.finish_run()
    w.loop.advance(1)
    w.finish_run()
    assert [len(run) for run in w.runs[-2:]] == [4, 2], "its own row, and one beside it"
    w.assert_answered(hurried)
    w.run_all()
    w.assert_answered(patient)


def test_a_deadline_that_is_missed_anyway_makes_no_run_shorter() -> None:
    w = taught()
    w.submit(4, timeout_s=0.3)
    w.loop.settle()
    w.finish_run()
    assert len(w.runs[-1]) == 4


def test_runners_share_what_waits() -> None:
    w = taught(threads=2)
    w.submit(16)  # two runs are out, two wait: 4 s
    w.loop.settle()
    w.submit(1, timeout_s=7)
    with pytest.raises(QueueFullError, match="deadline"):
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
    with pytest.raises(QueueFullError, match="deadline"):
        w.submit(1, timeout_s=0.5)


def test_a_queue_without_experience_refuses_nobody_for_its_deadline() -> None:
    w = world(1, batch=4)
    w.submit(300)
    w.submit(1, timeout_s=0.1)


def test_failed_runs_teach_nothing() -> None:
    w = world(1, batch=4)
    w.failures.append(InferenceError("at once"))
    w.submit(4)
    w.loop.settle()
    w.loop.advance(5)
    w.finish_run()
    w.submit(300)
    w.submit(1, timeout_s=0.1)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_retry_after_is_the_time_that_the_queue_takes(threads: int) -> None:
    w = world(threads, batch=4, wait_s=100)
    for _ in range(20):
        w.submit(4 * threads)
        w.loop.settle()
        w.loop.advance(2)  # 2 rows a second and runner
        for _ in range(threads):
            w.finish_run()
        w.loop.advance(1000)  # nothing to do is no time of the queue's
    w.submit(400 * threads)
    with pytest.raises(QueueFullError) as refused:
        w.submit(1)
    got = refused.value.retry_after_s
    assert refused.value.headers == ((b"retry-after", b"%d" % got),)
    assert got == 200 if threads == 1 else 0.85 * 200 < got < 1.2 * 200


def test_retry_after_counts_what_the_loop_does_between_runs() -> None:
    """A loop that is busy with other things drains no faster than it gets to its runs."""
    w = World(BatchLimits(4, 0.001), 0, full_s=0.1)
    w.submit(40)
    for _ in range(5):
        w.loop.now += 2
        w.loop.turn()  # 4 rows in 2 seconds, though the runs took none
    with pytest.raises(QueueFullError) as refused:
        w.submit(21)
    assert refused.value.retry_after_s == 10


def test_retry_after_is_at_least_a_second() -> None:
    w = world(1, batch=4, wait_s=0.001)
    w.submit(4)
    w.loop.settle()
    w.loop.advance(0.01)
    w.finish_run()
    w.submit(8)
    with pytest.raises(QueueFullError) as refused:
        w.submit(5)
    assert refused.value.retry_after_s == 1
