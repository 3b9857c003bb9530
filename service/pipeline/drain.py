"""How fast a queue drains: rows a second while rows wait or run, behind ``Retry-After``.

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
