"""The queue in front of a card that decodes photographs: one batch at a time, of whatever waits.

    ticket -> waiting -> batch on the card's thread -> rows, or None for the CPU's threads

While one batch is decoded, the next one gathers: no timer, and under load batches are full. Models
share it in the order of arrival, as a row takes the card a tenth of a millisecond.
"""

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from service.pipeline.alarm import Loop

# Weight of the newest batch when the time of an image is estimated.
_NEWEST = 0.1


class Ticket(Protocol):
    """An image that the card may decode."""

    @property
    def size(self) -> int:
        """Return its bytes of a batch's bound."""


class Card(Protocol):
    """The card for one model; see ``service.session.gpu.photographs``.

    Attributes:
        most_images: Images in a batch, at most.
        most_bytes: Sizes of the tickets of a batch together, at most; no ticket has more.
    """

    most_images: int
    most_bytes: int

    @property
    def kinds(self) -> frozenset[str]:
        """Return the kinds of JPEG that it decodes."""

    def ticket(self, encoded: bytes) -> Any:
        """Return a ticket for an image, or a word: why only the CPU decodes it; on any thread."""

    def rows(self, tickets: Sequence[Any]) -> list[NDArray[np.uint8] | None]:
        """Decode a batch on the card's thread; never raises."""


class CardWork(Protocol):
    """The images of one request that the card may decode.

    Attributes:
        card: What decodes them; all works of a lane have the same one, for their models.
        is_over: Whether the request was answered.
    """

    card: Card | None
    is_over: bool

    @property
    def tickets(self) -> Sequence[Any]:
        """Return those of its next batch, within the card's bounds; empty: none any more."""

    def take_rows(self, rows: Sequence[NDArray[np.uint8] | None], each_s: float) -> None:
        """Take what the card made of its tickets, on the loop, and the seconds of an image."""


class CardLane:
    """Gathers batches and runs them; used on the event loop's thread.

    Args:
        thread: The card's thread: one.
        loop: Event loop.
        back: Called with each work whose rows it took.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        thread: Executor,
        loop: Loop,
        back: Callable[[Any], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._thread = thread
        self._loop = loop
        self._back = back
        self._clock = clock
        self._waiting: deque[Any] = deque()
        self._running: list[Any] = []
        self._image_s = 0.0

    def __iter__(self) -> Iterator[Any]:
        yield from self._waiting
        yield from self._running

    def __bool__(self) -> bool:
        return bool(self._waiting or self._running)

    @property
    def wait_s(self) -> float:
        """Return the expected seconds until the card has done what waits."""
        return self._image_s * sum(len(work.tickets) for work in self._waiting)

    def is_running(self, work: Any) -> bool:
        """Return whether a work is on the card now."""
        return any(each is work for each in self._running)

    def put(self, work: Any) -> None:
        """Let a work with tickets wait for the next batch."""
        self._waiting.append(work)
        if not self._running and len(self._waiting) == 1:
            # In the next turn of the loop, so that other scans that ended in this one join.
            self._loop.call_soon(self._start)

    def drop_over(self) -> None:
        """Remove what was answered."""
        self._waiting = deque(work for work in self._waiting if not work.is_over)

    def close(self) -> None:
        """Let the thread end after the batch that it has begun."""
        self._thread.shutdown(wait=False)

    def _start(self) -> None:
        if self._running or not self._waiting:
            return
        works, size = self._running, 0
        tickets: list[Any] = []
        card = self._waiting[0].card
        while self._waiting:
            more = self._waiting[0].tickets
            size += sum(ticket.size for ticket in more)
            is_full = len(tickets) + len(more) > card.most_images or size > card.most_bytes
            if tickets and is_full:
                break
            works.append(self._waiting.popleft())
            tickets += more
        self._thread.submit(self._run, card, tickets)

    def _run(self, card: Card, tickets: list[Any]) -> None:
        started = self._clock()
        rows = card.rows(tickets)
        each_s = (self._clock() - started) / len(tickets)
        self._loop.call_soon_threadsafe(self._finish, rows, each_s)

    def _finish(self, rows: list[NDArray[np.uint8] | None], each_s: float) -> None:
        self._image_s += (each_s - self._image_s) * (_NEWEST if self._image_s else 1.0)
        works, self._running = self._running, []
        self._start()  # first, so that the card is busy while rows are passed on
        first = 0
        for work in works:
            last = first + len(work.tickets)
            work.take_rows(rows[first:last], each_s)
            first = last
            self._back(work)
