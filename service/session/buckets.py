"""Buckets: the batch sizes that a session runs, rows being filled up to the next one.

A GPU searches algorithms, captures graphs and holds buffers for each size, so few sizes are few
costs; each row that only fills a batch up is a cost, too. Arithmetic alone: knows no session.
"""

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from itertools import combinations

# A further bucket must take this share off the expected time of a run to be worth its graphs and
# buffers: less than that is within the noise of the measurement.
BUCKET_GAIN = 0.01


class BucketError(ValueError):
    """A list of buckets is none."""


def default_buckets(most: int) -> tuple[int, ...]:
    """Return 1, 2, 4, … up to the largest batch, which is one itself.

    Args:
        most: Rows of the largest batch, at least 1.
    """
    powers = [1 << n for n in range(most.bit_length()) if 1 << n < most]
    return (*powers, most)


def parse_buckets(text: str) -> tuple[int, ...]:
    """Read ``1,2,4,8``; ``auto`` is empty.

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
    """Return those below the largest batch, and the largest batch."""
    return (*(size for size in buckets if size < most), most)


def bucket_of(rows: int, buckets: Sequence[int]) -> int:
    """Return the smallest bucket that holds some rows.

    Args:
        rows: 1 <= rows <= the last bucket.
        buckets: Rising.
    """
    return buckets[bisect_left(buckets, rows)]


def padded_rows(rows: int, buckets: Sequence[int]) -> int:
    """Return how many rows are run for nothing."""
    return bucket_of(rows, buckets) - rows


def expected_s(buckets: Sequence[int], seconds: Mapping[int, float]) -> float:
    """Return the mean time of a run over the batch sizes that may come.

    Every doubling of the batch is taken to be as likely as the next, as load is not known when
    buckets are chosen: small batches are those of quiet hours, large ones those of rush hours.

    Args:
        buckets: Rising; the last one is the largest batch.
        seconds: Of a run, by bucket.
    """
    weights = [1 / rows for rows in range(1, buckets[-1] + 1)]
    times = [seconds[bucket_of(rows, buckets)] for rows in range(1, buckets[-1] + 1)]
    return sum(w * t for w, t in zip(weights, times, strict=True)) / sum(weights)


def choose_buckets(seconds: Mapping[int, float]) -> tuple[int, ...]:
    """Choose buckets by measurement: few graphs, and little time lost on padding.

    Of all sets with the largest batch in it, the one whose expected time is the shortest, where
    each bucket costs ``BUCKET_GAIN`` of the time that all of them together would take.

    Args:
        seconds: Of a run, by candidate, at most 13 of them; the largest is the largest batch.
    """
    *smaller, most = sorted(seconds)
    weights = [1 / rows for rows in range(1, most + 1)]
    # What a span of batch sizes weighs, from (excluded) one candidate to (included) another.
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
