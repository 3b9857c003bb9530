"""What arrives on one connection: fed to the parser in turns, counted, paused, learned.

Stands between uvicorn's protocol and the lane's: it knows how bytes become a request, and nothing
of whose a request is or how it is answered.
"""

import time
from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from service.errors import ServiceError
from service.lane.bodies import Claim
from service.lane.heads import Frame
from service.lane.lane import Lane
from service.lane.reception import Reception
from service.lane.request import LaneExchange

# Requests that a client may send ahead before it is read no further.
MAX_PIPELINE = 32
# One read may bring thousands of small requests or chunks: other connections get their turn after
# this much of the loop's time, which is looked at after each slice.
_TURN_S = 0.002
_SLICE_BYTES = 4 << 10


class Intake(HttpToolsProtocol):
    """The reading half of a connection.

    Args:
        lane: What all connections share.
        arguments: uvicorn's.
        options: uvicorn's.
    """

    def __init__(self, lane: Lane, *arguments: Any, **options: Any) -> None:
        self.lane = lane
        self.reception = reception = Reception(lane)
        # The parser, made by uvicorn, takes these instead of the methods: no call in between.
        self.on_message_begin = reception.begin  # type: ignore[method-assign]
        self.on_url = reception.add_url  # type: ignore[method-assign]
        self.on_header = reception.add_header  # type: ignore[method-assign]
        super().__init__(*arguments, **options)
        self._parsed: LaneExchange | None = None  # what the parser completed last
        self._claim: Claim | None = None  # of the request that is arriving
        self._unread = b""  # the end of a long read, for the next turn of the loop
        self._is_upgrade = False  # whether the parser leaves a body unread
        self._is_primed = True  # whether the parser reads requests, not the head given by us

    def refuse(self, error: ServiceError) -> None:
        """Answer the request that is arriving with an error, and read no further one."""
        raise NotImplementedError

    def _feed(self, data: bytes, framed: Frame | None = None, *, is_one: bool = False) -> None:
        """Feed the parser, a long read in slices and turns; then count what is incomplete.

        Args:
            data: What was read.
            framed: The head to learn, if it is one whole request.
            is_one: Whether it is known to be one whole request.
        """
        reception = self.reception
        if self._unread:
            self._unread += data
            return
        if is_one or len(data) <= _SLICE_BYTES or reception.expects_body(len(data)):
            self._parse(data)
        else:
            self._parse_slices(data)
        if reception.is_deaf:
            return
        if reception.is_receiving:
            self._count_arriving()
            return
        if framed is not None and self._parsed is not None:
            self._learn(self._parsed, framed)
        self._parsed = None
        reception.forget()

    def _parse_slices(self, data: bytes) -> None:
        until = time.monotonic() + _TURN_S
        for start in range(0, len(data), _SLICE_BYTES):
            if self.reception.is_deaf:
                return
            if start and time.monotonic() > until:
                self._unread = data[start:]
                self.flow.pause_reading()
                self.loop.call_soon(self._feed_unread)
                return
            self._parse(data[start : start + _SLICE_BYTES])

    def _feed_unread(self) -> None:
        data, self._unread = self._unread, b""
        if data and not self.reception.is_deaf:
            self._feed(data)
            self._resume_reading()

    def _parse(self, data: bytes) -> None:
        """Feed the parser, unless the connection is on its way out."""
        reception = self.reception
        while data and not reception.is_deaf:
            try:
                data = reception.feed(self.parser, data)
            except ServiceError as error:
                self.refuse(error)
                return
            if self._is_upgrade:
                self._is_upgrade = self._is_primed = False
                self.parser = httptools.HttpRequestParser(self)
                self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn's
                reception.prime(self.parser)
                self._is_primed = True

    def _count_arriving(self) -> None:
        """Count what has arrived of a request, and wait or refuse it if there is no room."""
        reception = self.reception
        if not (reception.is_in_head or isinstance(self.cycle, LaneExchange)):
            return
        if self._claim is None:
            self._claim = Claim(self.lane.bodies)
        self._claim.grow(reception.received_bytes)
        try:
            if not self.lane.bodies.must_wait(self):
                return
        except ServiceError as error:
            self.refuse(error)
            return
        reception.was_paused = reception.is_paused = True
        self.flow.pause_reading()

    def read_on(self) -> None:
        """Continue to read a request, as there is room again."""
        self.reception.is_paused = False
        self._resume_reading()

    def _is_late(self, now: float) -> bool:
        """Return whether the request takes too long to arrive, of the time in which it is read."""
        reception = self.reception
        is_held = self.flow.write_paused or len(self.pipeline) >= MAX_PIPELINE
        if is_held and reception.is_receiving:
            reception.since = now
        return reception.is_late(now)

    def _learn(self, parsed: LaneExchange, framed: Frame) -> None:
        """Cache the head of the request that the parser has just completed."""
        if (
            parsed.method == "POST"
            and parsed.keep_alive
            and self.reception.declared_bytes == framed[2]
        ):
            self.lane.heads.learn(framed[0], parsed)

    def _hold(self, exchange: LaneExchange) -> None:
        """Count a whole request until the last that holds it drops it."""
        exchange.claim = claim = self._claim or Claim(self.lane.bodies)
        claim.complete(self.reception.body_bytes)
        if self._claim is not None:
            self._end_arrival()
        elif self.lane.bodies.is_full:  # what came in pieces had its room before
            exchange.refuse_with(self.lane.bodies.full())

    def _end_arrival(self) -> None:
        """Stop to count and to wait, as the request is whole or refused."""
        if self._claim is not None:
            self._claim = None
            self.lane.bodies.leave(self)

    def _resume_reading(self) -> None:
        """Continue to read, unless the client sent enough ahead or does not read its answers.

        The connection is read while a request is answered: so a client that left is noticed.
        """
        if len(self.pipeline) >= MAX_PIPELINE or self.flow.write_paused:
            return
        if not (self._unread or self.reception.is_paused):
            self.flow.resume_reading()
