"""Work on the body of one request: its content coding is undone, its form is read.

Large bodies wait for a thread in the decode queue, as photographs do, until their deadline. What
the work makes of a body is counted in the worker's budget before there is memory for it.
"""

import logging
from collections.abc import Callable
from functools import partial
from typing import Any, Generic, TypeVar

from service.errors import DeadlineError, ServiceError
from service.lane.exchange import Exchange
from service.pipeline.batcher import Batcher
from service.protocols import compression
from service.protocols.engine import Engine
from service.protocols.limits import Held

logger = logging.getLogger("foveal.body")

# What expands to more is expanded on a thread; zlib writes about 300 MB/s.
INLINE_EXPANDED_BYTES = 64 << 10

Result = TypeVar("Result")


class BodyWork:
    """One request whose body takes work before it is answered; used on the loop.

    Subclasses answer the request. The base class refers to nothing that refers to it.

    Args:
        engine: What all protocols share.
        exchange: The request.
        deadline: When its rows must have been run, seconds of the batcher's clock.
    """

    __slots__ = ("_deadline", "_engine", "_exchange", "_held", "_reserved")

    def __init__(self, engine: Engine, exchange: Exchange, deadline: float) -> None:
        self._engine = engine
        self._exchange = exchange
        self._deadline = deadline
        self._held = Held(engine.inflight)  # results of the work; who uses them gives them back
        self._reserved: Batcher | None = None

    def _fail(self, error: ServiceError) -> None:
        """Answer with the error that ended the work."""
        raise NotImplementedError

    def _reserve(self, batcher: Batcher) -> None:
        """Keep a place in the queue, and with it the version loaded, until ``_release``.

        Raises:
            ServiceError: The queue refuses the request.
        """
        batcher.reserve(1, self._deadline)
        self._reserved = batcher

    def _release(self) -> None:
        """Give the place back, if one is kept."""
        if self._reserved is not None:
            self._reserved.release(1)
            self._reserved = None

    def _expand(self, take: Callable[[bytes], None]) -> None:
        """Undo the content coding, now or on a thread.

        Args:
            take: Called with the body, on the loop.

        Raises:
            ServiceError: The body is refused now, or ``take`` raised it.
        """
        body, coding = self._exchange.body, self._exchange.content_coding
        if coding is None or compression.is_identity(coding):
            take(body)
            return
        limit = self._engine.limits.max_body_bytes

        def expand(size: int) -> None:
            work = partial(compression.decompress, body, coding, limit, size)
            is_small = max(size, len(body)) <= INLINE_EXPANDED_BYTES
            self._do(work, size, take, is_inline=is_small)

        measure = partial(compression.expanded_bytes, body, coding, limit)
        if compression.states_size(coding):
            expand(measure())
        else:
            self._queue(measure, compression.PIECE_BYTES, expand)

    def _do(
        self,
        work: Callable[[], Result],
        size: int,
        take: Callable[[Result], None],
        *,
        is_inline: bool,
    ) -> None:
        """Do a piece of work, now or on a thread.

        Args:
            work: Its result holds ``size`` bytes.
            size: As said.
            take: Called with the result, on the loop.
            is_inline: Whether it is short enough for the loop.

        Raises:
            ServiceError: The work is refused now, or ``take`` raised it.
        """
        self._held.take(size)  # before there is memory for it
        if is_inline:
            take(work())
        else:
            self._queue(work, 0, take)

    def _queue(self, work: Callable[[], Result], size: int, take: Callable[[Result], None]) -> None:
        self._engine.decode_queue.put(_Work(work, size, self._deadline, take, self._fail))


class _Work(Generic[Result]):
    """One piece of work in the decode queue; see ``DecodeWork``."""

    # Bodies take turns with the photographs of each model, as if they were one more.
    model = BodyWork
    is_quick = False
    tickets: tuple[Any, ...] = ()  # no card takes it

    def __init__(
        self,
        work: Callable[[], Result],
        size: int,
        deadline: float,
        take: Callable[[Result], None],
        fail: Callable[[ServiceError], None],
    ) -> None:
        self._work = work
        self._take = take
        self._fail = fail
        self._result: Result | ServiceError | None = None
        self.deadline = deadline
        self.size = size
        self.is_over = False

    def run(self) -> None:
        """Do the work, on a thread."""
        if self.is_over:
            return
        try:
            self._result = self._work()
        except ServiceError as error:
            self._result = error.detached()
        except Exception:  # an executor would drop it, and the request would get no answer
            self._result = _bug()

    def finish(self) -> bool:
        """Pass the result on, on the loop."""
        result, self._result = self._result, None
        assert result is not None, "finished before it was run; this is a bug"
        try:
            if isinstance(result, ServiceError):
                self._fail(result)
            else:
                self._take(result)
        except ServiceError as error:
            self._fail(error.detached())
        except Exception:  # nobody answers for a callback that raises
            self._fail(_bug())
        return True

    def expire(self) -> None:
        """Pass on that the deadline has passed; a thread may still be at work."""
        self._fail(
            DeadlineError("the request's deadline passed while its body was read; retry later")
        )


def _bug() -> ServiceError:
    logger.exception("a body could not be read; this is a bug")
    return ServiceError()
