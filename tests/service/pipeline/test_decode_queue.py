"""The queue in front of the decode threads: memory, threads, deadlines."""

import pytest

from service.inflight import Inflight
from service.pipeline.decode_queue import DecodeQueue
from tests.service.pipeline.simulator import FakeExecutor, FakeLoop


class Picture:
    """Work of as many steps as there are sizes."""

    tickets: tuple[object, ...] = ()

    def __init__(
        self, *sizes: int, deadline: float = 1030.0, model: str = "a", is_quick: bool = False
    ) -> None:
        self._sizes = list(sizes)
        self.deadline = deadline
        self.size = self._sizes.pop(0)
        self.model = model
        self.is_quick = is_quick
        self.is_over = False
        self.seen: list[str] = []

    def run(self) -> None:
        self.seen.append("run")

    def finish(self) -> bool:
        self.seen.append("finish")
        if self._sizes:
            self.size = self._sizes.pop(0)
            return False
        return True

    def expire(self) -> None:
        self.seen.append("expire")


class Desk:
    def __init__(self, limit: int = 100, threads: int = 2, turn: int = 1) -> None:
        self.loop = FakeLoop()
        self.threads, self.quick = FakeExecutor(threads), FakeExecutor(1)
        self.inflight = Inflight(limit)
        self.queue = DecodeQueue(
            self.threads, threads, self.loop, self.inflight, self.loop.clock, self.quick, turn=turn
        )

    def finish(self) -> None:
        self.threads.finish()
        self.loop.settle()

    def put(
        self, *sizes: int, deadline: float = 1030.0, model: str = "a", is_quick: bool = False
    ) -> Picture:
        picture = Picture(*sizes, deadline=deadline, model=model, is_quick=is_quick)
        self.queue.put(picture)
        return picture


def test_memory_is_counted_when_work_starts_and_given_back() -> None:
    desk = Desk()
    pictures = [desk.put(40) for _ in range(64)]
    assert desk.inflight.used == 80, "two threads, two pictures"
    for _ in pictures:
        desk.finish()
    assert [picture.seen for picture in pictures] == [["run", "finish"]] * 64
    assert desk.inflight.used == 0
    assert desk.loop.timers == []


def test_what_does_not_fit_beside_another_waits_in_order() -> None:
    desk = Desk()
    desk.put(60)
    large, small = desk.put(60), desk.put(1)
    assert desk.inflight.used == 60
    assert not desk.threads.is_full, "nothing passes the one whose turn it is"
    desk.finish()
    assert desk.inflight.used == 61
    desk.finish()
    desk.finish()
    assert large.seen == small.seen == ["run", "finish"]


def test_what_is_larger_than_the_budget_runs_alone() -> None:
    desk = Desk()
    desk.inflight.take(99)  # its own body, for one
    first, second = desk.put(500), desk.put(500)
    assert desk.inflight.used == 599
    desk.finish()
    assert (first.seen, second.seen) == (["run", "finish"], [])
    desk.finish()
    assert second.seen == ["run", "finish"]
    assert desk.inflight.used == 99


def test_the_next_step_has_its_own_size_and_comes_first() -> None:
    desk = Desk(threads=1)
    measured, other = desk.put(0, 70), desk.put(5)
    assert desk.inflight.used == 0
    desk.finish()
    assert (measured.seen, desk.inflight.used) == (["run", "finish"], 70)
    desk.finish()
    assert (measured.seen, other.seen) == (["run", "finish"] * 2, [])


def test_a_deadline_is_answered_while_a_thread_is_at_work() -> None:
    desk = Desk(threads=1)
    running, waiting = desk.put(50, deadline=1001), desk.put(50, deadline=1002)
    later = desk.put(50, deadline=1009)
    desk.loop.advance(1)
    assert (running.seen, waiting.seen) == (["expire"], [])
    assert desk.inflight.used == 50, "the thread still holds it"
    desk.loop.advance(1)
    assert waiting.seen == ["expire"]
    desk.finish()
    assert running.seen == ["expire", "run"], "its result is dropped"
    assert waiting.seen == ["expire"], "never started"
    desk.finish()
    assert later.seen == ["run", "finish"]
    assert (desk.inflight.used, desk.loop.timers) == (0, [])


def test_whose_client_left_waits_no_longer() -> None:
    desk = Desk()
    running, large, small = desk.put(60), desk.put(60), desk.put(20)
    desk.queue.cancel(large)
    assert (large.seen, desk.inflight.used) == (["expire"], 80), "what waited behind it runs"
    desk.queue.cancel(running)
    assert running.seen == [], "a thread is at work on it"
    desk.finish()
    desk.finish()
    desk.queue.cancel(small)
    assert running.seen == small.seen == ["run", "finish"]
    assert (large.seen, desk.inflight.used, desk.loop.timers) == (["expire"], 0, [])


def test_one_timer_whatever_waits() -> None:
    desk = Desk()
    for number in range(50):
        desk.put(1, deadline=1050 - number)
    assert len(desk.loop.timers) == 1
    for _ in range(50):
        desk.finish()
    assert desk.loop.timers == []


def test_without_a_budget_only_threads_bound_it() -> None:
    loop, threads = FakeLoop(), FakeExecutor(2)
    queue = DecodeQueue(threads, 2, loop, clock=loop.clock)
    for _ in range(3):
        queue.put(Picture(1 << 40))
    assert threads.is_full


def test_what_is_quick_waits_for_no_photograph() -> None:
    desk = Desk()
    photographs = [desk.put(50) for _ in range(8)]
    quick = [desk.put(2, is_quick=True) for _ in range(3)]
    for picture in quick:
        desk.quick.finish()
        desk.loop.settle()
        assert picture.seen == ["run", "finish"]
    assert [picture.seen for picture in photographs] == [[]] * 8
    assert desk.inflight.used == 100, "what quick work held is given back"


def test_quick_work_takes_every_thread_where_no_photograph_waits() -> None:
    desk = Desk()
    for _ in range(4):
        desk.put(2, is_quick=True)
    assert (desk.quick.is_full, desk.threads.is_full) == (True, True)
    photograph = desk.put(2)
    desk.finish()
    desk.finish()
    desk.finish()
    assert photograph.seen == ["run", "finish"], "before the quick one that waits"


def test_models_whose_photographs_wait_take_turns() -> None:
    desk = Desk(threads=1)
    crowd = [desk.put(5, model="asked-much") for _ in range(6)]
    others = [desk.put(5, model="other"), desk.put(5, model="third"), desk.put(5, model="other")]
    for _ in range(6):
        desk.finish()
    assert [picture.seen for picture in others] == [["run", "finish"]] * 3
    assert [bool(picture.seen) for picture in crowd] == [True] * 3 + [False] * 3


def test_deadlines_hold_in_every_part_of_the_queue() -> None:
    desk = Desk(threads=1)
    late = [desk.put(5, deadline=1001, model=model) for model in "aabb"]
    late += [desk.put(5, deadline=1001, is_quick=True) for _ in range(3)]
    left = [desk.put(5, model="b"), desk.put(5, is_quick=True)]
    desk.loop.advance(1)
    assert all(picture.seen == ["expire"] for picture in late)
    assert [picture.seen for picture in left] == [[], []]
    desk.quick.finish()
    desk.finish()
    assert (desk.quick.is_busy, desk.threads.is_busy) == (True, True)
    desk.quick.finish()
    desk.finish()
    assert [picture.seen for picture in left] == [["run", "finish"]] * 2
    assert (desk.inflight.used, desk.loop.timers) == (0, [])


def done(pictures: list[Picture]) -> int:
    return sum(picture.seen == ["run", "finish"] for picture in pictures)


def test_a_thread_does_several_in_a_turn_only_where_many_wait() -> None:
    desk = Desk(threads=1, turn=4)
    pictures = [desk.put(1) for _ in range(17)]
    counts = []
    while done(pictures) < 17:
        desk.finish()
        counts.append(done(pictures))
    # The first came alone; then one more for each four that wait behind, and four at most.
    assert counts == [1, 5, 8, 11, 13, 14, 15, 16, 17]
    assert (desk.inflight.used, desk.loop.timers, desk.threads.is_busy) == (0, [], False)


def test_a_turn_ends_where_memory_does() -> None:
    desk = Desk(limit=100, threads=1, turn=4)
    pictures = [desk.put(40) for _ in range(17)]
    desk.finish()
    assert desk.inflight.used == 80
    desk.finish()
    assert (done(pictures), desk.inflight.used) == (3, 80)
    large = Desk(limit=1 << 30, threads=1, turn=4)
    for _ in range(17):
        large.put(5 << 20)
    large.finish()
    assert large.inflight.used == 5 << 20, "photographs of many pixels take turns alone"


def test_a_deadline_within_a_turn_is_answered_once() -> None:
    desk = Desk(threads=1, turn=4)
    pictures = [desk.put(1, deadline=1030 if i % 2 else 1001) for i in range(17)]
    desk.finish()
    desk.loop.advance(1)
    expired = [picture for picture in pictures if picture.seen == ["expire"]]
    assert len(expired) == 8
    while desk.threads.is_busy:
        desk.finish()
    assert done(pictures) == 9
    assert all(picture.seen in (["expire"], ["expire", "run"]) for picture in expired)
    assert desk.inflight.used == 0


def test_the_wait_is_told_by_what_waits_and_how_long_it_takes() -> None:
    desk = Desk(threads=2)

    class Slow(Picture):
        def run(self) -> None:
            super().run()
            desk.loop.now += 2

    assert desk.queue.wait_s("a") == 0, "unknown"
    for _ in range(60):
        desk.queue.put(Slow(1, 1, deadline=1e9))  # measured, then decoded: four seconds
        desk.finish()
        desk.finish()
    for _ in range(5):
        desk.queue.put(Slow(1, deadline=1e9))
    assert desk.queue.wait_s("a") == pytest.approx(3 * 4 / 2, rel=0.2), "two are at work"
    assert desk.queue.wait_s("b") == 0
    desk.queue.put(Slow(1, deadline=1e9, model="b"))
    assert desk.queue.wait_s("a") == pytest.approx(2 * 3 * 4 / 2, rel=0.2), "they take turns"
