"""One budget for the bodies of a worker: who is read, who waits, who is refused."""

import gc
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from service.inflight import Inflight
from tests.server import RunningServer, Wire, assert_error, chunked, post, running_server
from tests.service.lane.lane_client import PNGS, PREDICT, assert_answers
from tests.service.lane.test_heads import Wire as InProcess

MIB = 1 << 20
BODY = b"\xff\xd8" + bytes(MIB - 2)


@pytest.fixture(scope="module")
def narrow(
    tiny_repository: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningServer]:
    """A server that holds 4 MiB: two of bodies before it pauses, three before it refuses."""
    with running_server(
        tiny_repository,
        tmp_path_factory.mktemp("narrow"),
        max_inflight_mib=4,
        receive_timeout_s=2,
        max_body_bytes=4 * MIB,
    ) as running:
        yield running


@pytest.fixture
def patient(tiny_repository: Path, tmp_path: Path) -> Iterator[RunningServer]:
    """A server that holds 16 MiB: 8 of bodies before it pauses, 12 before it refuses.

    It has time for decode threads that a busy machine keeps waiting.
    """
    with running_server(
        tiny_repository,
        tmp_path,
        max_inflight_mib=16,
        max_body_bytes=4 * MIB,
        receive_timeout_s=30,
    ) as running:
        yield running


def begin(server: RunningServer, size: int = MIB, sent: int = 900_000) -> Wire:
    """Send the head of a body and most of it."""
    wire = Wire(server)
    head = f"POST /predict HTTP/1.1\r\nHost: test\r\nContent-Length: {size}\r\n\r\n"
    return wire.send(head.encode(), BODY[:sent])


@pytest.mark.e2e
def test_more_than_fits_is_answered_in_turn(patient: RunningServer) -> None:
    """12 bodies of 1 MiB at once, from clients that all wait: paused, none lost, none refused.

    Beyond the 8 MiB each may bring the 256 KiB of one read, which is less than what is refused.
    """
    statuses: list[int] = []

    def ask(i: int) -> None:
        request = chunked("/predict", BODY) if i % 2 else post("/predict", BODY)
        with Wire(patient) as wire:
            statuses.append(wire.send(request).answer().status)

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert statuses == [400] * 12


@pytest.mark.e2e
def test_half_received_bodies_do_not_wait_for_each_other(narrow: RunningServer) -> None:
    """Together they exceed what may be held; each is completed only after the others began."""
    wires = [begin(narrow) for _ in range(3)]
    try:
        time.sleep(0.3)
        for wire in wires:
            wire.socket.setblocking(True)
            wire.send(BODY[900_000:])
        for wire in wires:
            assert_error(wire.answer(), 400, "JPEG")
    finally:
        for wire in wires:
            wire.close()


@pytest.mark.e2e
def test_who_holds_the_room_too_long_is_cut_and_who_waits_is_told(narrow: RunningServer) -> None:
    holders = [begin(narrow) for _ in range(4)]
    try:
        time.sleep(0.3)
        with Wire(narrow) as small:  # is answered all the time
            for _ in range(5):
                assert_answers(small.send(PREDICT).answer(), 0)
        answers = [wire.answer() for wire in holders]
        assert_error(answers[0], 408, "expected to arrive whole within 2")
        for answer in answers[1:]:
            assert answer.status in (408, 429)
        late = [answer for answer in answers if answer.status == 429]
        assert late
        assert_error(late[0], 429, "MiB in flight of 4 .* raise FOVEAL_MAX_INFLIGHT_MIB")
        assert int(late[0].headers["retry-after"]) >= 1
    finally:
        for wire in holders:
            wire.close()
    with Wire(narrow) as wire:
        assert_error(wire.send(post("/predict", BODY)).answer(), 400, "JPEG")


@pytest.mark.e2e
def test_a_body_larger_than_the_share_is_read_alone(narrow: RunningServer) -> None:
    with Wire(narrow) as wire:
        assert_error(wire.send(post("/predict", BODY * 4)).answer(), 400, "JPEG")
        assert_answers(wire.send(post("/predict", PNGS[1])).answer(), 1)


def test_every_byte_is_counted_and_given_back() -> None:
    gc.collect()
    wire = InProcess(remembers=True)
    inflight = Inflight(1000)
    wire.lane.bodies._inflight = inflight
    body = b"x" * 60
    wire.send(b"POST /lane HTTP/1.1\r\nHost: a\r\nContent-Length: 60\r\n\r\n" + body[:40])
    assert inflight.used > 40
    wire.send(body[40:])
    assert inflight.used == 0
    wire.lane.route(lambda _path: kept.append)
    for _ in range(2):  # the second waits for its turn
        wire.send(b"POST /lane HTTP/1.1\r\nHost: a\r\nContent-Length: 60\r\n\r\n" + body)
    assert inflight.used == 60
    wire.protocol.connection_lost(None)
    kept.clear()
    assert inflight.used == 0
    wire.close()


def test_a_thread_may_be_the_last_to_hold_a_request() -> None:
    wire = InProcess(remembers=True)
    wire.lane.route(lambda _path: kept.append)
    wire.send(b"POST /lane HTTP/1.1\r\nHost: a\r\nContent-Length: 60\r\n\r\n" + b"x" * 30)
    wire.send(b"x" * 30)
    assert wire.lane.bodies.held == 60
    wire.protocol.connection_lost(None)
    thread = threading.Thread(target=kept.clear)
    thread.start()
    thread.join()
    wire.loop.call_soon(wire.loop.stop)
    wire.loop.run_forever()
    assert wire.lane.bodies.held == 0
    wire.close()


kept: list[object] = []
