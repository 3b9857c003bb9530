"""Which rows a queue takes: those that it can run in time. With brownout, at a lower precision.

Time is estimated from how long runs take, by their rows: the rows of an arriving request wait until
a runner is free and the full runs before them are done. A queue that has run nothing yet goes by
the time of a full run that was measured when the model was loaded.

Brownout begins where rows would be refused and a run of lower precision does them in time. It ends
once what waits takes the usual precision half of the time that was missed: two bounds, so that it
does not change with every batch. Knows counts and seconds, no rows and no requests.
"""

import math
from typing import NoReturn

from service.errors import QueueFullError
from service.pipeline.drain import DrainRate, RunTimes
from service.pipeline.job import Batch
from service.pipeline.limits import BatchLimits

# Share of the time to its deadline that a row may be estimated to wait and run. The rest covers the
# error of the estimate: under overload all accepted rows wait this long.
_SHARE_OF_DEADLINE = 0.8
# Share of the missed time in which the usual precision must do what waits for brownout to end.
_CALM = 0.5
# Reasons of a refusal, as metrics name them.
REASONS = WAIT, DEADLINE, MEMORY = "wait", "deadline", "memory"


class Admission:
    """What one queue admits, and at which precision it runs.

    Args:
        limits: Bounds.
        runners: Runs at once.
        full_batch_s: Seconds of a full run, as measured at the load; 0: unknown.
        lower_batch_s: The same at the lower precision; None: there is none.

    Attributes:
        is_brownout: Whether runs are at the lower precision now.
        refused: Refused requests by reason.
        slack_s: A deadline so far away is met by whatever is admitted, seconds.
    """

    def __init__(
        self,
        limits: BatchLimits,
        runners: int = 1,
        full_batch_s: float = 0.0,
        lower_batch_s: float | None = None,
    ) -> None:
        self._most = limits.max_batch_size
        self._max_wait_s = limits.max_wait_s
        self._runners = runners
        self._usual = RunTimes(self._most, full_batch_s)
        self._lower = None if lower_batch_s is None else RunTimes(self._most, lower_batch_s)
        self._drain = DrainRate()
        self._calm_s = 0.0
        self.is_brownout = False
        self.refused = dict.fromkeys(REASONS, 0)
        # Without figures of the moment: the bytes of a refusal are made once.
        self._too_long = (
            f"queue: expected a wait of at most {limits.max_wait_s * 1e3:g} ms, got more; "
            "retry later or raise FOVEAL_MAX_WAIT_MS"
        )
        self._too_late = (
            "queue: expected to be done before the deadline, got more rows waiting; "
            "retry later or give it more time"
        )
        self._update_slack()

    def left_s(self, batch: Batch, now: float) -> float:
        """Return the expected seconds that a run still takes; one that is late, as long again."""
        run_s = self._times(bool(batch.precision)).run_s(batch.rows)
        return abs(batch.started_at + run_s - now) if run_s else 0.0

    def full_run_s(self, batch: Batch) -> float:
        """Return the seconds within which a full run is in time, at the batch's precision."""
        run_s = self._times(bool(batch.precision)).run_s(self._most)
        return run_s / _SHARE_OF_DEADLINE

    def rows_within(self, left_s: float, batch: Batch) -> int:
        """Return how many rows a run does in time, with so many seconds left to a deadline."""
        row_s = self._times(bool(batch.precision)).run_s(self._most) / self._most
        return int(left_s * _SHARE_OF_DEADLINE / row_s)

    def check(self, waiting: int, rows: int, left_s: float, until_free_s: float) -> None:
        """Check that rows are run in time, behind those that wait.

        Rows of the next run are never refused for their wait: a run takes as long as it takes.

        Args:
            waiting: Rows before them.
            rows: How many.
            left_s: Seconds to their deadline.
            until_free_s: Expected seconds until a runner is free.

        Raises:
            QueueFullError: They would wait too long, or miss their deadline: they would take the
                runner from others for an answer that is worth nothing.
        """
        allowed_s = left_s * _SHARE_OF_DEADLINE
        asked = waiting, rows, allowed_s, until_free_s
        reason, ahead_s = self._judge(self._times(self.is_brownout), *asked)
        if not reason:
            return
        if self._lower is not None and not self.is_brownout:
            left, lower_s = self._judge(self._lower, *asked)
            if not left:
                self._begin(min(self._max_wait_s, allowed_s if reason == DEADLINE else math.inf))
                return
            ahead_s = lower_s
        self._refuse(reason, max(math.ceil(ahead_s), self._drain.seconds(waiting)))

    def check_decode(self, reserved: int, left_s: float, decode_s: float) -> None:
        """Check that rows are decoded in time.

        As many as one run takes always wait for their decoding, as rows do for the next run.

        Args:
            reserved: Rows that are being decoded, or wait for it.
            left_s: Seconds to the deadline of the new ones.
            decode_s: Expected seconds until their decoding begins.

        Raises:
            QueueFullError: They would wait too long, or miss their deadline.
        """
        if 0 < left_s * _SHARE_OF_DEADLINE < decode_s:
            self._refuse(DEADLINE, math.ceil(decode_s))
        if reserved >= self._most and decode_s > self._max_wait_s:
            self._refuse(WAIT, math.ceil(decode_s))

    def _refuse(self, reason: str, retry_after_s: int) -> NoReturn:
        self.refused[reason] += 1
        raise QueueFullError(
            self._too_late if reason == DEADLINE else self._too_long, retry_after_s
        )

    def refuse_memory(self, queue_bytes: int, waiting: int) -> None:
        """Refuse rows that there is no memory for.

        Raises:
            QueueFullError: Always.
        """
        self.refused[MEMORY] += 1
        raise QueueFullError(
            f"queue: expected at most {queue_bytes >> 10} KiB of rows waiting in all queues, "
            "got more; retry later or raise FOVEAL_MAX_INFLIGHT_MIB",
            self._drain.seconds(waiting),
        )

    def choose(self, waiting: int) -> bool:
        """Return whether the next run is at the lower precision, with so many rows waiting."""
        if self._lower is None:
            return False
        usual_s = self._usual.queue_s(waiting) / self._runners
        if not self.is_brownout:
            if usual_s > self._max_wait_s:
                self._begin(self._max_wait_s)
        elif usual_s <= self._calm_s:
            self.is_brownout = False
        return self.is_brownout

    def started(self, batch: Batch) -> None:
        """Note that a run starts."""
        self._drain.start(batch.jobs[0][0].accepted_at)

    def ended(self, batch: Batch, *, is_running: bool) -> None:
        """Note that a run ended, well or not, and whether others still run."""
        self._drain.finish(batch.rows, batch.started_at + batch.run_s, is_running=is_running)

    def learn(self, batch: Batch) -> None:
        """Learn from the time of a run that went well."""
        self._times(bool(batch.precision)).observe(batch.rows, batch.run_s)
        self._update_slack()

    def _times(self, is_lower: bool) -> RunTimes:
        return self._lower if is_lower and self._lower is not None else self._usual

    def _judge(
        self, times: RunTimes, waiting: int, rows: int, allowed_s: float, until_free_s: float
    ) -> tuple[str, float]:
        """Return why rows are not run in time, empty: they are, and the wait before them."""
        full_runs = waiting // self._most
        ahead_s = until_free_s + full_runs * times.run_s(self._most) / self._runners
        if full_runs and ahead_s > self._max_wait_s:
            return WAIT, ahead_s
        done_s = until_free_s + times.queue_s(waiting + rows) / self._runners
        return DEADLINE if 0 < allowed_s < done_s else "", ahead_s

    def _begin(self, missed_s: float) -> None:
        self.is_brownout = True
        self._calm_s = missed_s * _CALM

    def _update_slack(self) -> None:
        """Runs that are out and overrun by as much, the longest wait, and the run itself."""
        run_s = self._usual.run_s(self._most)
        wait_s = max(self._max_wait_s, run_s) + 2 * run_s
        self.slack_s = wait_s / _SHARE_OF_DEADLINE + 2 * run_s
