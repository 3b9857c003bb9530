"""How fast a queue drains.

``Retry-After`` comes from the rows a second while rows wait or run, too; the refusal of rows that
would wait too long or miss their deadline comes from the time that runs of each size take.

Time that several runs share counts once, and so does the loop's own time between two runs: the rate
is that of the whole queue, not of one run.
"""

import math

# Weight of the newest batch: about the last ten batches count.
_NEWEST = 0.1
# Weight of the newest run among those of its size: about the last four count. A machine that gets
# slow is noticed after as many runs, while the rows that were let in before still wait.
_NEWEST_RUN = 0.25


class DrainRate:
    """Decayed sums of rows and busy seconds; their quotient is the rate."""

    __slots__ = ("_finished_at", "_rows", "_seconds", "_since")

    def __init__(self) -> None:
        self._rows = 0.0
        self._seconds = 0.0
        self._since = math.inf
        self._finished_at = -math.inf

    def start(self, waiting_since: float) -> None:
        """Record that a run starts, and since when its first row waits."""
        if self._since == math.inf:
            self._since = max(waiting_since, self._finished_at)

    def finish(self, rows: int, now: float, *, is_running: bool) -> None:
        """Record that a run of some rows ended, and whether others still run."""
        self._rows += (rows - self._rows) * _NEWEST
        self._seconds += (now - self._since - self._seconds) * _NEWEST
        self._finished_at = now
        self._since = now if is_running else math.inf

    def seconds(self, rows: int) -> int:
        """Return the time for a number of rows, in whole seconds, at least 1."""
        return max(1, math.ceil(rows * self._seconds / self._rows)) if self._rows else 1


class RunTimes:
    """How long a run takes by its rows: seconds a row for each size up to 1, 2, 4, … rows, decayed.

    A single row costs more than one of many, so one rate would be wrong for both.

    Args:
        max_rows: Rows of one run, at most.
        full_s: Seconds of a full run, as measured before; 0: unknown.
    """

    __slots__ = ("_max_rows", "_row_s")

    def __init__(self, max_rows: int, full_s: float = 0.0) -> None:
        self._max_rows = max_rows
        self._row_s = [0.0] * (_size(max_rows) + 1)
        self._row_s[-1] = full_s / max_rows

    def observe(self, rows: int, run_s: float) -> None:
        """Record the time of a run; what it tells of the machine's speed counts for all sizes."""
        size, row_s = _size(rows), run_s / rows
        known = self._row_s[size]
        if known:
            change = 1 + (row_s / known - 1) * _NEWEST_RUN
            self._row_s = [row_s * change for row_s in self._row_s]
        else:
            self._row_s[size] = row_s

    def run_s(self, rows: int) -> float:
        """Return the expected seconds of a run; for an unseen size a share of a full one, or 0."""
        return rows * (self._row_s[_size(rows)] or self._row_s[-1])

    def queue_s(self, rows: int) -> float:
        """Return the expected seconds of one runner for a queue; several runs count as full."""
        if rows <= self._max_rows:
            return self.run_s(rows)
        return -(-rows // self._max_rows) * self.run_s(self._max_rows)


def _size(rows: int) -> int:
    return (rows - 1).bit_length()
