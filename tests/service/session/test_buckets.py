from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.session.buckets import (
    BUCKET_GAIN,
    BucketError,
    bucket_of,
    choose_buckets,
    default_buckets,
    fit_buckets,
    parse_buckets,
    rows_now,
)

SIZES = st.integers(1, 4096)
BUCKETS = st.sets(SIZES, min_size=1, max_size=10).map(sorted).map(tuple)


@given(SIZES)
def test_default_buckets_double_up_to_the_largest_batch(most: int) -> None:
    buckets = default_buckets(most)
    assert buckets[-1] == most
    assert all(size == 1 << n for n, size in enumerate(buckets[:-1]))
    assert all(after <= 2 * before for before, after in pairwise(buckets))
    assert list(buckets) == sorted(set(buckets))


@given(BUCKETS, st.data())
def test_rows_go_to_the_smallest_bucket_that_holds_them(
    buckets: tuple[int, ...], data: st.DataObject
) -> None:
    rows = data.draw(st.integers(1, buckets[-1]))
    bucket = bucket_of(rows, buckets)
    assert bucket == min(size for size in buckets if size >= rows)


@given(st.integers(1, 512), st.data())
def test_default_buckets_pad_less_than_the_rows_there_are(most: int, data: st.DataObject) -> None:
    rows = data.draw(st.integers(1, most))
    assert bucket_of(rows, default_buckets(most)) < 2 * rows


@given(BUCKETS, SIZES)
def test_buckets_are_fitted_to_the_largest_batch(buckets: tuple[int, ...], most: int) -> None:
    fitted = fit_buckets(buckets, most)
    assert fitted[-1] == most
    assert set(fitted) - {most} == {size for size in buckets if size < most}


def expected_s(buckets: tuple[int, ...], seconds: dict[int, float]) -> float:
    """The mean time of a run over the batch sizes, every doubling as likely as the next."""
    weights = [1 / rows for rows in range(1, buckets[-1] + 1)]
    times = [seconds[bucket_of(rows, buckets)] for rows in range(1, buckets[-1] + 1)]
    return sum(w * t for w, t in zip(weights, times, strict=True)) / sum(weights)


@given(st.integers(1, 300), st.floats(0, 100), st.floats(0.001, 10))
def test_the_choice_is_the_best_of_all(most: int, fixed: float, per_row: float) -> None:
    seconds = {size: fixed + per_row * size for size in default_buckets(most)}
    chosen = choose_buckets(seconds)
    assert chosen[-1] == most
    assert set(chosen) <= set(seconds)
    price = BUCKET_GAIN * expected_s(tuple(seconds), seconds)

    def cost(buckets: tuple[int, ...]) -> float:
        return expected_s(buckets, seconds) + price * len(buckets)

    for size in set(seconds) - {most}:  # no single bucket more or less would be better
        other = tuple(sorted(set(chosen) ^ {size}))
        assert cost(chosen) <= cost(other) * (1 + 1e-9)


def test_where_padding_costs_nothing_one_bucket_does() -> None:
    assert choose_buckets(dict.fromkeys(default_buckets(64), 1e-4)) == (64,)


def test_where_every_row_costs_all_buckets_stay() -> None:
    seconds = {size: 1e-5 * size for size in default_buckets(64)}
    assert choose_buckets(seconds) == default_buckets(64)


def test_a_bucket_that_is_slower_than_a_larger_one_is_left_out() -> None:
    seconds = {1: 1.0, 2: 5.0, 4: 1.5, 8: 2.0}
    assert 2 not in choose_buckets(seconds)


@pytest.mark.parametrize(
    ("text", "expected"), [("auto", ()), ("1,2,4", (1, 2, 4)), (" 3 , 64 ", (3, 64)), ("7", (7,))]
)
def test_buckets_are_read(text: str, expected: tuple[int, ...]) -> None:
    assert parse_buckets(text) == expected


@pytest.mark.parametrize("text", ["", "0", "1,1", "4,2", "1,,2", "-1", "one", "1;2", "99999", "²"])
def test_other_lists_are_refused(text: str) -> None:
    with pytest.raises(BucketError, match="expected auto or rising batch sizes"):
        parse_buckets(text)


def test_full_buckets_first_on_one_h100() -> None:
    """ResNet-50 in TF32: 1.4 ms a run and 0.127 ms a row, by 538 to 719 rows/s at 1 and 64's."""
    seconds = {size: 1.37e-3 + 0.127e-3 * size for size in default_buckets(64)}
    chosen = rows_now(seconds)
    assert chosen[:10] == (0, 1, 2, 3, 4, 4, 6, 7, 8, 8)
    full_first = [chosen[rows] for rows in (17, 25, 26, 33, 55, 56, 64)]
    assert full_first == [16, 16, 26, 32, 32, 56, 64]
    few = rows_now({size: seconds[size] for size in (1, 8, 64)})
    assert [few[rows] for rows in (5, 9, 22, 40)] == [5, 8, 8, 40]


@given(BUCKETS, st.floats(0, 1), st.floats(1e-6, 1))
def test_all_rows_or_a_full_bucket_that_does_more_a_second(
    buckets: tuple[int, ...], run_s: float, row_s: float
) -> None:
    seconds = {size: run_s + row_s * size for size in buckets}
    for rows, now in enumerate(rows_now(seconds)):
        if now != rows:
            assert now in buckets and now < rows
            assert now / seconds[now] > rows / seconds[bucket_of(rows, buckets)]
        assert now or not rows
