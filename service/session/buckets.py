"""Buckets: the batch sizes that a session runs, rows being filled up to the next one.

A GPU searches algorithms, captures a graph and holds buffers for each size, so few sizes cost less;
but each row that only fills a batch up costs time. Arithmetic only: knows no session.
"""

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from itertools import combinations

# A further bucket must take this share off the expected time of a run to be worth its graphs and
# buffers: less than that is within the noise of the measurement.
BUCKET_GAIN = 0.01


class BucketError(ValueError):
    """Invalid bucket list."""


def default_buckets(most: int) -> tuple[int, ...]:
    """Return 1, 2, 4, … and the largest batch.

    Args:
        most: Rows of the largest batch, 1 or more.
    """
    powers = [1 << n for n in range(most.bit_length()) if 1 << n < most]
    return (*powers, most)


def parse_buckets(text: str) -> tuple[int, ...]:
    """Parse rising batch sizes as ``1,2,4,8``, or ``auto``, which gives ().

    Raises:
        BucketError: Anything else.
    """
    if text.strip() == "auto":
        return ()
    words = [word.strip() for word in text.split(",")]
    sizes = [int(word) for word in words if word.isascii() and word.isdecimal() and len(word) < 5]
    if len(sizes) != len(words) or not all(sizes) or sorted(set(sizes)) != sizes:
        raise BucketError(f"expected auto or rising batch sizes as 1,2,4,8, got {text!r}")
    return tuple(sizes)


def fit_buckets(buckets: Sequence[int], most: int) -> tuple[int, ...]:
    """Return the buckets below the largest batch, and the largest batch."""
    return (*(size for size in buckets if size < most), most)


def bucket_of(rows: int, buckets: Sequence[int]) -> int:
    """Return the smallest bucket that holds a number of rows.

    Args:
        rows: 1 <= rows <= the last bucket.
        buckets: Rising.
    """
    return buckets[bisect_left(buckets, rows)]


def choose_buckets(seconds: Mapping[int, float]) -> tuple[int, ...]:
    """Choose buckets by measurement: few graphs, and little time lost on padding.

    Returns the set with the largest batch in it whose expected time is the shortest, where each
    bucket costs ``BUCKET_GAIN`` of the time that all of them together would take. Every doubling of
    the batch is taken to be as likely as the next, as load is not known when buckets are chosen:
    small batches are those of quiet hours, large ones those of rush hours.

    Args:
        seconds: Of a run, by candidate, at most 13 of them; the largest is the largest batch.
    """
    *smaller, most = sorted(seconds)
    weights = [1 / rows for rows in range(1, most + 1)]
    # upto[b] - upto[a] is the weight of the batch sizes above a, up to b.
    upto = {0: 0.0}
    total = 0.0
    for rows in range(1, most + 1):
        total += weights[rows - 1]
        if rows in seconds:
            upto[rows] = total

    def expected(chosen: tuple[int, ...]) -> float:
        spans = zip((0, *chosen), chosen, strict=False)
        return sum((upto[b] - upto[a]) * seconds[b] for a, b in spans) / total

    price = BUCKET_GAIN * expected((*smaller, most))
    return min(
        (
            (*chosen, most)
            for count in range(len(smaller) + 1)
            for chosen in combinations(smaller, count)
        ),
        key=lambda chosen: expected(chosen) + price * len(chosen),
    )


def rows_now(seconds: Mapping[int, float]) -> tuple[int, ...]:
    """Return how many of 0, 1, 2, … waiting rows are run now: all, or a full bucket of them.

    The bucket below is filled and the rest left for the next run where that does more rows a second
    than all of them with padding: 40 rows in a bucket of 64 may take as long as 64.

    Args:
        seconds: Of a run, by bucket; the largest is the largest batch.
    """
    buckets = sorted(seconds)
    chosen = [0]
    for rows in range(1, buckets[-1] + 1):
        holding = bucket_of(rows, buckets)
        below = max((size for size in buckets if size < rows), default=0)
        is_below_faster = below and below / seconds[below] > rows / seconds[holding]
        chosen.append(below if is_below_faster else rows)
    return tuple(chosen)
