"""What the plots of a load test show, in words: for those who do not see them."""

import math
from collections.abc import Mapping, Sequence

from loadtest.plots import Point
from loadtest.samples import OUTCOMES
from loadtest.windows import Window
from report.numbers import three_digits


def frontier_words(points: Sequence[Point]) -> str:
    """Return the fewest and the most answers a second, with their p99."""
    known = [point for point in points if not math.isnan(point.p99_ms)]
    if not known:
        return "Nothing was answered."
    low, high = (f(known, key=lambda point: point.answered_per_s) for f in (min, max))
    ends = " to ".join(
        f"{three_digits(point.answered_per_s)} answers/s with p99 {three_digits(point.p99_ms)} ms"
        for point in (low, high)
    )
    return f"{len(known)} points, from {ends}."


def time_words(windows: Sequence[Window]) -> str:
    """Return where p99 lies over the slices of a load."""
    known = [window for window in windows if not math.isnan(window.p99_ms)]
    if not known:
        return "No slice of time has an answer."
    worst = max(known, key=lambda window: window.p99_ms)
    middle = sorted(window.p99_ms for window in known)[len(known) // 2]
    return (
        f"p99 in {len(known)} slices of time: {three_digits(middle)} ms in the middle one, "
        f"at most {three_digits(worst.p99_ms)} ms, {worst.begin_s:.1f} s after the start."
    )


def percentile_words(latencies_ms: Sequence[float]) -> str:
    """Return the median, p99 and largest latency of all answers."""
    if not latencies_ms:
        return "Nothing was answered."
    ordered = sorted(latencies_ms)
    at = [ordered[min(len(ordered) - 1, int(share * len(ordered)))] for share in (0.5, 0.99, 1)]
    median, p99, most = map(three_digits, at)
    return f"Half of the answers within {median} ms, 99 % within {p99} ms, all within {most} ms."


def outcome_words(windows: Sequence[Window]) -> str:
    """Return how many requests had each outcome."""
    totals = [sum(window.outcomes[i] for window in windows) for i in range(len(OUTCOMES))]
    said = [f"{total:,} {name}" for name, total in zip(OUTCOMES, totals, strict=True) if total]
    return f"Requests by outcome: {', '.join(said) or 'none'}."


def batch_words(batch_rows: Sequence[tuple[float, int]]) -> str:
    """Return which size of batch was run most often.

    Args:
        batch_rows: Pairs (largest rows of the bucket, runs), as ``plot_batches`` gets them.
    """
    total = sum(runs for _, runs in batch_rows)
    if not total:
        return "Nothing was run."
    bound, runs = max(batch_rows, key=lambda pair: pair[1])
    below = max((other for other, _ in batch_rows if other < bound), default=0.0)
    rows = f"{bound:g}" if bound == below + 1 else f"{below + 1:g} to {bound:g}"
    rows = f"more than {below:g}" if math.isinf(bound) else rows
    return f"Runs by their rows: most often {rows}, in {runs:,} of {total:,} runs."


def stage_words(means_ms: Mapping[str, float]) -> str:
    """Return the mean time of each stage."""
    said = [f"{name} {three_digits(value)} ms" for name, value in means_ms.items()]
    return f"Mean time of a request: {', '.join(said) or 'unknown'}."
