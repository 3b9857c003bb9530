"""Work on a body: where it is done, what is counted, and that every request gets its answer."""

import asyncio
import gc
import gzip
import threading
import time
import weakref
import zlib
from collections.abc import Callable, Iterator
from typing import Any, cast

import pytest

from service.errors import QueueFullError, ServiceError
from service.inflight import Inflight
from service.lane.exchange import Exchange
from service.protocols.body_work import INLINE_EXPANDED_BYTES, BodyWork
from tests.service.protocols.desk import MAX_BODY_BYTES, Desk

SMALL, LARGE = b"small", bytes(INLINE_EXPANDED_BYTES + 1)


@pytest.fixture
def budget(desk: Desk) -> Iterator[Inflight]:
    """A budget of one body."""
    desk.engine.inflight = Inflight(MAX_BODY_BYTES)
    yield desk.engine.inflight
    desk.engine.inflight = None


class Work(BodyWork):
    """Takes the body and gives back what it holds; notes on which thread."""

    __slots__ = ("__weakref__", "failed", "taken")

    def __init__(self, desk: Desk, body: bytes, coding: str, timeout_s: float = 10) -> None:
        exchange = Exchange("POST", b"/", b"", [], lambda *_: None)
        exchange.body, exchange.content_coding = body, coding.encode()
        super().__init__(desk.engine, exchange, time.monotonic() + timeout_s)
        self.taken: list[bytes] = []
        self.failed: list[ServiceError] = []

    def begin(self) -> None:
        """As those that are derived from it begin."""
        try:
            self._expand(self._take)
        except ServiceError as error:
            self._fail(error)

    def _take(self, body: bytes) -> None:
        self.taken.append(body)
        self._held.give()

    def _fail(self, error: ServiceError) -> None:
        self.failed.append(error)
        self._held.give()

    async def end(self) -> None:
        async with asyncio.timeout(10):
            while not (self.taken or self.failed):
                await asyncio.sleep(0.001)


def done(desk: Desk, work: Work) -> bool:
    """Do the work; return whether it was done before ``begin`` returned."""

    async def run() -> bool:
        work.begin()
        was_inline = bool(work.taken or work.failed)
        await work.end()
        return was_inline

    return desk._runner.run(run())


@pytest.mark.parametrize(
    ("coding", "compress", "body", "is_inline"),
    [
        ("gzip", gzip.compress, SMALL, True),
        ("gzip", gzip.compress, LARGE, False),
        ("deflate", zlib.compress, SMALL, False),  # does not state its size
        ("deflate", zlib.compress, LARGE, False),
        (" Identity", bytes, LARGE, True),
    ],
)
def test_a_large_body_is_expanded_on_a_thread(
    desk: Desk,
    budget: Inflight,
    coding: str,
    compress: Callable[[bytes], bytes],
    body: bytes,
    is_inline: bool,
) -> None:
    work = Work(desk, compress(body), coding)
    assert done(desk, work) == is_inline
    assert (work.taken, work.failed, budget.used) == ([body], [], 0)


@pytest.mark.parametrize(
    ("coding", "compress"), [("gzip", gzip.compress), ("deflate", zlib.compress)]
)
def test_a_body_beyond_the_budget_is_refused_before_it_is_expanded(
    desk: Desk, budget: Inflight, coding: str, compress: Callable[[bytes], bytes]
) -> None:
    budget.take(MAX_BODY_BYTES - len(LARGE) + 1)
    work = Work(desk, compress(LARGE), coding)
    done(desk, work)
    assert work.taken == []
    assert isinstance(work.failed[0], QueueFullError)
    assert budget.used == MAX_BODY_BYTES - len(LARGE) + 1


def test_a_body_that_waits_for_a_thread_is_refused_at_its_deadline(
    desk: Desk, budget: Inflight
) -> None:
    work = Work(desk, gzip.compress(LARGE), "gzip", timeout_s=0.05)
    is_over = threading.Event()

    async def run() -> None:
        desk.decoders.submit(is_over.wait, 10)
        work.begin()
        assert budget.used == len(LARGE)
        await work.end()

    desk.run(run())
    is_over.set()
    desk.decoders.submit(int).result(10)
    assert [error.status for error in work.failed] == [504]
    assert (work.taken, budget.used) == ([], 0)


@pytest.mark.parametrize("where", ["thread", "loop"])
def test_a_bug_is_an_answer_and_logged(
    desk: Desk, budget: Inflight, where: str, caplog: pytest.LogCaptureFixture
) -> None:
    work = Work(desk, zlib.compress(LARGE), "deflate")
    if where == "thread":
        work._exchange.body = cast(Any, "text")
    else:
        work.taken = cast(Any, None)
    desk.run(_begin_and_wait(work))
    assert [error.status for error in work.failed] == [500]
    assert "this is a bug" in caplog.text
    assert budget.used == 0


async def _begin_and_wait(work: Work) -> None:
    work.begin()
    await work.end()


@pytest.mark.parametrize("timeout_s", [0.0, 10.0], ids=["late", "in-time"])
@pytest.mark.parametrize(
    "body", [zlib.compress(LARGE), b"broken", b""], ids=["good", "bad", "empty"]
)
def test_nothing_keeps_a_request_when_its_work_is_done(
    desk: Desk, body: bytes, timeout_s: float
) -> None:
    """Not even a cycle that the collector would find: bodies would stay until it runs."""
    work = Work(desk, body, "deflate", timeout_s)
    done(desk, work)
    desk.decoders.submit(int).result(10)
    desk.run(asyncio.sleep(0.01))
    left = weakref.ref(work)
    gc.disable()
    try:
        del work
        assert left() is None
    finally:
        gc.enable()
