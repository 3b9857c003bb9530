"""Turns between models on the loop: a burst for one does not delay the others."""

import functools
from collections.abc import Callable
from pathlib import Path

from service.access.door import Door
from service.access.keys import Keys, add_key
from service.errors import InvalidInputError
from service.lane.exchange import Exchange, Handler
from service.lane.request import LaneExchange
from service.lane.turns import SHARE_S, SHARED_S, Turns
from tests.service.pipeline.simulator import FakeLoop

Answered = list[tuple[bytes, int]]


class Desk:
    """Routes that take a part of a share for each request, and the turns between them."""

    def __init__(
        self, guard: Callable[..., Callable[[bytes], Handler | None]] = lambda f: f
    ) -> None:
        self.loop = FakeLoop()
        self.guard = guard
        self.handled: Answered = []
        self.routes: dict[bytes, Handler] = {
            b"/a": self.handle,
            b"/b": functools.partial(self.handle),
        }
        self.turns = Turns(self.routes.get, self.route, self.loop, self.loop.clock)

    def route(self, find: Callable[[bytes], Handler | None]) -> None:
        self.find = self.guard(find)

    def handle(self, exchange: Exchange) -> None:
        self.loop.now += SHARE_S * 0.4
        self.handled.append((exchange.path, int(exchange.query)))
        if exchange.query == b"13":
            raise InvalidInputError("thirteen")
        exchange.respond(200, b"")

    def ask(self, path: bytes, number: int, *headers: tuple[bytes, bytes]) -> LaneExchange:
        handler = self.find(path)
        assert handler is not None
        exchange = LaneExchange(handler, "POST", path, b"%d" % number, [*headers], _keep)
        exchange.is_started = exchange.is_whole = True
        exchange.advance(self.loop.now)
        return exchange

    def share(self) -> None:
        self.turns.observe("a")
        self.turns.observe("b")
        assert self.turns.are_on

    def count(self, path: bytes) -> int:
        return sum(handled == path for handled, _ in self.handled)


def _keep(_exchange: Exchange, *_answer: object) -> None:
    """Stand for a connection."""


def test_routes_are_untouched_while_one_model_is_asked() -> None:
    desk = Desk()
    for _ in range(9):
        desk.turns.observe("a")
        desk.loop.advance(0.01)
    assert (desk.find(b"/a"), desk.find(b"/none")) == (desk.routes[b"/a"], None)
    for number in range(64):
        desk.ask(b"/a", number)
    assert desk.count(b"/a") == 64


def test_a_burst_gets_its_share_of_a_turn_and_another_model_its_own() -> None:
    desk = Desk()
    desk.share()
    for number in range(20):
        desk.ask(b"/a", number)
    desk.ask(b"/b", 0)
    assert desk.handled == [(b"/a", 0), (b"/a", 1), (b"/a", 2), (b"/b", 0)]
    desk.loop.turn()
    assert desk.count(b"/a") == 6
    desk.ask(b"/a", 20)
    desk.ask(b"/b", 1)
    assert (desk.count(b"/a"), desk.count(b"/b")) == (6, 2), "nothing passes those that wait"
    desk.loop.settle()
    assert [number for path, number in desk.handled if path == b"/a"] == [*range(21)]


def test_turns_end_soon_after_another_model_was_asked() -> None:
    desk = Desk()
    desk.share()
    desk.loop.advance(SHARED_S * 0.9)
    desk.turns.observe("a")
    desk.loop.advance(SHARED_S * 0.9)
    assert desk.turns.are_on
    for number in range(5):
        desk.ask(b"/a", number)
    desk.loop.advance(SHARED_S * 0.2)
    assert not desk.turns.are_on
    assert desk.find(b"/a") is desk.routes[b"/a"]
    assert desk.count(b"/a") == 5, "what waited was handled"
    desk.loop.advance(5)
    desk.turns.observe("b")
    assert not desk.turns.are_on, "one model after another is no company"
    assert desk.loop.timers == []


def test_a_wait_keeps_the_time_of_arrival_and_drops_clients_that_left() -> None:
    desk = Desk()
    desk.share()
    waiting = [desk.ask(b"/a", number) for number in range(6)]
    arrived_at = waiting[5].received_at
    waiting[4].disconnect()
    desk.loop.settle()
    assert (b"/a", 4) not in desk.handled
    assert waiting[5].received_at == arrived_at < desk.loop.now


def test_an_error_after_a_wait_is_answered() -> None:
    desk = Desk()
    desk.share()
    first = desk.ask(b"/a", 13)
    others = [desk.ask(b"/a", number) for number in (1, 2, 3, 13)]
    desk.loop.settle()
    assert [exchange.status for exchange in (first, *others)] == [400, 200, 200, 200, 400]


def test_a_wait_counts_once_against_a_key(tmp_path: Path) -> None:
    key = add_key(tmp_path / "keys.toml", "app", 1, 8)
    keys = Keys(tmp_path / "keys.toml")
    desk = Desk(Door(keys, None).guard)
    desk.share()
    asked = [
        desk.ask(b"/a", number, (b"authorization", b"Bearer " + key.encode()))
        for number in range(8)
    ]
    desk.loop.settle()
    assert [exchange.status for exchange in asked] == [200] * 8
    assert keys.tally == {("app", "admitted"): 8}
