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
