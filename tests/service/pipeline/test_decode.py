"""The decode stage: where it decodes, what it asks of the queue, what becomes of bad images."""

import time
from collections.abc import Callable
from typing import Any, cast

import numpy as np
import pytest
from numpy.typing import NDArray

from models.image import PIXEL_BYTES
from service.errors import DecodeError, NotReadyError, QueueFullError, ServiceError
from service.inflight import Inflight
from service.pipeline.batcher import Batcher
from service.pipeline.decode import (
    FIRST_BYTES,
    INLINE_BYTES,
    INLINE_IMAGES,
    INLINE_PIXELS,
    QUICK_PIXELS,
    DecodeStage,
)
from service.pipeline.decode_queue import DecodeQueue
from service.pipeline.limits import BatchLimits
from tests.service.pipeline.simulator import FakeExecutor, World, row

SMALL = b"1"
LARGE = b"2" * (INLINE_PIXELS + 1)
LARGE_BYTES = len(LARGE) * PIXEL_BYTES
HEAVY = b"9"
BAD_HEADER, BAD_BODY, BUG = b"header", b"body", b"bug"


class Model:
    """A model whose images have as many pixels as bytes; the first byte is the row."""

    resized_pixels = 1
    card = None

    def __init__(self, batcher: Batcher) -> None:
        self.batcher = batcher
        self.measured: list[bytes] = []
        self.decoded: list[bytes] = []

    def is_light(self, encoded: bytes) -> bool:
        return not encoded.startswith(HEAVY)

    def pixels(self, encoded: bytes) -> int:
        self.measured.append(encoded)
        if encoded == BAD_HEADER:
            raise DecodeError("bad header")
        return len(encoded)

    def decode_sized(self, encoded: bytes) -> NDArray[np.uint8]:
        self.decoded.append(encoded)
        if encoded == BAD_BODY:
            raise DecodeError("bad body")
        if encoded == BUG:
            raise ZeroDivisionError
        return row(encoded[0])


class Desk:
    """A decode stage before a queue of a second a row and five of waiting; what it passed on."""

    def __init__(self, quick: FakeExecutor | None = None) -> None:
        self.world = World(BatchLimits(max_batch_size=4, max_wait_s=5), threads=1, full_s=4.0)
        self.quick = quick
        self.batcher = self.world.batcher
        self.loop = self.world.loop
        self.threads = FakeExecutor(2)
        self.inflight = Inflight(4 * LARGE_BYTES)
        self.queue = DecodeQueue(
            self.threads, 2, self.loop, self.inflight, clock=lambda: self.loop.now, quick=quick
        )
        self.model = Model(self.batcher)
        self.seconds: list[float] = []
        self.others = 0  # rows that other requests have reserved
        self.taken: list[tuple[list[int], list[str | None]]] = []
        self.stage = DecodeStage(cast(Any, self.model), self.queue, self.seconds.append)

    def take(self, rows: list[Any], errors: list[ServiceError | None]) -> None:
        assert self.batcher.reserved_rows == self.others, "the reservation is given back before"
        messages = [None if error is None else error.message for error in errors]
        self.taken.append(([int(r[3, 0, 0]) for r in rows], messages))

    def decode(self, *images: bytes, stops_at_error: bool = False) -> None:
        deadline = self.loop.now + 30
        self.stage.decode(images, deadline, self.take, stops_at_error=stops_at_error)


@pytest.fixture
def desk() -> Desk:
    return Desk()


def one(desk: Desk, encoded: bytes) -> None:
    desk.stage.decode_small(encoded, desk.loop.now + 30)


def many(desk: Desk, encoded: bytes) -> None:
    desk.decode(encoded)


def fill(desk: Desk) -> None:
    """Fill the queue while a run holds the only runner."""
    desk.world.submit()
    desk.loop.settle()
    desk.world.submit(8)


def test_a_small_image_is_decoded_at_once(desk: Desk) -> None:
    started = time.monotonic()
    row_HWC = desk.stage.decode_small(SMALL, desk.loop.now + 30)
    np.testing.assert_array_equal(row_HWC, row(SMALL[0]))
    assert len(desk.seconds) == 1
    assert 0 <= desk.seconds[0] <= time.monotonic() - started


def test_a_large_image_is_left_to_the_threads(desk: Desk) -> None:
    assert desk.stage.decode_small(LARGE, desk.loop.now + 30) is None
    assert (desk.model.decoded, desk.seconds) == ([], [])
    desk.decode(LARGE)
    assert (desk.model.decoded, desk.batcher.reserved_rows) == ([], 1)
    desk.threads.finish()
    assert desk.taken == []  # not on the thread
    desk.loop.settle()
    assert desk.taken == [([LARGE[0]], [None])]
    assert len(desk.seconds) == 1


@pytest.mark.parametrize("pixels", [INLINE_PIXELS, INLINE_PIXELS + 1])
def test_a_small_image_that_is_enlarged_is_left_to_the_threads(desk: Desk, pixels: int) -> None:
    desk.model.resized_pixels = pixels
    stage = DecodeStage(cast(Any, desk.model), desk.queue, desk.seconds.append)
    is_inline = pixels == INLINE_PIXELS
    assert (stage.decode_small(SMALL, desk.loop.now + 30) is not None) == is_inline
    stage.decode([SMALL], desk.loop.now + 30, desk.take)
    assert (desk.taken == [([SMALL[0]], [None])]) == is_inline
    if not is_inline:
        desk.threads.finish()
        desk.loop.settle()
    stage.decode([SMALL, SMALL], desk.loop.now + 30, desk.take)
    assert len(desk.taken) == 1  # together they are larger
    desk.threads.finish()
    desk.loop.settle()
    assert desk.taken == [([SMALL[0]], [None]), ([SMALL[0]] * 2, [None] * 2)]


def test_small_images_are_large_together(desk: Desk) -> None:
    half = b"3" * (INLINE_PIXELS // 2 + 1)
    desk.decode(half)
    assert len(desk.taken) == 1
    desk.decode(half, half)
    assert (len(desk.taken), desk.batcher.reserved_rows) == (1, 2)


@pytest.mark.parametrize(
    ("decode", "encoded"),
    [(one, SMALL), (many, SMALL), (many, LARGE)],
    ids=["one", "many", "large"],
)
def test_a_full_queue_refuses_before_the_work(
    desk: Desk, decode: Callable[[Desk, bytes], None], encoded: bytes
) -> None:
    fill(desk)
    with pytest.raises(QueueFullError):
        decode(desk, encoded)
    assert (desk.model.decoded, desk.taken) == ([], [])


@pytest.mark.parametrize("decode", [one, many])
def test_a_closed_queue_refuses(desk: Desk, decode: Callable[[Desk, bytes], None]) -> None:
    desk.batcher.close()
    with pytest.raises(NotReadyError):
        decode(desk, SMALL)
    assert desk.model.decoded == []


@pytest.mark.parametrize("padding", [b"", LARGE], ids=["loop", "thread"])
def test_each_bad_image_has_its_own_error(desk: Desk, padding: bytes) -> None:
    images = [BAD_HEADER, b"5", BAD_BODY, BUG, *([padding] if padding else [])]
    desk.decode(*images)
    if padding:
        desk.threads.finish()
        desk.loop.settle()
    good = [b"5"[0], *padding[:1]]
    bug = "internal error; see the server's log"
    assert desk.taken == [(good, ["bad header", None, "bad body", bug, *[None] * bool(padding)])]
    assert BAD_HEADER not in desk.model.decoded
    assert len(desk.seconds) == len(good)  # one observation for each image that became a row


def test_one_bad_image_may_stop_the_request(desk: Desk) -> None:
    desk.decode(b"5", BAD_BODY, b"6", stops_at_error=True)
    assert desk.taken == [([b"5"[0]], [None, "bad body", None])]
    assert desk.model.decoded == [b"5", BAD_BODY]


def test_a_bad_header_stops_the_request_before_the_queue_is_asked(desk: Desk) -> None:
    fill(desk)
    desk.decode(b"5", BAD_HEADER, stops_at_error=True)
    assert desk.taken == [([], [None, "bad header"])]
    assert desk.model.decoded == []


@pytest.mark.parametrize("stops_at_error", [False, True])
def test_places_are_given_back_whatever_happens(desk: Desk, stops_at_error: bool) -> None:
    desk.decode(LARGE, BAD_BODY, BUG, stops_at_error=stops_at_error)
    assert desk.batcher.reserved_rows == 3
    desk.threads.finish()
    desk.loop.settle()
    assert desk.batcher.reserved_rows == 0
    assert len(desk.taken) == 1


def test_what_is_heavy_is_first_looked_at_on_a_thread(desk: Desk) -> None:
    """Nothing a client sends holds the loop: not its format, and below not its bytes."""
    assert desk.stage.decode_small(HEAVY, desk.loop.now + 30) is None
    desk.decode(HEAVY)
    assert desk.model.measured == []
    desk.threads.finish()
    desk.loop.settle()
    assert desk.taken == [([HEAVY[0]], [None])], "small enough to be decoded in the same step"
    assert desk.inflight.used == desk.batcher.reserved_rows == 0


@pytest.mark.parametrize("count", [INLINE_IMAGES, INLINE_IMAGES + 1])
def test_many_images_are_first_looked_at_on_a_thread(count: int) -> None:
    """A file of 4 bytes may take its decoder 0.2 ms to refuse."""
    desk = Desk()
    desk.decode(*[BAD_HEADER] * count)
    is_inline = count == INLINE_IMAGES
    assert (len(desk.model.measured) == count) == is_inline
    if not is_inline:
        desk.threads.finish()
        desk.loop.settle()
    assert desk.taken == [([], ["bad header"] * count)]


def test_many_small_images_wait_for_no_photograph() -> None:
    """Unless they turn out to be large together: then they wait like one."""
    quick = FakeExecutor(1)
    desk = Desk(quick=quick)
    desk.inflight.limit_bytes = 2 * FIRST_BYTES
    desk.decode(HEAVY)
    small = [SMALL] * (INLINE_IMAGES + 1)
    desk.decode(*small)
    desk.others = 1
    quick.finish()
    desk.loop.settle()
    assert desk.taken == [([SMALL[0]] * len(small), [None] * len(small))]
    desk.model.resized_pixels = QUICK_PIXELS // len(small) + 1
    desk.stage = DecodeStage(cast(Any, desk.model), desk.queue, desk.seconds.append)
    desk.decode(*small)
    quick.finish()
    desk.loop.settle()
    assert len(desk.taken) == 1
    desk.others = 1
    desk.threads.finish(1)
    desk.loop.settle()
    assert desk.taken[1] == desk.taken[0]


def test_what_needs_more_memory_is_measured_before_it_starts(desk: Desk) -> None:
    encoded = LARGE * (FIRST_BYTES // PIXEL_BYTES // len(LARGE) + 1)
    desk.inflight.limit_bytes = FIRST_BYTES
    assert len(encoded) > INLINE_BYTES
    assert desk.stage.decode_small(encoded, desk.loop.now + 30) is None
    desk.decode(encoded)
    assert desk.model.measured == []
    assert desk.inflight.used == FIRST_BYTES
    desk.threads.finish()
    desk.loop.settle()
    assert (desk.model.measured, desk.model.decoded) == ([encoded], [])
    assert desk.inflight.used == len(encoded) * PIXEL_BYTES
    desk.threads.finish()
    desk.loop.settle()
    assert desk.taken == [([encoded[0]], [None])]
    assert desk.inflight.used == desk.batcher.reserved_rows == 0


def test_the_budget_is_for_one_image_of_a_request_at_a_time(desk: Desk) -> None:
    desk.decode(*[LARGE] * 8)
    assert desk.inflight.used == LARGE_BYTES


def test_photographs_wait_for_memory_and_not_for_a_refusal(desk: Desk) -> None:
    desk.inflight.limit_bytes = LARGE_BYTES
    for _ in range(8):
        desk.decode(LARGE)
    assert (desk.inflight.used, desk.batcher.reserved_rows) == (LARGE_BYTES, 8)
    for others in reversed(range(8)):
        desk.others = others
        desk.threads.finish()
        desk.loop.settle()
    assert len(desk.taken) == 8
    assert desk.inflight.used == desk.batcher.reserved_rows == 0


@pytest.mark.parametrize("stops_at_error", [False, True])
def test_a_deadline_is_answered_in_time_and_the_rows_are_dropped(
    desk: Desk, stops_at_error: bool
) -> None:
    desk.decode(LARGE, LARGE, stops_at_error=stops_at_error)
    desk.loop.advance(31)
    message = "the request's deadline passed while it was decoded; retry later"
    assert desk.taken == [([], [message, message])]
    assert desk.inflight.used == LARGE_BYTES
    desk.threads.finish()
    desk.loop.settle()
    assert (len(desk.taken), desk.seconds, desk.model.decoded) == (1, [], [])
    assert desk.inflight.used == desk.batcher.reserved_rows == 0


def test_a_bad_header_that_a_thread_reads_stops_the_request(desk: Desk) -> None:
    desk.decode(HEAVY, BAD_HEADER, LARGE, stops_at_error=True)
    desk.threads.finish()
    desk.loop.settle()
    assert desk.taken == [([], [None, "bad header", None])]
    assert desk.model.decoded == []
    assert desk.batcher.reserved_rows == 0
