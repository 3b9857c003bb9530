"""How fast a queue drains, and so who need not wait in it.

Rows a second while rows wait or run are behind ``Retry-After``; how long runs of each size take is
behind the refusal of rows that could not be done before their deadline.

Time that several runs share counts once, and so does what the loop does between two runs: the rate
is that of the whole, not of one run.
"""

import math

# Weight of the newest batch: about the last ten count.
_NEWEST = 0.1


class DrainRate:
    """Decayed sums of rows and busy seconds; their quotient is the rate."""

    __slots__ = ("_finished_at", "_rows", "_seconds", "_since")

    def __init__(self) -> None:
        self._rows = 0.0
        self._seconds = 0.0
        self._since = math.inf
        self._finished_at = -math.inf

    def start(self, waiting_since: float) -> None:
        """Note that a run starts, and since when its first row waits."""
        if self._since == math.inf:
            self._since = max(waiting_since, self._finished_at)

    def finish(self, rows: int, now: float, *, is_running: bool) -> None:
        """Note that a run of some rows is over, and whether others are not."""
        self._rows += (rows - self._rows) * _NEWEST
        self._seconds += (now - self._since - self._seconds) * _NEWEST
        self._finished_at = now
        self._since = now if is_running else math.inf

    def seconds(self, rows: int) -> int:
        """Return how long that many rows take, in whole seconds, at least 1."""
        return max(1, math.ceil(rows * self._seconds / self._rows)) if self._rows else 1


class RunTimes:
    """How long a run takes by its rows: seconds a row for each size up to 1, 2, 4, … rows, decayed.

    A lone row costs more than one of many, so one rate for both would be wrong of either.

    Args:
        max_rows: Of one run.
    """

    __slots__ = ("_max_rows", "_row_s")

    def __init__(self, max_rows: int) -> None:
        self._max_rows = max_rows
        self._row_s = [0.0] * (_size(max_rows) + 1)

    def observe(self, rows: int, run_s: float) -> None:
        """Note that a run of some rows took so long."""
        size, row_s = _size(rows), run_s / rows
        known = self._row_s[size]
        self._row_s[size] = known + (row_s - known) * _NEWEST if known else row_s

    def run_s(self, rows: int) -> float:
        """Return what a run should take; of a size not seen yet, its share of a full one, or 0."""
        return rows * (self._row_s[_size(rows)] or self._row_s[-1])

    def queue_s(self, rows: int) -> float:
        """Return what one runner should take for a queue; the last of several runs fills up."""
        if rows <= self._max_rows:
            return self.run_s(rows)
        return -(-rows // self._max_rows) * self.run_s(self._max_rows)


def _size(rows: int) -> int:
    return (rows - 1).bit_length()
