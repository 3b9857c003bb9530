"""The decode stage: the encoded images of one request become rows of a model.

    encoded image -> size in its header -> admission to the queue -> decode -> row

Small images are decoded on the event loop, large ones on threads or by a card. The work starts
only once the queue has room for the rows and can run them before their deadline. Every protocol
decodes here; what a request does with its rows is the protocol's concern.

No input holds the loop: what is large, or of a format whose header takes Python to read, is not
even looked at there.
"""

import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from models.image import PIXEL_BYTES, Pixels
from service.errors import DeadlineError, ServiceError
from service.pipeline.card_lane import Card
from service.pipeline.classifier import Classifier
from service.pipeline.decode_queue import DecodeQueue

logger = logging.getLogger("foveal.decode")

# A request of up to this many pixels is decoded on the loop: about 0.2 ms, as much as handing it to
# a thread and back costs under load. Of an image that is enlarged, its pixels after that count.
INLINE_PIXELS = 128 * 128
# And of this many bytes, as nothing is small that is larger: 128 x 128 pixels of 16 bits in RGBA
# take 128 KiB. The slowest header of this size takes 15 ms.
INLINE_BYTES = 256 << 10
# And of this many images: a header of few bytes may take 1 ms, as a JPEG's of 1,024 segments.
INLINE_IMAGES = 16
# What work on a thread may hold before its images are measured: most photographs that are decoded
# at a scale need no more, and are decoded in the same step.
FIRST_BYTES = 2 << 20
# What is small in bytes and has so many pixels is quick, though not enough for the loop: 512 x 512
# pixels take 2 ms as a JPEG and up to 10 ms as a PNG.
QUICK_PIXELS = 1 << 18

Errors = list[ServiceError | None]
Take = Callable[[list[Pixels], Errors], None]
"""Gets the rows of the good images, in order, and an error or None for each image."""


class DecodeStage:
    """Decodes images for one model.

    Args:
        classifier: The model; it must be started.
        queue: Where large images wait for a thread.
        observe: Called on the loop with the seconds that one image took.
        count: Called on the loop for each image that was decoded where a card is: empty if the
            card decoded it, else why it did not.
    """

    __slots__ = (
        "_admit",
        "_batcher",
        "_card",
        "_count",
        "_decode",
        "_inline_pixels",
        "_is_light",
        "_observe",
        "_pixels",
        "_queue",
        "_resized_pixels",
    )

    def __init__(
        self,
        classifier: Classifier,
        queue: DecodeQueue,
        observe: Callable[[float], None],
        count: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._card = classifier.card
        self._count = count
        self._batcher = classifier.batcher
        self._admit = classifier.batcher.admit
        self._is_light = classifier.is_light
        self._pixels = classifier.pixels
        self._resized_pixels = classifier.resized_pixels
        self._inline_pixels = INLINE_PIXELS if self._resized_pixels <= INLINE_PIXELS else 0
        self._decode = classifier.decode_sized
        self._queue = queue
        self._observe = observe

    def decode_small(self, encoded: bytes, deadline: float) -> Pixels | None:
        """Decode one small image now: the path of most requests, without lists or callbacks.

        Args:
            encoded: The image.
            deadline: When its row must have been run, seconds of the batcher's clock.

        Returns:
            uint8 [H, W, C], 0-255; None if the image is too large for the loop: use ``decode``.

        Raises:
            ServiceError: The image or the queue refuses it.
        """
        self._admit(1, deadline)  # before any work
        if (
            len(encoded) > INLINE_BYTES
            or not self._is_light(encoded)
            or self._pixels(encoded) > self._inline_pixels
        ):
            return None
        started = time.monotonic()
        row_HWC = self._decode(encoded)
        self._observe(time.monotonic() - started)
        return row_HWC

    def decode(
        self, images: Sequence[bytes], deadline: float, take: Take, *, stops_at_error: bool = False
    ) -> Callable[[], None] | None:
        """Decode the images of one request, now or on a thread.

        Args:
            images: At least one.
            deadline: When their rows must have been run, seconds of the batcher's clock.
            take: Called once, on the loop, even if the client has left meanwhile; must not raise.
            stops_at_error: Whether one bad image spoils the request: ``take`` then gets the error
                of the first one, and nothing after it is decoded.

        Returns:
            What to call if the client leaves: work that has not begun never does, and ``take`` gets
            errors at once. None: ``take`` was called.

        Raises:
            ServiceError: The queue refuses the request; ``take`` is not called.
        """
        work = _Work(self, images, deadline, take, stops_at_error)
        work.is_quick = sum(map(len, images)) <= INLINE_BYTES and all(map(self._is_light, images))
        if work.is_quick and len(images) <= INLINE_IMAGES:
            work.measure()
            if work.has_failed:
                take([], work.errors)
                return None
            if work.pixels <= INLINE_PIXELS:
                self._admit(len(images), deadline)
                work.decode()
                work.pass_on()
                return None
        wait_s = 0.0 if work.is_quick else self._queue.wait_s(self._batcher)
        self._batcher.reserve(len(images), deadline, wait_s)
        if work.is_measured:
            work.is_quick = work.pixels <= QUICK_PIXELS
        else:
            work.size = FIRST_BYTES
        self._queue.put(work)
        return partial(self._queue.cancel, work)


class _Work:
    """The images of one request on their way: measured, then decoded, then passed on."""

    def __init__(
        self,
        stage: DecodeStage,
        images: Sequence[bytes],
        deadline: float,
        take: Take,
        stops_at_error: bool,
    ) -> None:
        self._stage = stage
        self._images = images
        self._take = take
        self._stops_at_error = stops_at_error
        self.is_measured = self._is_decoded = False
        self.card: Card | None = stage._card
        self.tickets: list[Any] = []
        self._positions: list[int] = []  # of their images
        self._tickets: deque[tuple[int, Any]] | None = None  # those left, and of which image
        self._reasons = [""] * len(images)  # why the CPU decodes an image; empty: the card did
        self._rows: list[Pixels | None] = [None] * len(images)
        self._seconds: list[float] = []
        self.deadline = deadline
        self.errors: Errors = [None] * len(images)
        self.model = stage._batcher
        self.is_quick = self.is_over = False
        self.pixels = self.size = 0

    @property
    def has_failed(self) -> bool:
        """Whether an error spoils the request."""
        return self._stops_at_error and any(self.errors)

    def run(self) -> None:
        """Measure the images, and decode them if they fit into what is counted; on any thread.

        What a card may decode is left to it, before anything else of the request is decoded.
        """
        was_measured = self.is_measured
        if not was_measured:
            self.measure()
            if self.has_failed:
                return
        if self.card is not None and self._tickets is None:
            self._ask(self.card)
            if self.tickets:
                return
        if not was_measured:
            is_too_slow = self.is_quick and self.pixels > QUICK_PIXELS
            if self.size > FIRST_BYTES or is_too_slow:
                return
        self.decode()

    def _ask(self, card: Card) -> None:
        """Ask the card for tickets."""
        self._tickets = deque()
        for position, encoded in enumerate(self._images):
            if self.errors[position] is None and not self.is_over:
                ticket = card.ticket(encoded)
                if isinstance(ticket, str):
                    self._reasons[position] = ticket
                else:
                    self._tickets.append((position, ticket))
        self._next_tickets(card)

    def _next_tickets(self, card: Card) -> None:
        """Take the tickets of the next batch from those that are left."""
        assert self._tickets is not None, "asked before; this is a bug"
        self._positions, self.tickets, size = [], [], 0
        while self._tickets and len(self.tickets) < card.most_images:
            position, ticket = self._tickets[0]
            size += ticket.size
            if size > card.most_bytes and self.tickets:
                return
            self._tickets.popleft()
            self._positions.append(position)
            self.tickets.append(ticket)

    def take_rows(self, rows: Sequence[Pixels | None], each_s: float) -> None:
        """Take what the card made of its tickets; what it left is the CPU's."""
        for position, row_HWC in zip(self._positions, rows, strict=True):
            if row_HWC is None:
                self._reasons[position] = "refused"
            else:
                self._rows[position] = row_HWC
                self._seconds.append(each_s)
        assert self.card is not None, "tickets are a card's; this is a bug"
        self._next_tickets(self.card)
        is_whole = all(
            row is not None or error is not None
            for row, error in zip(self._rows, self.errors, strict=True)
        )
        self._is_decoded = is_whole and not self.tickets

    def finish(self) -> bool:
        """Pass the rows on, unless the images are only measured yet."""
        if not self._is_decoded and not self.has_failed:
            return False
        self._stage._batcher.release(len(self.errors))
        self.pass_on()
        return True

    def expire(self) -> None:
        """Pass on that the deadline has passed; a thread may still be at work."""
        error = DeadlineError("the request's deadline passed while it was decoded; retry later")
        self._stage._batcher.release(len(self.errors))
        self._take([], [error] * len(self.errors))

    def pass_on(self) -> None:
        """Hand the rows over and count their times, on the loop."""
        for image_s in self._seconds:
            self._stage._observe(image_s)
        rows = [row for row in self._rows if row is not None]
        if self.card is not None:
            for row, reason in zip(self._rows, self._reasons, strict=True):
                if row is not None:
                    self._stage._count(reason or ("" if self._tickets is not None else "small"))
        self._take(rows, self.errors)

    def measure(self) -> None:
        """Read all headers; decoders hold one image at a time."""
        self.is_measured = True
        for position, encoded in enumerate(self._images):
            try:
                pixels = self._stage._pixels(encoded)
            except Exception as error:
                self.errors[position] = _as_refusal(error)
                if self._stops_at_error:
                    return
            else:
                self.pixels += max(pixels, self._stage._resized_pixels)
                self.size = max(self.size, pixels * PIXEL_BYTES)

    def decode(self) -> None:
        """Decode every image that has no error yet, and note new errors."""
        self._is_decoded = True
        for position, encoded in enumerate(self._images):
            if self.errors[position] is not None or self._rows[position] is not None:
                continue
            if self.is_over:
                return
            started = time.monotonic()
            try:
                self._rows[position] = self._stage._decode(encoded)
            except Exception as error:
                self.errors[position] = _as_refusal(error)
                if self._stops_at_error:
                    return
            else:
                self._seconds.append(time.monotonic() - started)


def _as_refusal(error: Exception) -> ServiceError:
    """Return the error of one image; a bug in a decoder must not lose the request's answer."""
    if isinstance(error, ServiceError):
        return error.detached()
    logger.error("decoding failed; this is a bug", exc_info=error)
    return ServiceError()
