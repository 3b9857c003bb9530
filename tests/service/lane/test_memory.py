"""What a connection leaves behind: no reference cycle, no body, no head; caches have a bound."""

import gc
from collections.abc import Iterator

import pytest

from service.errors import DecodeError, ServiceError
from service.lane.exchange import Exchange
from service.lane.heads import MAX_CACHE_BYTES, Heads, frame
from tests.service.lane.test_heads import Wire

SMALL = b"POST /lane HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc"
PIECES = b"POST /lane HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.fixture
def wire() -> Iterator[Wire]:
    gc.disable()
    gc.freeze()  # what other tests loaded is not looked through
    wire = Wire(remembers=True)
    yield wire
    gc.enable()
    wire.close()


def later(exchange: Exchange) -> None:
    """Keep the request waiting, as the queue does."""
    kept.append(exchange)


def fail(_exchange: Exchange) -> None:
    raise DecodeError("no image")


def keep_the_error(exchange: Exchange) -> None:
    """Fail as a decode thread does: the error is kept beside what its frames hold."""
    errors: list[ServiceError] = []
    try:
        fail(exchange)
    except ServiceError as error:
        errors.append(error)
    exchange.fail(errors[0])


kept: list[Exchange] = []


@pytest.mark.parametrize(
    "sent",
    [
        [SMALL],
        [SMALL, SMALL],
        [SMALL * 3],
        [SMALL[:-1]],
        [SMALL[:-1], b"c"],
        [SMALL[:20]],
        [PIECES, b"1\r\na\r\n" * 9, b"0\r\n\r\n", SMALL],
        [SMALL, b"garbage\r\n\r\n"],
        [b"POST /lane HTTP/1.1\r\n\r\n"],
        [b"POST /lane HTTP/1.1\r\nHost: a\r\nContent-Length: 99\r\n\r\n" + b"x" * 80],
        [b"POST /lane HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\n", SMALL],
        [],
    ],
    ids=[
        "one",
        "known",
        "pipeline",
        "unfinished",
        "two-reads",
        "half-head",
        "chunks",
        "garbage",
        "no-host",
        "too-large",
        "upgrade",
        "nothing",
    ],
)
@pytest.mark.parametrize("handle", [None, fail, keep_the_error, later])
def test_a_connection_leaves_no_cycle(
    wire: Wire, sent: list[bytes], handle: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    if handle is not None:
        monkeypatch.setattr(wire, "handle", handle)
    wire.lane.route(lambda _path: wire.handle)
    for data in sent:
        wire.send(data)
    wire.protocol.connection_lost(None)
    wire.protocol = None  # type: ignore[assignment]
    for exchange in kept:
        exchange.respond(200, b"too late")
    kept.clear()
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        gc.collect()
        left = [thing for thing in gc.garbage if type(thing).__module__.startswith("service.")]
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
    assert not left


@pytest.mark.parametrize("handle", [None, fail])
def test_an_idle_connection_holds_no_request(
    wire: Wire, handle: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    if handle is not None:
        monkeypatch.setattr(wire, "handle", handle)
    path = b"/lane" + b"x" * 5000
    body = b"\0" * 64
    wire.send(b"POST %s HTTP/1.1\r\nHost: a\r\nA: %s\r\n" % (path, b"y" * 5000))
    wire.send(b"Content-Length: 64\r\n\r\n")
    for i in range(64):
        wire.send(body[i : i + 1])
    assert wire.transport.written.startswith(b"HTTP/1.1 ")
    wire.seen.clear()
    alive = [thing for thing in gc.get_objects() if isinstance(thing, Exchange)]
    assert not alive
    reception = wire.protocol.reception
    assert (reception.url, reception.headers) == (b"", [])
    assert wire.lane.bodies.held == 0


def test_long_heads_do_not_fill_the_memory() -> None:
    heads = Heads()
    headers = [(b"content-length", b"1"), *[(b"a", b"1")] * 300]
    for i in range(2000):
        framed = frame(b"POST /%d HTTP/1.1\r\nContent-Length: 1\r\n%s\r\n1" % (i, b"a:1\r\n" * 300))
        assert framed is not None
        heads.learn(framed[0], Exchange("POST", b"/", b"", headers, lambda *_: None))
        assert 0 < heads.used_bytes <= MAX_CACHE_BYTES
    assert 0 < len(heads) < 100
