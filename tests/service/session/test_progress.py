"""What a load may measure, and how its steps are told."""

import math

from service.session.progress import Budget, Progress


def test_what_a_part_spends_is_spent_from_the_whole() -> None:
    whole = Budget(5)
    first, second = Budget(3, whole), Budget(3, whole)
    first.spend(2.5)
    assert (first.left_s, second.left_s, whole.left_s) == (0.5, 2.5, 2.5)
    second.spend(4)
    assert (first.left_s, second.left_s, whole.left_s) == (0, 0, 0)
    assert Budget().left_s == math.inf


def test_steps_are_told_as_they_begin_and_summed_up() -> None:
    told: list[str] = []
    progress = Progress(tell=told.append)
    for step in ("reading", "opening", "self-test", "opening"):
        progress.begin(step)
    assert told == ["reading", "opening", "self-test", "opening"]
    assert progress.summary == "", "none took a tenth of a second"
    assert not progress.is_bounded
