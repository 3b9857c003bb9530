"""What the queue holds and what a run gives: jobs, batches and runners.

A job is the rows of one request from acceptance until done; a batch is the rows of one run; a
runner runs it. Plain values that ``batcher`` moves; they decide nothing.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.errors import ServiceError
from service.session.outputs import Outputs

Rows = Sequence[NDArray[np.uint8]] | NDArray[np.uint8]


class Runner:
    """Runs batches, one at a time, and holds the memory that they are assembled in.

    Args:
        run: uint8 [N, H, W, C] to outputs of N rows; raises ServiceError (or anything) on failure.
            It gets the first N rows of ``buffer``, or the array of a request that is the only one
            in the batch, which is not copied.
        buffer: uint8 [max_batch_size, H, W, C], contiguous, of this runner only: written only
            while nothing runs here.
        stage: Called on the loop's thread with the next argument of ``run``, before that is
            submitted; begins its upload.
        run_lower: Takes the place of ``run`` in a brownout; None: there is none.
    """

    __slots__ = ("buffer", "lines", "row_lines", "run", "run_lower", "stage")

    def __init__(
        self,
        run: Callable[[NDArray[np.uint8]], Outputs],
        buffer: NDArray[np.uint8],
        stage: Callable[[NDArray[np.uint8]], None] | None = None,
        run_lower: Callable[[NDArray[np.uint8]], Outputs] | None = None,
    ) -> None:
        self.run = run
        self.run_lower = run_lower
        self.buffer = buffer
        self.stage = stage
        self.row_lines = buffer.shape[1]
        self.lines = buffer.reshape(-1, *buffer.shape[2:])

    def run_batch(self, images_NHWC: NDArray[np.uint8], *, is_lower: bool) -> Outputs:
        """Run a batch, at the lower precision if asked."""
        if is_lower:
            assert self.run_lower is not None, "only brownout asks for it; this is a bug"
            return self.run_lower(images_NHWC)
        return self.run(images_NHWC)

    def run_halves(self, images_NHWC: NDArray[np.uint8], *, is_lower: bool = False) -> Outputs:
        """Run a batch of two rows or more as two halves, each of which needs less memory."""
        middle = len(images_NHWC) // 2
        # Copies: the second run may write where the first one's outputs are, and it gets rows
        # that are not the first ones of the buffer.
        first = [part.copy() for part in self.run_batch(images_NHWC[:middle], is_lower=is_lower)]
        second = self.run_batch(images_NHWC[middle:].copy(), is_lower=is_lower)
        return Outputs(*(np.concatenate(both) for both in zip(first, second, strict=True)))


class Batch:
    """The rows of one run, its outputs and its times in seconds of the batcher's clock.

    ``jobs`` holds (job, first row of it, rows) of each member until they are done; ``notes`` is a
    cache for readers of the batch, for values that are computed once for all its rows.
    ``not_finite`` holds the error of each row whose probabilities are not all numbers;
    ``precision`` is that of a brownout, empty: the plan's.
    """

    __slots__ = (
        "jobs",
        "not_finite",
        "notes",
        "outputs",
        "precision",
        "rows",
        "run_s",
        "started_at",
    )

    def __init__(self, rows: int, jobs: "list[tuple[Job, int, int]]", started_at: float) -> None:
        self.rows = rows
        self.jobs = jobs
        self.started_at = started_at
        self.run_s = 0.0
        self.outputs: Outputs | None = None
        self.precision = ""
        self.not_finite: dict[int, str] = {}
        self.notes: dict[Any, Any] = {}


class Job:
    """The rows of one request, from acceptance until done; a subclass defines ``done``.

    Attributes:
        rows: uint8 [H, W, C] each, as a sequence or one array [N, H, W, C].
        count: Number of rows.
        deadline: Time of the batcher's clock after which the rows are not run.
        accepted_at: Time of acceptance.
        parts: (batch, first row in it, rows) in the order of the job's rows; whole when done.
        error: Error that ended it, or None.
        is_done: Whether ``done`` was called, or never will be because the client left.
        key: Under which its answer is remembered for feedback; 0: it is not, or not yet.
    """

    __slots__ = (
        "accepted_at",
        "count",
        "deadline",
        "error",
        "is_done",
        "key",
        "left",
        "parts",
        "rows",
        "taken",
    )

    def __init__(self, rows: Rows, deadline: float) -> None:
        self.rows = rows
        self.count = self.left = len(rows)
        self.deadline = deadline
        self.accepted_at = 0.0
        self.parts: list[tuple[Batch, int, int]] = []
        self.error: ServiceError | None = None
        self.taken = 0
        self.is_done = False
        self.key = 0

    @property
    def numbers(self) -> Sequence[int]:
        """Return the number of each row in its request, from 0: rows that are no image have one."""
        return range(self.count)

    def row_errors(self) -> dict[int, str]:
        """Return the error of each row of the finished job that has no answer."""
        errors: dict[int, str] = {}
        position = 0
        for batch, first, count in self.parts:
            for row, error in batch.not_finite.items():
                if first <= row < first + count:
                    errors[position + row - first] = error
            position += count
        return errors

    @property
    def precision(self) -> str:
        """Return the precision of a brownout that ran one of the rows, empty: none did."""
        for batch, _, _ in self.parts:
            if batch.precision:
                return batch.precision
        return ""

    def done(self) -> None:
        """Handle the result: called once, ``parts`` complete or ``error`` set, unless cancelled."""
        raise NotImplementedError
