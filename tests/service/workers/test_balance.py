"""Who is ahead pauses; a connection that nobody else took is accepted after the pause."""

import asyncio
import contextlib
import socket
from array import array

import pytest
import uvloop

from service.workers.balance import AFTER_PAUSE, AHEAD, Balance
from service.workers.board import NOBODY


def accept(shares: "array[int]", clients: int) -> list[int]:
    """Accept connections as worker 0; return the numbers of them after which it paused."""
    loop = uvloop.new_event_loop()
    try:
        return loop.run_until_complete(_accept(shares, clients))
    finally:
        loop.close()


async def _accept(shares: "array[int]", clients: int) -> list[int]:
    loop = asyncio.get_running_loop()
    accepted: list[asyncio.BaseTransport] = []
    pauses: list[int] = []
    are_all = asyncio.Event()
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    balance = Balance(loop, listener.fileno(), shares, 0)

    class Counted(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            accepted.append(transport)
            was_paused = balance.is_paused
            balance.opened(len(accepted))
            if balance.is_paused and not was_paused:
                pauses.append(len(accepted))
            if len(accepted) == clients:
                are_all.set()

    server = await loop.create_server(Counted, sock=listener)
    with contextlib.ExitStack() as stack:
        for _ in range(clients):
            stack.enter_context(socket.create_connection(listener.getsockname()))
        await asyncio.wait_for(are_all.wait(), 5)
    balance.close()
    for transport in accepted:
        transport.close()
    server.close()
    await server.wait_closed()
    return pauses


def test_everybody_else_is_ahead() -> None:
    assert accept(array("q", [0, 20]), 12) == []


def test_nobody_else_is_there() -> None:
    assert accept(array("q", [0, NOBODY]), 12) == []


def test_another_has_none_and_takes_none() -> None:
    """As when it hangs: pauses, and between them a few connections each."""
    first = AHEAD + 1
    assert accept(array("q", [0, 0]), 12) == list(range(first, 13, AFTER_PAUSE))


@pytest.mark.parametrize("count", [0, 5])
def test_connections_are_counted(count: int) -> None:
    shares = array("q", [0, 0])
    loop = uvloop.new_event_loop()
    Balance(loop, 0, shares, 0).closed(count)
    loop.close()
    assert shares[0] == count


async def _held(listener: socket.socket) -> tuple[bool, bool]:
    """Return whether a connection is accepted while the socket is held, and after its release."""
    loop = asyncio.get_running_loop()
    is_accepted = asyncio.Event()

    class Counted(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            is_accepted.set()
            transport.close()

    balance = Balance(loop, listener.fileno(), array("q", [0, 0]), 0)
    balance.hold()  # a worker may hold before it serves
    server = await loop.create_server(Counted, sock=listener)
    await asyncio.sleep(0.01)  # the socket is registered in the next turn
    balance.hold()
    with socket.create_connection(listener.getsockname()):
        await asyncio.sleep(0.2)
        was_accepted = is_accepted.is_set()
        balance.release()
        await asyncio.wait_for(is_accepted.wait(), 5)
    server.close()
    await server.wait_closed()
    return was_accepted, is_accepted.is_set()


def test_who_loads_leaves_connections_to_others() -> None:
    loop = uvloop.new_event_loop()
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        assert loop.run_until_complete(_held(listener)) == (False, True)
    loop.close()
