"""The queue in front of the card: batches of what waits, the CPU's threads for what it leaves."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, cast

import numpy as np
import pytest
from numpy.typing import NDArray

from models.image import PIXEL_BYTES
from service.errors import ServiceError
from service.inflight import Inflight
from service.pipeline.decode import INLINE_PIXELS, DecodeStage
from service.pipeline.decode_queue import DecodeQueue
from service.pipeline.limits import BatchLimits
from tests.service.pipeline.simulator import FakeExecutor, World, row
from tests.service.pipeline.test_decode import Model

LARGE = INLINE_PIXELS + 1
PIXELS = 10


class Ticket(NamedTuple):
    encoded: bytes
    size: int


class FakeCard:
    """Takes what begins with ``C`` and decodes it unless an ``x`` follows."""

    most_images = 4
    most_bytes = 100 * PIXELS
    kinds = frozenset({"420"})

    def __init__(self) -> None:
        self.batches: list[int] = []
        self.on_batch: Callable[[], None] = lambda: None

    def ticket(self, encoded: bytes) -> Ticket | str:
        if not encoded.startswith(b"C"):
            return "format"
        return Ticket(encoded, 60 * PIXELS if encoded[1:2] == b"w" else PIXELS)

    def rows(self, tickets: Sequence[Ticket]) -> list[NDArray[np.uint8] | None]:
        self.batches.append(len(tickets))
        self.on_batch()
        return [None if t.encoded[1:2] == b"x" else row(t.encoded[-1]) for t in tickets]


class Desk:
    """A stage whose model has a card; what it passed on and counted."""

    def __init__(self) -> None:
        self.world = World(BatchLimits(max_batch_size=64, max_wait_s=50), threads=1, full_s=4.0)
        self.loop = self.world.loop
        self.threads, self.thread = FakeExecutor(2), FakeExecutor(1)
        self.inflight = Inflight(1 << 30)
        self.queue = DecodeQueue(
            self.threads, 2, self.loop, self.inflight, self.loop.clock, card=self.thread
        )
        self.card = FakeCard()
        self.model = Model(self.world.batcher)
        cast(Any, self.model).card = self.card
        self.reasons: list[str] = []
        self.taken: list[tuple[list[int], list[str | None]]] = []
        self.seconds: list[float] = []
        self.stage = DecodeStage(
            cast(Any, self.model), self.queue, self.seconds.append, self.reasons.append
        )

    def take(self, rows: list[Any], errors: list[ServiceError | None]) -> None:
        messages = [None if error is None else error.message for error in errors]
        self.taken.append(([int(r[3, 0, 0]) for r in rows], messages))

    def ask(self, *images: bytes, after_s: float = 30.0) -> Any:
        return self.stage.decode(images, self.loop.now + after_s, self.take)

    def scan(self) -> None:
        """Let the threads do their steps, until none is left."""
        while self.threads.is_busy:
            self.threads.finish()
            self.loop.settle()

    def decode(self) -> None:
        self.thread.finish()
        self.loop.settle()


def image(last: int, first: bytes = b"C") -> bytes:
    return first.ljust(LARGE, b".") + bytes([last])


@pytest.fixture
def desk() -> Desk:
    return Desk()


def test_a_batch_is_what_waits_while_another_is_decoded(desk: Desk) -> None:
    for number in range(7):
        desk.ask(image(number))
    desk.scan()
    while desk.thread.is_busy:
        desk.decode()
    assert desk.card.batches[0] < 4, "the first does not wait for others"
    assert max(desk.card.batches) == 4, "later ones are full"
    assert sorted(rows[0] for rows, _ in desk.taken) == list(range(7))
    assert desk.model.decoded == [], "the CPU decodes nothing"
    assert desk.reasons == [""] * 7
    assert len(desk.seconds) == 7
    assert (desk.inflight.used, desk.world.batcher.reserved_rows) == (0, 0)
    assert desk.loop.timers == []


def test_what_the_card_leaves_is_decoded_on_a_thread(desk: Desk) -> None:
    desk.ask(image(1, b"Cx"))
    desk.scan()
    desk.decode()
    assert desk.taken == [], "not yet"
    desk.scan()
    assert desk.taken == [([ord("C")], [None])]  # as the model decodes it
    assert desk.reasons == ["refused"]


def test_a_form_goes_to_both_and_comes_back_in_order(desk: Desk) -> None:
    form = [image(number, b"C" if number % 3 else b"P") for number in range(11)]
    form[4] = image(4, b"Cx")
    form[6] = b"header"
    desk.ask(*form)
    desk.scan()
    while desk.thread.is_busy:
        desk.decode()
    assert desk.card.batches == [4, 3]
    assert desk.taken == []
    desk.scan()
    (rows, errors) = desk.taken[0]
    assert rows == [ord("P"), 1, 2, ord("P"), ord("C"), 5, 7, 8, ord("P"), 10]
    assert [at for at, error in enumerate(errors) if error] == [6]
    assert sorted(desk.reasons) == sorted([""] * 6 + ["refused"] + ["format"] * 3)


def test_a_batch_is_bounded_in_pixels(desk: Desk) -> None:
    desk.ask(image(1, b"Cw"), image(2, b"Cw"))
    desk.scan()
    desk.decode()
    desk.decode()
    assert desk.card.batches == [1, 1]
    assert desk.taken == [([1, 2], [None, None])]


def test_a_deadline_is_answered_while_the_card_is_at_work(desk: Desk) -> None:
    desk.ask(image(1), after_s=5)
    desk.scan()
    desk.ask(image(2), after_s=6)
    desk.scan()
    desk.loop.advance(10)
    assert ["deadline" in str(errors[0]) for _, errors in desk.taken] == [True, True]
    desk.decode()
    assert (len(desk.taken), desk.card.batches) == (2, [1]), "what waited never started"
    assert not desk.thread.is_busy
    assert (desk.world.batcher.reserved_rows, desk.inflight.used) == (0, 0)
    assert desk.loop.timers == []


def test_who_leaves_is_dropped_before_the_card(desk: Desk) -> None:
    desk.ask(image(1))
    desk.scan()
    leave = desk.ask(image(2))
    desk.scan()
    leave()
    assert len(desk.taken) == 1 and desk.taken[0][1] != [None]
    desk.decode()
    assert not desk.thread.is_busy
    assert desk.taken[1] == ([1], [None])


def test_what_waits_for_the_card_counts_in_the_estimate(desk: Desk) -> None:
    desk.card.on_batch = lambda: setattr(desk.loop, "now", desk.loop.now + 3)
    desk.ask(image(1))
    desk.scan()
    desk.ask(*[image(2)] * 4)
    desk.scan()
    assert desk.queue.wait_s("other") == 0.0, "nothing is known of the card"
    desk.decode()
    assert desk.queue.wait_s("other") == 0.0, "nothing waits"
    desk.ask(*[image(2)] * 4)
    desk.scan()
    assert desk.queue.wait_s("other") == 4 * 3.0


def test_scans_do_not_make_the_queue_look_slow(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps that end at the card are done: else the estimate would rise without end."""
    monkeypatch.setattr(desk.stage, "_is_light", lambda _encoded: False)
    for number in range(200):
        desk.ask(image(number))
        desk.scan()
        while desk.thread.is_busy:
            desk.decode()
    assert desk.queue._done > 0.9
    assert len(desk.taken) == 200


def test_a_thread_holds_no_pixels_while_it_scans(desk: Desk) -> None:
    desk.ask(*[image(1)] * 40)  # too many bytes to be measured on the loop
    assert desk.inflight.used < 40 * LARGE * PIXEL_BYTES
    desk.scan()
    assert desk.inflight.used == 0, "the card's pixels are in its own memory"
