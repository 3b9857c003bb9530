"""A job that calls a function when it is done, and how tests queue one."""

from collections.abc import Callable

from service.pipeline.batcher import Batcher
from service.pipeline.job import Job, Rows


class CallbackJob(Job):
    """A job that calls a function when it is done.

    Args:
        rows: As in ``Job``.
        deadline: As in ``Job``.
        on_done: Called once, with the job.
    """

    __slots__ = ("_on_done",)

    def __init__(self, rows: Rows, deadline: float, on_done: "Callable[[Job], None]") -> None:
        super().__init__(rows, deadline)
        self._on_done: Callable[[Job], None] | None = on_done

    def done(self) -> None:
        """Call the function and drop it, so that no cycle is left for the collector."""
        on_done, self._on_done = self._on_done, None
        assert on_done is not None, "a job is done once; this is a bug"
        on_done(self)


def submit(batcher: Batcher, rows: Rows, deadline: float, on_done: Callable[[Job], None]) -> Job:
    """Queue the rows of one request; ``on_done`` gets the job once it is done."""
    job = CallbackJob(rows, deadline, on_done)
    batcher.enqueue(job)
    return job
