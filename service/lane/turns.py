"""Turns on the event loop: while several models are asked, no burst for one delays the others.

Requests of 64 connections are read in one turn of the loop, and what comes meanwhile waits until
all of them are decoded. So each route gets a share of a turn; its further requests wait for the
next one.

Costs nothing while one model is asked: then routes are as they were. Knows no model, only handlers,
and that batches of different models ran. gRPC takes no turns.
"""

import functools
import time
from collections import deque
from collections.abc import Callable
from typing import Protocol

from service.lane.exchange import Exchange, Handler
from service.lane.request import LaneExchange


class Loop(Protocol):
    """What turns need of an event loop."""

    def call_soon(self, callback: Callable[[], None], /) -> object:
        """Call in the next turn."""

    def call_later(self, delay: float, callback: Callable[[], None], /) -> object:
        """Call after ``delay`` seconds."""


Find = Callable[[bytes], Handler | None]

# What one route may take of one turn: two or three small images. Measured on two cores, small ones
# beside 64 connections that ask another model: p99 of 20 times that alone without turns, 7 with 0.2
# ms, 3.5 with 0.1, 2.8 with 0.06, 1.6 with 0.03; the burst gets 14,000, 13,000, 12,000, 9,500 and
# 7,000 requests/s.
SHARE_S = 60e-6
# Turns are taken until so long after two models ran side by side: a model that is asked now and
# then must not cost another its throughput all the time.
SHARED_S = 0.25


class Turns:
    """The turns of one process.

    Args:
        find: Returns the handler of a raw path.
        route: Called with the ``find`` that is to be used from now on.
        loop: Event loop; all methods are called on its thread.
        clock: Monotonic seconds.

    Attributes:
        are_on: Whether several models are asked, so that turns are taken.
    """

    def __init__(
        self,
        find: Find,
        route: Callable[[Find], None],
        loop: Loop,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._find = find
        self._route = route
        self._loop = loop
        self._clock = clock
        self.are_on = False
        self._model: object = None
        self._changed_at = self._until = 0.0
        self._is_turning = False
        self._spent_s: dict[Handler, float] = {}
        self._waiting: dict[Handler, deque[LaneExchange]] = {}
        route(find)

    def observe(self, model: object) -> None:
        """Note that a batch of a model ran."""
        if model is self._model:
            return
        self._model = model
        previous, self._changed_at = self._changed_at, self._clock()
        if self._changed_at < previous + SHARED_S:
            self._until = self._changed_at + SHARED_S
            if not self.are_on:
                self.are_on = True
                self._route(self._find_in_turn)
                self._loop.call_later(SHARED_S, self._end)

    def _end(self) -> None:
        left_s = self._until - self._clock()
        if left_s > 0:
            self._loop.call_later(left_s, self._end)
        else:
            self.are_on = False
            self._route(self._find)

    def _find_in_turn(self, path: bytes) -> Handler | None:
        handler = self._find(path)
        return None if handler is None else functools.partial(self._handle, handler)

    def _handle(self, handler: Handler, exchange: Exchange) -> None:
        """Handle a request now, or in a later turn if its route has used up its share of this."""
        if handler in self._waiting or self._spent_s.get(handler, 0.0) >= SHARE_S:
            assert isinstance(exchange, LaneExchange), "only the lane's get here; this is a bug"
            self._waiting.setdefault(handler, deque()).append(exchange)
            return
        started = self._clock()
        try:
            handler(exchange)
        finally:
            self._spend(handler, started)

    def _spend(self, handler: Handler, started: float) -> None:
        if not self._is_turning:
            self._is_turning = True
            self._loop.call_soon(self._turn)
        self._spent_s[handler] = self._spent_s.get(handler, 0.0) + self._clock() - started

    def _turn(self) -> None:
        """Begin a turn: every route may spend its share again, what waits first."""
        self._is_turning = False
        self._spent_s.clear()
        for handler in list(self._waiting):
            waiting = self._waiting[handler]
            while waiting and self._spent_s.get(handler, 0.0) < SHARE_S:
                exchange = waiting.popleft()
                started = self._clock()
                if not exchange.disconnected:
                    exchange.handler = handler  # what stands before it has let the request in
                    exchange.advance(exchange.received_at)
                self._spend(handler, started)
            if not waiting:
                del self._waiting[handler]
