"""What a load may measure, and how its steps are told."""

import math

import pytest

from service.session.progress import Budget, Progress


def test_what_a_part_spends_is_spent_from_the_whole() -> None:
    whole = Budget(5)
    first, second = Budget(3, whole), Budget(3, whole)
    first.spend(2.5)
    assert (first.left_s, second.left_s, whole.left_s) == (0.5, 2.5, 2.5)
    second.spend(4)
    assert (first.left_s, second.left_s, whole.left_s) == (0, 0, 0)
    assert Budget().left_s == math.inf


@pytest.mark.parametrize(
    ("left_s", "row_s", "rows"),
    [(10, 0.001, 64), (10, 0.02, 50), (10, 0.1, 8), (10, 3, 1), (0, 0.1, 1), (math.inf, 9, 64)],
)
def test_rows_of_a_batch_that_can_be_run_ten_times(left_s: float, row_s: float, rows: int) -> None:
    found = Budget(left_s).rows(row_s, 64 if rows != 50 else 50, 10)
    assert found == rows
    assert found == 1 or found * row_s * 10 <= left_s


def test_steps_are_told_as_they_begin_and_summed_up() -> None:
    told: list[str] = []
    progress = Progress(tell=told.append)
    for step in ("reading", "opening", "self-test", "opening"):
        progress.begin(step)
    assert told == ["reading", "opening", "self-test", "opening"]
    assert progress.summary == "", "none took a tenth of a second"
    assert not progress.is_bounded
